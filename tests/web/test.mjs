// The page does what it says, with the native program's numbers. Each part has a page of its own.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { browse, decoded, open, pixels, serve } from './browser.mjs';
import { driver, inkwash } from './native.mjs';

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'inkwash-web-test-'));
const server = await serve();
const browser = await browse();
const { context } = browser;

const lost = () => {
  // Keeps every device, so that a test may take it away.
  window.devices = [];
  const request = GPUAdapter.prototype.requestDevice;
  GPUAdapter.prototype.requestDevice = async function (...given) {
    const device = await request.apply(this, given);
    window.devices.push(device);
    return device;
  };
};

/// Chooses values and begins; waits for the end of the drawing.
async function sample(page, values) {
  for (const [id, value] of Object.entries(values)) {
    const element = page.locator(`#${id}`);
    if ((await element.evaluate((e) => e.tagName)) === 'SELECT') await element.selectOption(value);
    else await element.fill(value);
  }
  const before = await page.evaluate(() => Number(document.body.dataset.drawn ?? 0));
  await page.click('#sample-start');
  await page.waitForFunction((before) => Number(document.body.dataset.drawn ?? 0) > before, before, { timeout: 120000 });
  return pixels(page, 'sampled');
}

const furthest = (a, b) => {
  assert.deepEqual([a.width, a.height], [b.width, b.height]);
  return Math.max(...a.data.map((value, i) => Math.abs(value - b.data[i])));
};

