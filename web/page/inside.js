// Look inside: shaders in an editor, times, activations, the plan.

import { deviceFacts, kept, openDevice, program, reopen, run, shadersInUse } from './engine.js';
import * as state from './state.js';
import { t as text } from './strings.js';
import { channelsOf, show, showGrid } from './pictures.js';
import { attempt, editor, element, notice, whenShown } from './page.js';
import { noisyAt } from './draw.js';
import * as sample from './sample.js';
import * as train from './train.js';

/// The embedded shaders: { name, text, imports, entries }.
let shaders = null;
/// Texts in the editor that differ from them, by name.
const edits = new Map();
let openFile = null;

/// The first line of an embedded shader that matches.
export function lineOf(name, pattern) {
  shaders ??= JSON.parse(program.shaders());
  const found = shaders.find((shader) => shader.name === name)?.text.split('\n').find((line) => pattern.test(line));
  return (found ?? '').trim();
}

const original = (name) => shaders.find((shader) => shader.name === name).text;
const code = () => element('code');

function list() {
  const select = element('shader');
  const group = (label, ofGroup) => {
    const made = document.createElement('optgroup');
    made.label = label;
    for (const { name } of shaders.filter(ofGroup)) made.append(new Option(edits.has(name) ? text('shader.edited.mark', { name }) : name, name));
    return made;
  };
  select.replaceChildren(
    group(text('shader.kernels'), ({ entries }) => entries.length > 0),
    group(text('shader.library'), ({ entries }) => entries.length === 0),
  );
  if (openFile) select.value = openFile;
  element('shader-back').disabled = edits.size === 0 && Object.keys(shadersInUse()).length === 0;
  if (!element('shader-state').dataset.kept) element('shader-state').textContent = edits.size ? text('shader.edited', { n: edits.size }) : '';
}

function gutter(bad = 0) {
  const lines = code().value.split('\n').length;
  element('gutter').innerHTML = Array.from({ length: lines }, (_, i) => (i + 1 === bad ? `<b>${i + 1}</b>` : `${i + 1}\n`)).join('');
  element('gutter').scrollTop = code().scrollTop;
}

export function open(name) {
  if (!shaders.some((shader) => shader.name === name)) return;
  openFile = name;
  state.set('shader', name);
  code().value = edits.get(name) ?? original(name);
  code().scrollTop = 0;
  said('');
  element('shader-error').hidden = true;
  element('doctor').replaceChildren();
  list();
  gutter();
}

function edited() {
  if (code().value === original(openFile)) edits.delete(openFile);
  else edits.set(openFile, code().value);
  said('');
  list();
  gutter();
}

function said(message) {
  element('shader-state').dataset.kept = message ? '1' : '';
  element('shader-state').textContent = message;
}

