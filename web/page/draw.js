// Draw: a picture, and the forward process on it.

import { program, run, kept } from './engine.js';
import * as state from './state.js';
import { t as text } from './strings.js';
import { drawLevels, show, thumbnail } from './pictures.js';
import { attempt, element, openShader } from './page.js';
import { lineOf } from './inside.js';

const pad = element('pad');
const ink = pad.getContext('2d', { willReadFrequently: true });
const STEPS = 1000;
/// The visitor's drawings: { pixels: Uint8Array (16, 16), label }.
export const drawings = [];
const GLYPHS = { one: '一', two: '二', three: '三', ten: '十', person: '人', big: '大', mouth: '口', sun: '日', mountain: '山', tree: '木' };
export const glyphName = (name) => (name in GLYPHS ? `${GLYPHS[name]} ${name}` : name);
const STROKES = {
  one: [[[.1, .52], [.9, .49]]], two: [[[.24, .3], [.76, .28]], [[.1, .76], [.9, .73]]],
  three: [[[.2, .2], [.8, .18]], [[.27, .5], [.73, .48]], [[.1, .82], [.9, .8]]],
  ten: [[[.1, .46], [.9, .43]], [[.5, .1], [.5, .92]]], person: [[[.5, .1], [.46, .5], [.12, .9]], [[.49, .4], [.62, .7], [.9, .9]]],
  big: [[[.1, .37], [.9, .34]], [[.5, .08], [.47, .5], [.12, .92]], [[.51, .42], [.62, .7], [.9, .91]]],
  mouth: [[[.2, .22], [.22, .84]], [[.2, .22], [.8, .22], [.78, .84]], [[.22, .8], [.78, .8]]],
  sun: [[[.28, .12], [.28, .9]], [[.28, .12], [.72, .12], [.72, .9]], [[.28, .5], [.72, .5]], [[.28, .87], [.72, .87]]],
  mountain: [[[.5, .1], [.5, .82]], [[.16, .42], [.16, .84], [.84, .84], [.84, .4]]],
  tree: [[[.1, .31], [.9, .29]], [[.5, .08], [.5, .93]], [[.49, .33], [.38, .58], [.1, .78]], [[.51, .33], [.64, .6], [.91, .76]]],
};

const levels = { values: null, steps: null };
/// Where single steps have led: x_t, and t; or nothing after a jump.
let walk = null;
let playing = false;
let wanted = null;

const forward = kept((engine, side, schedule) => program.Forward.open(engine, side, side, 1, schedule, STEPS));
const side = () => Number(element('side').value);
const seed = () => BigInt(Math.max(0, Math.round(Number(element('noise-seed').value) || 0)));
const now = () => Number(element('t').value);

/// The drawing as side × side numbers in [-1, 1].
export function picture(size) {
  const small = document.createElement('canvas');
  small.width = small.height = size;
  const context = small.getContext('2d', { willReadFrequently: true });
  context.imageSmoothingQuality = 'high';
  // By halves, so that every pixel of the drawing counts.
  let from = pad;
  while (from.width >= 2 * size) {
    const half = document.createElement('canvas');
    half.width = half.height = from.width / 2;
    half.getContext('2d').drawImage(from, 0, 0, half.width, half.height);
    from = half;
  }
  context.drawImage(from, 0, 0, size, size);
  const { data } = context.getImageData(0, 0, size, size);
  return Float32Array.from({ length: size * size }, (_, i) => (0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2]) / 127.5 - 1);
}

/// x_t of the drawing at the model's size, in one jump.
export async function noisyAt(engine, size, t) {
  const process = await forwardOfModel(engine, size, size);
  return process.jump(picture(size), t, seed());
}
const forwardOfModel = kept((engine, size) => program.Forward.open(engine, size, size, 1, 'squaredcos_cap_v2', STEPS));

function clear() {
  ink.fillStyle = '#fff';
  ink.fillRect(0, 0, pad.width, pad.height);
}

function stroke(points, width) {
  ink.strokeStyle = ink.fillStyle = '#111';
  ink.lineWidth = width;
  ink.lineCap = ink.lineJoin = 'round';
  ink.beginPath();
  points.forEach(([x, y], i) => (i ? ink.lineTo(x, y) : ink.moveTo(x, y)));
  if (points.length === 1) ink.lineTo(points[0][0] + 0.01, points[0][1]);
  ink.stroke();
}

function drawGlyph(name) {
  clear();
  const scale = ([x, y]) => [x * pad.width, y * pad.height];
  for (const points of STROKES[name] ?? []) {
    if (points.length === 3 && ['person', 'big', 'tree'].includes(name)) {
      const [a, b, c] = points.map(scale);
      stroke(Array.from({ length: 17 }, (_, i) => [0, 1].map((k) => (1 - i / 16) ** 2 * a[k] + 2 * (1 - i / 16) * (i / 16) * b[k] + (i / 16) ** 2 * c[k])), 44);
    } else stroke(points.map(scale), 44);
  }
}

