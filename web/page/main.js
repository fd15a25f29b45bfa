// The page begins here.

import { deviceFacts, program, run, secondsToOpen, start as startEngine } from './engine.js';
import * as state from './state.js';
import { choose, current, t as text, unequal } from './strings.js';
import { missing } from './missing.js';
import { attempt, element, report, showTab, startTabs } from './page.js';
import * as draw from './draw.js';
import * as sample from './sample.js';
import * as train from './train.js';
import * as inside from './inside.js';

function language(wanted) {
  choose(wanted);
  element('language').textContent = wanted === 'zh' ? 'English' : '中文';
  element('language').lang = wanted === 'zh' ? 'en' : 'zh';
}

async function describeDevice() {
  const info = (await navigator.gpu.requestAdapter())?.info ?? {};
  const name = [info.vendor, info.architecture, info.device, info.description].filter(Boolean).join(' ') || text('device.unnamed');
  element('device').textContent = text('device', { name, kernels: text(`kernels.${deviceFacts().kernels}`) });
}

async function showMissing({ reason, remedies }) {
  element('missing').hidden = false;
  element('missing-reason').textContent = reason;
  element('missing-remedies').replaceChildren(...remedies.map((remedy) => Object.assign(document.createElement('li'), { textContent: remedy })));
  element('tabs').hidden = true;
  element('device').hidden = true;
}

/// Files of a drop by their paths, folders walked through.
async function dropped(transfer) {
  const files = [];
  const walk = async (entry, path) => {
    if (entry.isFile) files.push([path + entry.name, await new Promise((resolve, reject) => entry.file(resolve, reject))]);
    else {
      const reader = entry.createReader();
      for (let some; (some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))).length > 0;) {
        for (const inner of some) await walk(inner, `${path}${entry.name}/`);
      }
    }
  };
  for (const entry of [...transfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean)) await walk(entry, '');
  // A folder that was dropped alone is itself the model.
  const tops = new Set(files.map(([path]) => path.split('/')[0]));
  const only = tops.size === 1 && files.every(([path]) => path.includes('/'));
  return { name: [...tops][0] ?? '', files: only ? files.map(([path, file]) => [path.split('/').slice(1).join('/'), file]) : files };
}

function startDrops() {
  addEventListener('dragover', (event) => { event.preventDefault(); document.body.classList.add('dropping'); });
  addEventListener('dragleave', (event) => { if (!event.relatedTarget) document.body.classList.remove('dropping'); });
  addEventListener('drop', (event) => {
    event.preventDefault();
    document.body.classList.remove('dropping');
    attempt(async () => {
      const { name, files } = await dropped(event.dataTransfer);
      if (files.length === 0) return;
      const [path, file] = files[0];
      if (files.length === 1 && file.type.startsWith('image/')) {
        showTab('draw');
        await draw.openPicture(file);
      } else if (files.length === 1 && /\.zip$/i.test(path) && state.get('tab') === 'train') await train.load(file);
      else {
        await sample.openModel(files, name);
        showTab('sample');
      }
    });
  });
}

async function main() {
  startTabs();
  const wanted = () => state.get('lang', navigator.languages?.[0]?.startsWith('zh') ? 'zh' : 'en');
  language(wanted());
  element('language').onclick = () => {
    state.set('lang', current() === 'zh' ? 'en' : 'zh');
    language(wanted());
  };
  const lack = await missing();
  document.addEventListener('language', async () => { if (lack) showMissing(await missing() ?? lack); });
  if (lack) return showMissing(lack);
  element('device').textContent = text('loading');
  try {
    await startEngine();
  } catch (error) {
    if (error.name === 'NoDevice') return showMissing({ reason: text('missing.adapter'), remedies: [error.message] });
    return showMissing({ reason: text('missing.wasm', { message: error.message ?? error }), remedies: [text('missing.other')] });
  }
  await sample.start();
  draw.start();
  train.start();
  inside.start();
  startDrops();
  showTab(state.get('tab', 'draw'));
  state.onChange(() => { language(wanted()); draw.read(); sample.read(); showTab(state.get('tab', 'draw')); });
  await describeDevice();
  document.addEventListener('language', () => attempt(describeDevice));
  document.body.dataset.ready = secondsToOpen().toFixed(2);
}

addEventListener('unhandledrejection', (event) => report(event.reason));
// For the tests of the page, and for whoever plays with it in the console.
window.inkwash = { program, run, unequal };
main();