/// Shows an error of a shader at its line.
function showError(error) {
  if (error.name !== 'Shader') throw error;
  const box = element('shader-error');
  const [, file, line] = /^(.*)\.wgsl:(\d+)$/.exec(error.origin ?? '') ?? [];
  const here = file && (file === openFile || file.endsWith(`/${openFile}`) || file === openFile.replace(/^lib\//, ''));
  const message = document.createElement('p');
  message.className = 'failed';
  if (here) message.textContent = text('shader.line', { line, message: error.message });
  else message.textContent = error.origin ? text('shader.elsewhere', { origin: error.origin, message: error.message }) : error.message;
  box.replaceChildren(message);
  if (error.listing) {
    const listing = document.createElement('pre');
    listing.textContent = error.listing;
    box.append(listing);
  }
  box.hidden = false;
  if (!here) return;
  gutter(Number(line));
  const start = code().value.split('\n').slice(0, line - 1).reduce((sum, text) => sum + text.length + 1, 0);
  code().focus();
  code().setSelectionRange(start, start + (code().value.split('\n')[line - 1]?.length ?? 0));
  code().scrollTop = Math.max(0, (line - 6) * 21);
}

async function checked(work) {
  element('shader-error').hidden = true;
  gutter();
  try {
    await work(JSON.stringify(Object.fromEntries(edits)));
    return true;
  } catch (error) {
    showError(error);
    return false;
  }
}

const check = () => checked(async (texts) => {
  program.check_shaders(texts);
  // And by the browser's own compiler, in the kernels that a case launches.
  await run(async () => program.Doctor.open(await openDevice(texts), openFile).compile());
  said(text('shader.compiled'));
});

/// Every case of the open file, on a device with the edited shaders.
const prove = () => checked(async (texts) => {
  const box = element('doctor');
  box.replaceChildren(document.createElement('p'));
  let [worst, failures, count] = [0, [], 0];
  await run(async () => {
    const engine = await openDevice(texts);
    const doctor = program.Doctor.open(engine, openFile);
    count = doctor.count();
    for (let i = 0; i < count; i++) {
      const { title, outcomes } = JSON.parse(await doctor.run(i));
      for (const outcome of outcomes) {
        worst = Math.max(worst, outcome.of_limit ?? Infinity);
        if (!outcome.passed) failures.push({ title, ...outcome });
      }
      box.firstChild.textContent = text('doctor.running', { done: i + 1, total: count });
      if (failures.length > 20) break;
    }
  });
  const verdict = box.firstChild;
  verdict.className = failures.length ? 'failed' : 'passed';
  if (count === 0) verdict.textContent = text('doctor.none');
  else if (failures.length === 0) verdict.textContent = text('doctor.passed', { n: count, worst: worst.toPrecision(2) });
  else {
    verdict.textContent = text('doctor.failed', { n: count, failed: failures.length });
    const rows = document.createElement('ul');
    for (const { title, algorithm, of_limit: excess, guard_broken: broken } of failures.slice(0, 10)) {
      const row = document.createElement('li');
      row.textContent = text('doctor.row', { title, algorithm, excess: (excess ?? Infinity).toPrecision(3) }) + (broken ? text('doctor.guard') : '');
      rows.append(row);
    }
    box.append(rows);
  }
});

async function use(texts, message) {
  const wasRunning = train.isRunning();
  await train.halt();
  await reopen(texts, undefined, (engine) => train.moveTo(engine));
  said(message);
  if (wasRunning) attempt(train.go);
}

async function back() {
  edits.clear();
  if (Object.keys(shadersInUse()).length) await use({}, text('shader.restored'));
  else said(text('shader.restored'));
  const message = element('shader-state').textContent;
  open(openFile);
  said(message);
}

const painter = kept((engine, model, options) => program.Painter.open(engine, model, options));
const activations = kept((engine, model) => program.Activations.open(engine, model));

/// Means over so many steps, where one is short.
const ROUNDS = 5;

async function times(plan, measure) {
  const rows = JSON.parse(await run(plan));
  const sums = new Float64Array(rows.length);
  const ticks = [];
  for (let round = 0; round <= ROUNDS; round++) {
    const nanoseconds = await run(measure);
    // The first step pays for what is made on first use.
    if (round > 0) nanoseconds.forEach((time, i) => { sums[i] += time / ROUNDS; ticks.push(time); });
  }
  const groups = new Map();
  rows.forEach((row, i) => {
    const key = `${row.shader}:${row.entry}`;
    const group = groups.get(key) ?? { key, shader: row.shader, calls: 0, time: 0, flops: 0 };
    group.calls += 1;
    group.time += sums[i];
    group.flops += row.flops;
    groups.set(key, group);
  });
  const quantum = ticks.filter((tick) => tick > 0).reduce(divisor, 0);
  let clock = 'clock.waiting';
  if (deviceFacts().timestamps) clock = quantum >= 1000 ? 'clock.quantised' : 'clock.timestamps';
  element('clock').textContent = text(clock, { rounds: ROUNDS, us: (quantum / 1000).toLocaleString() });
  showTimes([...groups.values()].sort((a, b) => b.time - a.time));
}

const divisor = (a, b) => { while (b) [a, b] = [b, a % b]; return a; };

const cell = (name, content, className = '') => {
  const made = document.createElement(name);
  made.className = className;
  if (content instanceof Node) made.append(content);
  else made.textContent = content;
  return made;
};

function tableRow(...cells) {
  const row = document.createElement('tr');
  row.append(...cells);
  return row;
}

function showTimes(groups) {
  const all = groups.reduce((sum, group) => sum + group.time, 0) || 1;
  const head = tableRow(cell('th', text('times.kernel')), cell('th', text('times.calls'), 'number'), cell('th', text('times.ms'), 'number'), cell('th', text('times.share')), cell('th', text('times.rate'), 'number'));
  const rows = groups.map(({ key, shader, calls, time, flops }) => {
    const link = document.createElement('button');
    link.className = 'link';
    link.textContent = key;
    link.onclick = () => { open(shader); element('shader').scrollIntoView(); };
    const share = document.createElement('span');
    const bar = document.createElement('span');
    bar.className = 'bar';
    bar.style.width = `${(9 * time) / groups[0].time}rem`;
    share.append(bar, `${((100 * time) / all).toFixed(1)} %`);
    return tableRow(cell('td', link), cell('td', calls, 'number'), cell('td', (time / 1e6).toFixed(3), 'number'), cell('td', share), cell('td', time > 0 ? (flops / time).toFixed(2) : '–', 'number'));
  });
  const total = tableRow(cell('td', text('times.all')), cell('td', groups.reduce((sum, { calls }) => sum + calls, 0), 'number'), cell('td', (all / 1e6).toFixed(3), 'number'), cell('td', ''), cell('td', ''));
  element('times').replaceChildren(head, ...rows, total);
  element('times').hidden = false;
}

const sampler = async (engine) => {
  const options = sample.options();
  return painter(engine, `${sample.currentModel().serial} ${options}`, sample.currentModel().model, options);
};

async function showPlan() {
  const rows = JSON.parse(await run(async (engine) => (await sampler(engine)).plan()));
  const head = tableRow(...['number', 'module', 'op', 'kernel', 'shapes', 'groups'].map((name) => cell('th', text(`plan.${name}`))));
  element('plan-table').replaceChildren(head, ...rows.map((row, i) => tableRow(
    cell('td', i + 1), cell('td', row.module), cell('td', row.op), cell('td', `${row.shader}:${row.entry} [${row.variant}]`), cell('td', row.outputs.join(', ')), cell('td', row.groups.join(' × ')),
  )));
}

let looking = false;

async function look() {
  if (looking) return;
  looking = true;
  try {
    const model = sample.currentModel();
    const [height, width, channels] = model.facts.shape;
    const t = Number(element('layer-t').value);
    await run(async (engine) => {
      const layers = await activations(engine, model.serial, model.model);
      const modules = JSON.parse(layers.modules());
      const select = element('module');
      if (select.options.length !== modules.length) {
        const before = select.value || state.get('module', '0');
        select.replaceChildren(...modules.map(([name], i) => new Option(name, i)));
        select.value = before in modules ? before : '0';
      }
      // A drawing is grey and square: a model of another shape looks at its middle, in every channel alike.
      const grey = await noisyAt(engine, Math.max(height, width), t);
      const side = Math.max(height, width);
      const x = Float32Array.from({ length: height * width * channels }, (_, i) => {
        const pixel = Math.floor(i / channels);
        return grey[Math.floor(pixel / width) * side + (pixel % width)];
      });
      const answer = await layers.look(x, t - 1, Number(element('class').value) || 0);
      show(element('layer-x'), x, height, width, channels);
      show(element('layer-answer'), answer.map((v) => v / 2), height, width, channels);
      const number = Number(select.value);
      const [, [, h, w, c]] = modules[number];
      const { maps, low, high } = channelsOf(await layers.of_module(number), h, w, c);
      showGrid(element('layer-maps'), maps, h, w, 1, Math.ceil(Math.sqrt(c * 2)));
      element('layer-caption').textContent = text('layers.caption', { channels: c, height: h, width: w, low: low.toPrecision(3), high: high.toPrecision(3) });
    });
  } finally {
    looking = false;
  }
}

export function start() {
  shaders ??= JSON.parse(program.shaders());
  editor.open = open;
  element('shader').onchange = () => open(element('shader').value);
  code().oninput = edited;
  code().onscroll = () => { element('gutter').scrollTop = code().scrollTop; };
  code().onkeydown = (event) => {
    // Escape frees the Tab key for whoever moves by it.
    if (event.key === 'Escape') element('shader-check').focus();
    if (event.key !== 'Tab' || event.shiftKey) return;
    event.preventDefault();
    code().setRangeText('    ', code().selectionStart, code().selectionEnd, 'end');
    edited();
  };
  element('shader-check').onclick = () => attempt(check);
  element('shader-doctor').onclick = () => attempt(prove);
  element('shader-use').onclick = () => attempt(() => checked(() => use(Object.fromEntries(edits), text('shader.used'))));
  element('shader-back').onclick = () => attempt(back);
  element('times-sample').onclick = () => attempt(() => times(async (engine) => (await sampler(engine)).plan(), async (engine) => (await sampler(engine)).times()));
  element('times-train').onclick = () => attempt(async () => {
    if (!train.training() || train.isRunning()) return notice(text('times.untrained'));
    await times(() => train.training().plan(), () => train.training().times());
  });
  element('module').onchange = () => { state.set('module', element('module').value); attempt(look); };
  element('layer-t').oninput = () => { element('layer-t-number').textContent = element('layer-t').value; attempt(look); };
  element('layers-look').onclick = () => attempt(look);
  element('plan').ontoggle = () => { if (element('plan').open) attempt(showPlan); };
  document.addEventListener('language', () => { if (openFile) list(); });
  open(state.get('shader', 'renoise'));
  if (!openFile) open('renoise');
  whenShown('inside', () => { gutter(); attempt(look); });
}