/// Shows x_t for where the slider is; while one is on its way, only the last wish counts.
export function refresh() {
  const first = wanted === null;
  wanted = true;
  if (!first) return Promise.resolve();
  return attempt(async () => {
    while (wanted) {
      wanted = false;
      const [size, t] = [side(), now()];
      await run(async (engine) => {
        const process = await forward(engine, `${size} ${element('schedule').value}`, size, element('schedule').value);
        levels.values = process.levels();
        levels.steps = process.steps();
        const x = walk ? walk.x : await process.jump(picture(size), t, seed());
        show(element('noisy'), x, size, size);
      });
      describe();
    }
  }).finally(() => { wanted = null; });
}

const format = (value) => value.toFixed(3);
const row = (...parts) => `<math display="block"><mrow>${parts.join('')}</mrow></math>`;
const sub = (base, index) => `<msub>${base}<mrow>${index}</mrow></msub>`;
const bar = (letter) => `<mover accent="true"><mi>${letter}</mi><mo>‾</mo></mover>`;

function describe() {
  const t = now();
  const stepping = walk !== null;
  const equation = element('equation');
  if (stepping) {
    const last = Math.max(t - 1, 0);
    const [a, b] = [levels.steps[2 * last], levels.steps[2 * last + 1]];
    equation.innerHTML = row(sub('<mi>x</mi>', '<mi>t</mi><mo>+</mo><mn>1</mn>'), '<mo>=</mo>', sub('<mi>a</mi>', '<mi>t</mi>'), '<mo>&#x2062;</mo>', sub('<mi>x</mi>', '<mi>t</mi>'), '<mo>+</mo>', sub('<mi>b</mi>', '<mi>t</mi>'), '<mo>&#x2062;</mo>', sub('<mi>ε</mi>', '<mi>t</mi>'))
      + row('<mo>=</mo>', `<mn>${a.toFixed(4)}</mn>`, '<mo>&#x2062;</mo>', sub('<mi>x</mi>', `<mn>${last}</mn>`), '<mo>+</mo>', `<mn>${b.toFixed(4)}</mn>`, '<mo>&#x2062;</mo>', sub('<mi>ε</mi>', `<mn>${last}</mn>`));
  } else {
    const [a, b] = [levels.values[2 * t], levels.values[2 * t + 1]];
    equation.innerHTML = row(sub('<mi>x</mi>', '<mi>t</mi>'), '<mo>=</mo>', sub(bar('a'), '<mi>t</mi>'), '<mo>&#x2062;</mo>', sub('<mi>x</mi>', '<mn>0</mn>'), '<mo>+</mo>', sub(bar('b'), '<mi>t</mi>'), '<mo>&#x2062;</mo>', '<mi>ε</mi>')
      + row('<mo>=</mo>', `<mn>${format(a)}</mn>`, '<mo>&#x2062;</mo>', sub('<mi>x</mi>', '<mn>0</mn>'), '<mo>+</mo>', `<mn>${format(b)}</mn>`, '<mo>&#x2062;</mo>', '<mi>ε</mi>');
  }
  element('equation-title').textContent = text(stepping ? 'draw.equation.step' : 'draw.equation.jump');
  element('equation-words').textContent = text(stepping ? 'draw.words.step' : 'draw.words.jump');
  element('noisy-caption').textContent = text(stepping ? 'draw.noisy.step' : 'draw.noisy.jump', { t });
  element('wgsl-line').textContent = lineOf('renoise', stepping ? /x\[j\] = / : /let put_in = /);
  drawLevels(element('levels'), levels.values, t);
}

function setT(t) {
  element('t').value = element('t-number').value = t;
  state.set('t', t);
}

function jumpTo(t) {
  walk = null;
  setT(t);
  return refresh();
}

/// Takes single steps from x_t on.
async function steps(count) {
  const size = side();
  await run(async (engine) => {
    const process = await forward(engine, `${size} ${element('schedule').value}`, size, element('schedule').value);
    levels.steps ??= process.steps();
    walk ??= { x: await process.jump(picture(size), now(), seed()) };
    for (let i = 0; i < count && now() < STEPS; i++) {
      walk.x = await process.step(walk.x, now(), seed());
      setT(now() + 1);
    }
    show(element('noisy'), walk.x, size, size);
  });
  describe();
}

