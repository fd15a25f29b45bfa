// Train: slices of steps, between which the page draws and listens.

import { breathe, isCpu, program, run } from './engine.js';
import { t as text } from './strings.js';
import { drawLoss, showGrid } from './pictures.js';
import { attempt, element, notice, recovery, showTab } from './page.js';
import { drawings } from './draw.js';
import * as sample from './sample.js';

/// A slice ends after about this time, so that the page listens.
const SLICE_MS = 120;
/// Steps between samples, and seconds between copies of the run that a lost device leaves.
const SAMPLE_EVERY = 50;
const COPY_EVERY_S = 20;

/// The run: { training, facts, rows of [step, loss], painter, pictures per second }.
let current = null;
let running = false;
/// Its steps, until they end.
let going = Promise.resolve();

export const training = () => current?.training ?? null;
export const isRunning = () => running;

/// The built-in model's network with a quarter of its channels: for devices that are a CPU.
const MINI = {
  sample_size: 16, in_channels: 1, out_channels: 1, block_out_channels: [8, 16], layers_per_block: 1, norm_num_groups: 4, attention_head_dim: 8,
  down_block_types: ['DownBlock2D', 'AttnDownBlock2D'], up_block_types: ['AttnUpBlock2D', 'UpBlock2D'],
};

function configuration() {
  const number = (id) => Number(element(id).value);
  const own = element('data').value === 'own';
  // In the order in which the native program finds them in a folder, so that it may go on.
  const classes = [...new Set(drawings.map((drawing) => drawing.label))].sort();
  const conditional = element('conditional').checked && (!own || classes.length > 1);
  const count = conditional ? (own ? classes.length : 10) : null;
  const mini = element('network').value === 'mini';
  return {
    config: {
      ...(mini ? { unet: { ...MINI, num_class_embeds: count } } : {}),
      preset: 'tiny-gray', steps: number('train-steps'), batch: number('batch'), learning_rate: number('rate'), seed: number('train-seed'),
      class_conditional: conditional, learning_rate_schedule: 'cosine', noise_schedule: 'squaredcos_cap_v2', ema_decay: 0.99,
      warmup_steps: Math.min(50, Math.floor(number('train-steps') / 10)), log_every: 10, held_out: own ? 0 : 0.05,
      // A fifth of the native program's: drawn within a blink, and more than a run here will see.
      glyph_count: 4000,
    },
    own, classes,
  };
}

async function begin() {
  await halt();
  const { config, own, classes } = configuration();
  if (own && drawings.length === 0) throw new Error(text('train.needs'));
  const sorted = own ? classes.flatMap((class_) => drawings.filter(({ label }) => label === class_)) : [];
  const pixels = Uint8Array.from(sorted.flatMap(({ pixels }) => [...pixels]));
  const labels = Uint32Array.from(sorted, ({ label }) => classes.indexOf(label));
  set(await run((engine) => program.Training.begin(engine, JSON.stringify(config), pixels, labels, JSON.stringify(own ? classes : []))));
  await keepCopy();
}

function set(next) {
  const facts = JSON.parse(next.facts());
  // A CPU would be at it for half a minute.
  const samples = isCpu() ? { count: 5, steps: 8 } : { count: 10, steps: 20 };
  current = { training: next, facts, samples, rows: facts.log, painter: null, speed: null, sampled: -1, copied: performance.now(), copy: null };
  showFigures();
  for (const id of ['train-download', 'train-use', 'train-pause']) element(id).disabled = false;
}

/// Steps until the end or a pause.
export function go() {
  // A pause ends with the step that runs.
  if (!running) going = going.catch(() => {}).then(steps);
  return going;
}

async function steps() {
  running = true;
  words();
  let slice = 1;
  let [from, first] = [performance.now(), current.training && step()];
  try {
    while (running && step() < current.facts.config.steps) {
      const begun = performance.now();
      const count = Math.min(slice, current.facts.config.steps - step());
      const told = await run(() => current.training.advance(count));
      for (let i = 0; i < told.length; i += 4) current.rows.push([told[i], told[i + 1]]);
      const took = performance.now() - begun;
      slice = Math.max(1, Math.min(10, Math.round((slice * SLICE_MS) / Math.max(took, 1))));
      current.speed = ((step() - first) * current.facts.config.batch * 1000) / (performance.now() - from);
      showFigures();
      await breathe();
      if (running && step() - current.sampled >= SAMPLE_EVERY) {
        const paused = performance.now();
        await drawSamples();
        from += performance.now() - paused;
      }
      if (performance.now() - current.copied > COPY_EVERY_S * 1000) await keepCopy();
    }
    if (running) {
      await drawSamples();
      await keepCopy();
      notice(text('train.finished', { step: step() }));
    }
  } finally {
    running = false;
    words();
  }
}