const parts = {
  async 'opens fast, and its console says nothing'() {
    const begun = Date.now();
    const { page, said } = await open(context, `${server.url}#tab=sample&class=9&seed=3&steps=5`);
    const ready = (Date.now() - begun) / 1000;
    await page.click('#sample-start');
    await page.waitForFunction(() => document.querySelectorAll('#strip figure').length > 1, null, { timeout: 60000 });
    const first = (Date.now() - begun) / 1000;
    await page.waitForFunction(() => document.body.dataset.drawn, null, { timeout: 60000 });
    console.log(`  device after ${await page.evaluate(() => document.body.dataset.ready)} s, page ready after ${ready.toFixed(1)} s, first steps seen after ${first.toFixed(1)} s, picture after ${((Date.now() - begun) / 1000).toFixed(1)} s`);
    assert.ok(first < 60, `${first} s to the first picture; the goal is 20`);
    assert.deepEqual(said, []);
    assert.deepEqual(await page.evaluate(() => window.inkwash.unequal), [], 'both languages have every sentence');
    await page.close();
  },

  async 'draws, and adds noise as the equation says'() {
    const { page, said } = await open(context, `${server.url}#tab=draw&t=0&side=64&glyph=`);
    const pad = await page.locator('#pad').boundingBox();
    await page.mouse.move(pad.x + 60, pad.y + 60);
    await page.mouse.down();
    for (let i = 1; i <= 10; i++) await page.mouse.move(pad.x + 60 + 20 * i, pad.y + 60 + 15 * i);
    await page.mouse.up();
    for (let tries = 0; !(await pixels(page, 'noisy')).data.some((value) => value < 60); tries++) {
      assert.ok(tries < 100, 'the stroke is seen in x_t');
      await page.waitForTimeout(100);
    }
    const facts = await page.evaluate(async () => {
      const { program, run } = window.inkwash;
      return run(async (engine) => {
        const forward = await program.Forward.open(engine, 64, 64, 1, 'squaredcos_cap_v2', 1000);
        const levels = forward.levels();
        const zero = new Float32Array(4096);
        const one = new Float32Array(4096).fill(1);
        const noise = await forward.jump(zero, 1000, 5n);
        const mean = noise.reduce((a, b) => a + b) / 4096;
        const variance = noise.reduce((a, b) => a + b * b, 0) / 4096 - mean * mean;
        let worst = 0;
        for (const t of [0, 1, 137, 500, 999, 1000]) {
          const x = await forward.jump(one, t, 5n);
          x.forEach((v, i) => { worst = Math.max(worst, Math.abs(v - (levels[2 * t] + (levels[2 * t + 1] * noise[i]) / levels[2001]))); });
        }
        // Single steps, all of them from the zero picture on, end in noise of variance 1 too.
        let x = zero;
        for (let t = 0; t < 1000; t++) x = await forward.step(x, t, 5n);
        return { mean, variance, worst, walked: x.reduce((a, b) => a + b * b, 0) / 4096 };
      });
    });
    // 4096 numbers: the standard error of the mean is 0.016, that of the variance 0.022.
    assert.ok(Math.abs(facts.mean) < 0.07 && Math.abs(facts.variance - 1) < 0.1, JSON.stringify(facts));
    assert.ok(Math.abs(facts.walked - 1) < 0.1, JSON.stringify(facts));
    assert.ok(facts.worst < 1e-5, JSON.stringify(facts));
    await page.locator('#t').fill('400');
    await page.waitForFunction(() => document.querySelector('#equation math mn:last-of-type') && location.hash.includes('t=400'));
    await page.click('#step-10');
    await page.waitForFunction(() => location.hash.includes('t=410'));
    assert.match(await page.textContent('#wgsl-line'), /level\.kept \* x\[j\]/);
    assert.deepEqual(said, []);
    await page.close();
  },

  async 'samples the picture of the native program'() {
    const out = path.join(folder, 'samples');
    inkwash('sample', '--class', '9', '--seed', '11', '-n', '1', '--steps', '5', '--out', out);
    const file = fs.readdirSync(out, { recursive: true }).map(String).find((name) => /\.png$/.test(name) && !/grid/.test(name));
    const { page, said } = await open(context, `${server.url}#tab=sample`);
    const native = await decoded(page, path.join(out, file));
    const here = await sample(page, { class: '9', seed: '11', 'sample-steps': '5' });
    const off = furthest(here, native);
    const spread = Math.max(...native.data.filter((_, i) => i % 4 === 0)) - Math.min(...native.data.filter((_, i) => i % 4 === 0));
    assert.ok(spread > 150, 'there is a picture');
    console.log(`  furthest from native on ${driver}: ${off} of 255`);
    assert.ok(off <= 1, `${off} of 255`);
    const again = await sample(page, { seed: '11' });
    assert.equal(furthest(here, again), 0, 'the same bits again');
    const other = await sample(page, { seed: '12' });
    assert.ok(furthest(here, other) > 50, 'another seed, another picture');
    assert.deepEqual(said, []);
    await page.close();
  },

  async 'opens a folder of diffusers, a zip file of it, and weights alone'() {
    const diffusers = path.resolve('tests/folders/plain');
    const out = path.join(folder, 'diffusers');
    inkwash('sample', '--model', diffusers, '--seed', '2', '-n', '1', '--steps', '4', '--out', out);
    const file = fs.readdirSync(out, { recursive: true }).map(String).find((name) => /\.png$/.test(name) && !/grid/.test(name));
    const { page, said } = await open(context, `${server.url}#tab=sample&steps=2&class=3`);
    const native = await decoded(page, path.join(out, file));
    const builtIn = await sample(page, { 'seed': '2' });
    await page.setInputFiles('#model-folder', diffusers);
    await page.waitForFunction(() => document.getElementById('model-name').textContent === 'plain');
    const ofFolder = await sample(page, { 'seed': '2', 'sample-steps': '4' });
    assert.ok(furthest(ofFolder, native) <= 1, 'the picture of the native program');
    const zip = path.join(folder, 'plain.zip');
    execFileSync('python3', ['-m', 'zipfile', '-c', zip, diffusers]);
    await page.setInputFiles('#model-file', zip);
    await page.waitForFunction(() => document.getElementById('model-name').textContent === 'plain.zip');
    assert.equal(furthest(await sample(page, {}), ofFolder), 0);
    await page.setInputFiles('#model-file', path.resolve('assets/glyphs/model.safetensors'));
    await page.waitForFunction(() => document.getElementById('model-name').textContent === 'model.safetensors');
    assert.equal(furthest(await sample(page, { 'class': '3', 'sampler': 'DDIMScheduler', 'sample-steps': '2' }), builtIn), 0);
    await page.setInputFiles('#model-file', { name: 'torn.safetensors', mimeType: '', buffer: Buffer.from('PK\u0003\u0004 and no more') });
    await page.waitForSelector('#notice:not([hidden])');
    assert.match(await page.textContent('#notice-text'), /safetensors/);
    assert.deepEqual(said, []);
    await page.close();
  },

  async 'trains the steps of the native program'() {
    // A small network, since SwiftShader computes some 0.3 GFLOP/s.
    const unet = {
      sample_size: 8, in_channels: 1, out_channels: 1, block_out_channels: [8, 16], layers_per_block: 1, norm_num_groups: 4, attention_head_dim: 8,
      down_block_types: ['DownBlock2D', 'AttnDownBlock2D'], up_block_types: ['AttnUpBlock2D', 'UpBlock2D'], num_class_embeds: 10,
    };
    const config = {
      data: 'builtin:glyphs', steps: 20, batch: 4, seed: 5, learning_rate: 0.004, warmup_steps: 2, glyph_count: 400, log_every: 10,
      noise_schedule: 'squaredcos_cap_v2', class_conditional: true, sample_count: 1, sample_steps: 2, unet,
    };
    const toml = ({ unet, ...rest }) => [rest, unet].map((table) => Object.entries(table).map(([key, value]) => `${key} = ${JSON.stringify(value)}`).join('\n')).join('\n[unet]\n');
    const [file, out] = ['run.toml', 'run'].map((name) => path.join(folder, name));
    fs.writeFileSync(file, toml(config));
    inkwash('train', '--config', file, '--out', out, '--tune', 'off');
    const native = fs.readFileSync(path.join(out, 'log.jsonl'), 'utf8').trim().split('\n').map((line) => JSON.parse(line)).filter((record) => record.loss !== undefined);
    const { page, said } = await open(context, `${server.url}#tab=train`);
    const rows = await page.evaluate(async (config) => {
      const { program, run } = window.inkwash;
      const training = await run((engine) => program.Training.begin(engine, JSON.stringify(config), new Uint8Array(), new Uint32Array(), '[]'));
      const rows = [];
      for (let i = 0; i < 2; i++) rows.push(...await run(() => training.advance(10)));
      return rows;
    }, config);
    const mean = (from, to) => Array.from({ length: to - from }, (_, i) => rows[4 * (from + i) + 1]).reduce((a, b) => a + b) / (to - from);
    let worst = 0;
    native.forEach(({ step, loss }, i) => {
      assert.equal(rows[4 * i], step);
      worst = Math.max(worst, Math.abs(rows[4 * i + 1] / loss - 1));
    });
    console.log(`  losses of ${native.length} steps, furthest from native on ${driver}: ${worst.toExponential(1)} of the loss; mean of the first five ${mean(0, 5).toFixed(3)}, of the last five ${mean(15, 20).toFixed(3)}`);
    assert.equal(native.length, 20);
    assert.ok(worst < 1e-4, `${worst}`);
    assert.ok(mean(15, 20) < mean(0, 5), 'the loss falls');
    assert.deepEqual(said, []);
    await page.close();
  },

  async 'trains on drawings, pauses, and gives a run that the native program opens'() {
    const { page, said } = await open(context, `${server.url}#tab=draw&glyph=tree`);
    await page.click('#keep');
    await page.locator('#glyph').selectOption('ten');
    await page.click('#keep');
    await page.click('#tab-train');
    await page.locator('#data').selectOption('own');
    await page.locator('#train-steps').fill('12');
    await page.locator('#batch').fill('1');
    await page.locator('#network').selectOption('mini');
    await page.evaluate(() => {
      window.longest = 0;
      let last = performance.now();
      const look = () => { const now = performance.now(); window.longest = Math.max(window.longest, now - last); last = now; requestAnimationFrame(look); };
      requestAnimationFrame(look);
    });
    await page.click('#train-start');
    const step = () => page.evaluate(() => Number(document.getElementById('figure-step').textContent.split(' ')[0]) || 0);
    await page.waitForFunction(() => (Number(document.getElementById('figure-step').textContent.split(' ')[0]) || 0) >= 2, null, { timeout: 120000 });
    await page.click('#train-pause');
    await page.waitForFunction(() => !document.getElementById('train-start').disabled, null, { timeout: 60000 });
    const paused = await step();
    await page.waitForTimeout(500);
    assert.equal(await step(), paused, 'it pauses');
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('#train-download')]);
    const zip = path.join(folder, 'run.zip');
    await download.saveAs(zip);
    await page.click('#train-pause');
    await page.waitForFunction(() => document.getElementById('figure-step').textContent === '12 / 12', null, { timeout: 240000 });
    const losses = await page.evaluate(() => document.getElementById('figure-loss').textContent);
    console.log(`  paused at step ${paused}, loss ${losses} after 12; longest time without a frame: ${Math.round(await page.evaluate(() => window.longest))} ms`);
    assert.ok(Number(losses) < 2, losses);
    // Back into the page.
    await page.setInputFiles('#train-load', zip);
    await page.waitForFunction((paused) => document.getElementById('figure-step').textContent === `${paused} / 12`, paused, { timeout: 60000 });
    await page.waitForFunction(() => document.getElementById('train-grid').height > 1);
    // And into the native program, which takes the steps that are left.
    const run = path.join(folder, 'unpacked');
    fs.mkdirSync(run);
    execFileSync('python3', ['-m', 'zipfile', '-e', zip, run]);
    const [name] = fs.readdirSync(run);
    const at = path.join(run, name);
    assert.equal(fs.readdirSync(path.join(at, 'pictures', 'tree')).length, 1);
    inkwash('sample', '--model', at, '--class', 'ten', '-n', '1', '--steps', '2', '--out', path.join(folder, 'own'));
    inkwash('train', '--resume', at, '--data', path.join(at, 'pictures'), '--steps', String(paused + 1), '--sample-count', '1', '--sample-steps', '2');
    assert.match(fs.readFileSync(path.join(at, 'log.jsonl'), 'utf8'), new RegExp(`"step":${paused + 1}\\b`));
    assert.deepEqual(said, []);
    await page.close();
  },

  async 'shows the error of a shader at its line, proves a right one, and goes back'() {
    const { page, said } = await open(context, `${server.url}#tab=inside&shader=denoise`);
    const code = await page.inputValue('#code');
    const line = code.split('\n').findIndex((text) => /^\s*return|^\s*let /.test(text));
    const broken = code.split('\n');
    broken[line] = `${broken[line]} let wrong = nowhere;`;
    await page.fill('#code', broken.join('\n'));
    await page.click('#shader-check');
    await page.waitForSelector('#shader-error:not([hidden])', { timeout: 60000 });
    const error = await page.textContent('#shader-error p');
    assert.ok(error.includes(`Line ${line + 1}:`) && error.includes('nowhere'), error);
    assert.equal(await page.textContent('#gutter b'), String(line + 1));
    // A comment changes nothing, and every case passes.
    await page.fill('#code', `${code}\n// Mine.\n`);
    await page.click('#shader-doctor');
    await page.waitForSelector('#doctor .passed', { timeout: 240000 });
    console.log(`  ${await page.textContent('#doctor .passed')}`);
    // Noise of twice the size is found out.
    const renoise = await page.evaluate(() => JSON.parse(window.inkwash.program.shaders()).find(({ name }) => name === 'renoise').text);
    await page.locator('#shader').selectOption('renoise');
    await page.fill('#code', renoise.replace('level.noise * z[k]', '2.0 * level.noise * z[k]'));
    await page.click('#shader-doctor');
    await page.waitForSelector('#doctor .failed', { timeout: 120000 });
    // In use, the drawing has more noise.
    const noise = () => page.evaluate(() => window.inkwash.run(async (engine) => {
      const forward = await window.inkwash.program.Forward.open(engine, 16, 16, 1, 'linear', 1000);
      return (await forward.jump(new Float32Array(256), 1000, 1n)).reduce((a, b) => a + b * b, 0) / 256;
    }));
    const before = await noise();
    await page.click('#shader-use');
    await page.waitForFunction(() => document.getElementById('shader-state').textContent.startsWith('In use'), null, { timeout: 60000 });
    const during = await noise();
    assert.ok(Math.abs(during / before - 4) < 0.01, `${before} ${during}`);
    await page.click('#shader-back');
    await page.waitForFunction(() => document.getElementById('shader-state').textContent.startsWith('The original'), null, { timeout: 60000 });
    assert.equal(await noise(), before);
    assert.equal(await page.inputValue('#code'), renoise);
    assert.deepEqual(said, []);
    await page.close();
  },

  async 'measures kernels and shows layers'() {
    const { page, said } = await open(context, `${server.url}#tab=inside&steps=5`);
    await page.click('#times-sample');
    await page.waitForSelector('#times:not([hidden]) tr:nth-child(3)', { timeout: 120000 });
    const shares = await page.$$eval('#times td:nth-child(4)', (cells) => cells.map((cell) => parseFloat(cell.textContent)).filter(Number.isFinite));
    const all = shares.reduce((a, b) => a + b);
    assert.ok(shares.length > 5 && Math.abs(all - 100) < 2, `${all} %`);
    console.log(`  ${await page.textContent('#clock')}`);
    await page.click('#layers-look');
    await page.waitForFunction(() => /channels of/.test(document.getElementById('layer-caption').textContent), null, { timeout: 60000 });
    assert.ok((await page.$$('#module option')).length > 5);
    assert.ok(new Set((await pixels(page, 'layer-maps')).data).size > 20);
    await page.click('#plan summary');
    await page.waitForSelector('#plan-table tr:nth-child(20)', { timeout: 60000 });
    assert.deepEqual(said, []);
    await page.close();
  },

  async 'survives the loss of its device'() {
    const { page } = await open(context, `${server.url}#tab=train`, { init: lost });
    await page.locator('#train-steps').fill('200');
    await page.locator('#batch').fill('1');
    await page.locator('#network').selectOption('mini');
    await page.click('#train-start');
    await page.waitForFunction(() => (Number(document.getElementById('figure-step').textContent.split(' ')[0]) || 0) >= 3, null, { timeout: 120000 });
    await page.evaluate(() => window.devices.forEach((device) => device.destroy()));
    await page.waitForSelector('#notice:not([hidden]) #notice-action:not([hidden])', { timeout: 60000 });
    assert.match(await page.textContent('#notice-text'), /lost/);
    await page.click('#notice-action');
    await page.waitForFunction(() => /open again/.test(document.getElementById('notice-text').textContent), null, { timeout: 60000 });
    const steps = () => page.evaluate(() => Number(document.getElementById('figure-step').textContent.split(' ')[0]) || 0);
    const copied = await steps();
    await page.click('#train-pause');
    await page.waitForFunction((copied) => (Number(document.getElementById('figure-step').textContent.split(' ')[0]) || 0) > copied, copied, { timeout: 60000 });
    await page.click('#train-pause');
    await page.click('#tab-sample');
    const picture = await sample(page, { 'sample-steps': '3' });
    assert.ok(new Set(picture.data).size > 20, 'it draws again');
    await page.close();
  },

  async 'says what is missing without WebGPU'() {
    const without = () => { Object.defineProperty(Navigator.prototype, 'gpu', { get: () => undefined }); };
    const { page } = await open(context, `${server.url}#lang=en`, { init: without });
    assert.match(await page.textContent('#missing'), /no WebGPU/);
    assert.match(await page.textContent('#missing-remedies'), /chrome:\/\/flags|version/);
    assert.ok(await page.evaluate(() => document.querySelector('#missing img').naturalWidth > 100));
    await page.click('#language');
    assert.match(await page.textContent('#missing'), /没有 WebGPU/);
    await page.close();
    const refusing = () => { GPU.prototype.requestAdapter = async () => null; };
    const other = await open(context, server.url, { init: refusing });
    assert.match(await other.page.textContent('#missing'), /no graphics adapter/);
    await other.page.close();
  },

  async 'has every kernel compiled by the browser, without a warning'() {
    const { page, said } = await open(context, `${server.url}?default-limits`);
    const { count, complaints } = await page.evaluate(async () => {
      const texts = JSON.parse(await window.inkwash.run((engine) => window.inkwash.program.Doctor.open(engine, '').texts()));
      // Without a limit asked for: WebGPU's defaults.
      const device = await (await navigator.gpu.requestAdapter()).requestDevice();
      const complaints = [];
      for (const [name, code] of texts) {
        const { messages } = await device.createShaderModule({ code }).getCompilationInfo();
        complaints.push(...messages.map(({ type, lineNum, message }) => `${name}:${lineNum} ${type}: ${message}`));
      }
      return { count: texts.length, complaints };
    });
    console.log(`  ${count} modules`);
    assert.ok(count > 100);
    assert.deepEqual(complaints, []);
    if (process.env.INKWASH_COMPILE_ALL) {
      // With the driver's compiler behind it: on SwiftShader this takes six minutes.
      const kernels = await page.evaluate(() => window.inkwash.run((engine) => window.inkwash.program.Doctor.open(engine, '').compile()));
      console.log(`  ${kernels} kernels, as pipelines of a device with default limits`);
    }
    assert.deepEqual(said, []);
    await page.close();
  },

  async 'looks right wide and narrow, in both languages, light and dark'() {
    const shots = process.env.SCREENSHOTS;
    if (shots) fs.mkdirSync(shots, { recursive: true });
    const { page, said } = await open(context, `${server.url}#tab=draw&lang=en&t=300`);
    for (const [width, height] of [[1200, 900], [390, 800]]) {
      await page.setViewportSize({ width, height });
      for (const [lang, colorScheme] of [['en', 'light'], ['zh', 'dark']]) {
        await page.emulateMedia({ colorScheme });
        await page.evaluate((lang) => { location.hash = `#tab=draw&lang=${lang}&t=300&steps=3`; }, lang);
        for (const tab of ['draw', 'sample', 'train', 'inside']) {
          await page.click(`#tab-${tab}`);
          if (tab === 'sample' && !(await page.$('#strip figure'))) await sample(page, {});
          await page.waitForTimeout(300);
          const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
          assert.ok(wide <= 0, `${tab} is ${wide} pixels too wide at ${width}`);
          if (shots) await page.screenshot({ path: path.join(shots, `${tab}-${width}-${lang}-${colorScheme}.png`), fullPage: true });
        }
      }
    }
    assert.deepEqual(said, []);
    await page.close();
  },
};

const wanted = process.argv.slice(2);
let failed = 0;
for (const [name, part] of Object.entries(parts)) {
  if (wanted.length && !wanted.some((word) => name.includes(word))) continue;
  const begun = Date.now();
  try {
    console.log(name);
    await part();
    console.log(`  ok, ${((Date.now() - begun) / 1000).toFixed(1)} s`);
  } catch (error) {
    failed += 1;
    console.log(`  FAILED: ${error.stack}`);
    for (const page of context.pages().slice(1)) {
      console.log(`  the page says: ${await page.evaluate(() => document.getElementById('notice-text')?.textContent).catch(() => '')}`);
      await page.close();
    }
  }
}
await browser.close();
server.close();
fs.rmSync(folder, { recursive: true, force: true });
console.log(failed ? `${failed} failed` : 'the page passes');
process.exitCode = failed ? 1 : 0;