async function play() {
  playing = !playing;
  label();
  while (playing && now() < STEPS) {
    await steps(5);
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  playing = false;
  label();
}

function label() {
  element('step-1').textContent = text('draw.step');
  element('step-10').textContent = text('draw.steps', { n: 10 });
  element('step-play').textContent = text(playing ? 'draw.pause' : 'draw.play');
  element('wgsl-open').textContent = text('draw.wgsl.open', { file: 'renoise.wgsl' });
  element('kept').textContent = drawings.length ? text('draw.kept', { n: drawings.length }) : '';
  const glyph = element('glyph');
  const chosen = glyph.value;
  glyph.replaceChildren(new Option(text('draw.none'), ''), ...Object.keys(GLYPHS).map((name) => new Option(glyphName(name), name)));
  glyph.value = chosen;
  element('data-own').textContent = text('train.own', { n: drawings.length });
  if (levels.values) describe();
}

/// Puts a dropped or chosen picture onto the pad.
export async function openPicture(file) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    throw new Error(text('error.picture'));
  }
  clear();
  const scale = Math.max(pad.width / image.width, pad.height / image.height);
  const [width, height] = [image.width * scale, image.height * scale];
  ink.drawImage(image, (pad.width - width) / 2, (pad.height - height) / 2, width, height);
  await jumpTo(now());
}

function keep() {
  const values = picture(16);
  const pixels = Uint8Array.from(values, (v) => Math.round((v + 1) * 127.5));
  drawings.push({ pixels, label: element('glyph').value || 'drawing' });
  showDrawings();
}

function showDrawings() {
  label();
  const list = element('own-list');
  list.hidden = drawings.length === 0;
  list.replaceChildren(...drawings.map((drawing, i) => {
    const figure = thumbnail(Float32Array.from(drawing.pixels, (v) => v / 127.5 - 1), 16, 16, 1, glyphName(drawing.label));
    const button = document.createElement('button');
    button.className = 'link';
    button.textContent = '×';
    button.setAttribute('aria-label', text('train.remove'));
    button.onclick = () => { drawings.splice(i, 1); showDrawings(); };
    figure.append(button);
    return figure;
  }));
}

export function start() {
  clear();
  let last = null;
  const place = (event) => {
    const box = pad.getBoundingClientRect();
    return [((event.clientX - box.left) * pad.width) / box.width, ((event.clientY - box.top) * pad.height) / box.height];
  };
  pad.addEventListener('pointerdown', (event) => {
    if (event.button !== 0) return;
    pad.setPointerCapture(event.pointerId);
    last = place(event);
    stroke([last], pressed(event));
  });
  pad.addEventListener('pointermove', (event) => {
    if (!last) return;
    for (const part of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
      const next = place(part);
      stroke([last, next], pressed(part));
      last = next;
    }
    refreshDrawn();
  });
  for (const end of ['pointerup', 'pointercancel']) pad.addEventListener(end, () => { if (last) { last = null; refreshDrawn(); } });
  // A mouse has no pressure and says 0.5; a pen makes the stroke thin and thick.
  const pressed = (event) => Number(element('brush').value) * (event.pointerType === 'pen' ? 0.4 + 1.2 * event.pressure : 1);
  const refreshDrawn = () => { walk = null; refresh(); };
  element('clear').onclick = () => { clear(); element('glyph').value = ''; refreshDrawn(); };
  element('glyph').onchange = () => {
    state.set('glyph', element('glyph').value);
    drawGlyph(element('glyph').value);
    refreshDrawn();
  };
  element('t').oninput = () => jumpTo(now());
  element('t-number').onchange = () => jumpTo(Math.min(STEPS, Math.max(0, Math.round(Number(element('t-number').value) || 0))));
  element('side').onchange = () => { state.set('side', side()); jumpTo(now()); };
  element('noise-seed').onchange = () => { state.set('noise-seed', seed()); jumpTo(now()); };
  element('schedule').onchange = () => { state.set('schedule', element('schedule').value); jumpTo(now()); };
  element('step-1').onclick = () => attempt(() => steps(1));
  element('step-10').onclick = () => attempt(() => steps(10));
  element('step-play').onclick = () => attempt(play);
  element('jump').onclick = () => jumpTo(now());
  element('keep').onclick = keep;
  element('picture').onchange = ({ target }) => attempt(async () => { if (target.files[0]) await openPicture(target.files[0]); target.value = ''; });
  element('wgsl-open').onclick = () => openShader('renoise');
  label();
  document.addEventListener('language', label);
  document.addEventListener('device', () => { walk = null; refresh(); });
  read();
}

/// Takes what the address says.
export function read() {
  setT(state.number('t', 250, 0, STEPS));
  element('noise-seed').value = state.number('noise-seed', 1, 0, 2 ** 32);
  element('side').value = [16, 32, 64].includes(state.number('side', 64, 16, 64)) ? state.number('side', 64, 16, 64) : 64;
  element('schedule').value = state.get('schedule', 'squaredcos_cap_v2');
  const glyph = state.get('glyph', 'tree');
  element('glyph').value = glyph in GLYPHS ? glyph : '';
  if (element('glyph').value) drawGlyph(glyph);
  walk = null;
  return refresh();
}