const step = () => (current.rows.length ? current.rows[current.rows.length - 1][0] : 0);

async function drawSamples() {
  const at = step();
  const { config, shape, class_names: names } = current.facts;
  const [height, width, channels] = shape;
  const classes = config.class_conditional ? names.length : 1;
  await run(async () => {
    current.painter ??= await current.training.painter(JSON.stringify({ steps: current.samples.steps, batch: current.samples.count }));
    const { count } = current.samples;
    const labels = Uint32Array.from({ length: count }, (_, i) => i % classes);
    const all = await current.painter.draw(BigInt(config.seed), labels, () => true);
    const size = height * width * channels;
    showGrid(element('train-grid'), Array.from({ length: count }, (_, i) => all.subarray(i * size, (i + 1) * size)), height, width, channels, count);
  });
  current.sampled = at;
}

/// A copy of the run in the page's memory, from which it goes on after its device is lost.
async function keepCopy() {
  await run(() => current.training.save('copy'));
  current.copy = step();
  current.copied = performance.now();
}

function showFigures() {
  const { rows, speed, facts } = current;
  const done = step();
  const recent = rows.slice(-20).map(([, loss]) => loss);
  element('figure-step').textContent = `${done} / ${facts.config.steps}`;
  element('figure-loss').textContent = recent.length ? (recent.reduce((a, b) => a + b) / recent.length).toFixed(4) : '–';
  element('figure-speed').textContent = speed ? speed.toFixed(speed < 10 ? 1 : 0) : '–';
  const seconds = speed ? ((facts.config.steps - done) * facts.config.batch) / speed : null;
  element('figure-left').textContent = seconds === null ? '–' : seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
  drawLoss(element('loss'), rows, facts.config.steps);
}

function words() {
  element('train-pause').textContent = text(running || !current ? 'train.pause' : 'train.go');
  element('train-start').disabled = running;
}

async function download() {
  await run(() => current.training.save('download'));
  const name = `inkwash-run-${step()}`;
  const blob = new Blob([program.zipped('download', name)], { type: 'application/zip' });
  program.unmount('download');
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = `${name}.zip`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

export async function load(file) {
  await halt();
  program.unmount('loaded');
  program.mount_zip('loaded', new Uint8Array(await file.arrayBuffer()));
  set(await run((engine) => program.Training.resume(engine, 'loaded')));
  const { config } = current.facts;
  for (const [id, value] of [['train-steps', config.steps], ['batch', config.batch], ['rate', config.learning_rate], ['train-seed', config.seed]]) element(id).value = value;
  words();
  await keepCopy();
  notice(text('train.resumed', { step: step() }));
  await drawSamples();
}

/// Before a device with other shaders: the run pauses. After: it is moved there.
export async function moveTo(engine) {
  if (!current) return;
  const { rows } = current;
  set(await current.training.moved(engine));
  current.rows = rows;
  words();
}

/// Pauses, and waits until the step that runs has ended.
export async function halt() {
  running = false;
  await going.catch(() => {});
}

export function start() {
  element('train-form').onsubmit = (event) => {
    event.preventDefault();
    attempt(async () => { await begin(); await go(); });
  };
  element('train-pause').onclick = () => (running ? halt() : attempt(go));
  element('train-download').onclick = () => attempt(download);
  element('train-load').onchange = ({ target }) => attempt(async () => { if (target.files[0]) await load(target.files[0]); target.value = ''; });
  element('train-use').onclick = () => attempt(async () => {
    sample.trained.model = await run(() => current.training.model());
    sample.trained.steps = step();
    sample.useTrained();
    showTab('sample');
  });
  document.addEventListener('language', words);
  recovery.message = (message) => (current ? text('error.lost.run', { message, step: current.copy ?? 0 }) : null);
  recovery.restore = async (engine) => {
    if (!current) return;
    set(await program.Training.resume(engine, 'copy'));
    current.copy = step();
    words();
  };
  // What a CPU learns within minutes.
  if (isCpu()) element('network').value = 'mini';
  words();
}
