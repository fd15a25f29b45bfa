// Sample: pictures from a trained model, step by step.

import { program, run, kept } from './engine.js';
import * as state from './state.js';
import { t as text } from './strings.js';
import { show, thumbnail } from './pictures.js';
import { attempt, element, notice } from './page.js';
import { glyphName } from './draw.js';

/// The model in use: { model, facts, name: how it is called, a function of nothing }.
let chosen = null;
let stopping = false;
let drawing = false;
/// The model in training, if there is one: set by the tab of training.
export const trained = { model: null, steps: 0 };

/// Thumbnails of a drawing, at most.
const SHOWN = 12;

export const currentModel = () => chosen;

const painter = kept((engine, model, options) => program.Painter.open(engine, model, options));

export function options() {
  return JSON.stringify({
    sampler: element('sampler').value,
    steps: Math.max(1, Math.round(Number(element('sample-steps').value) || 1)),
    guidance: element('guidance').disabled ? 1 : Number(element('guidance').value),
  });
}

let serial = 0;

export function use(model, name) {
  chosen = { model, facts: JSON.parse(model.facts()), name, serial: (serial += 1) };
  const { facts } = chosen;
  const select = element('class');
  const before = state.get('class', '9');
  const count = (facts.labels ?? 0) - (facts.null_label === null ? 0 : 1);
  select.replaceChildren(...Array.from({ length: Math.max(count, 0) }, (_, i) => new Option(glyphName(facts.class_names[i] ?? String(i)), i)));
  if (facts.null_label !== null) select.append(new Option(text('sample.noclass'), facts.null_label));
  select.disabled = select.options.length === 0;
  if ([...select.options].some((option) => option.value === before)) select.value = before;
  element('guidance').disabled = facts.null_label === null;
  for (const warning of facts.warnings) notice(text('sample.warning', { warning }));
  const own = facts.scheduler._class_name;
  if (name !== builtIn && own && [...element('sampler').options].some((option) => option.value === own)) element('sampler').value = own;
  words();
}

const builtIn = () => text('sample.model.builtin');

function words() {
  if (!chosen) return;
  const { facts, name } = chosen;
  element('model-name').textContent = name();
  element('model-facts').textContent = text('sample.facts', { height: facts.shape[0], width: facts.shape[1], parameters: facts.parameters.toLocaleString() });
  element('guidance-note').textContent = text(facts.null_label === null ? 'sample.noguidance' : 'sample.guided');
  element('model-trained').disabled = trained.model === null;
}


async function draw() {
  if (drawing) return;
  drawing = true;
  stopping = false;
  const [height, width, channels] = chosen.facts.shape;
  const seed = Math.max(0, Math.round(Number(element('seed').value) || 0));
  const label = Number(element('class').value) || 0;
  remember();
  element('sample-stop').disabled = false;
  element('sample-progress').textContent = text('sample.preparing');
  const begun = performance.now();
  let total = 0;
  try {
    await run(async (engine) => {
      const wanted = options();
      const tool = await painter(engine, `${chosen.serial} ${wanted}`, chosen.model, wanted);
      total = tool.steps();
      element('strip').replaceChildren();
      const every = Math.max(1, Math.ceil(total / SHOWN));
      const picture = await tool.draw(BigInt(seed), Uint32Array.of(label), (done, all, values) => {
        show(element('sampled'), values, height, width, channels);
        element('sample-progress').textContent = text('sample.progress', { done, total: all });
        if (done % every === 0 || done === all) element('strip').append(thumbnail(values, height, width, channels, String(done)));
        return !stopping;
      });
      show(element('sampled'), picture, height, width, channels);
    });
    const seconds = ((performance.now() - begun) / 1000).toFixed(1);
    element('sample-progress').textContent = text('sample.done', { seed, total, seconds });
    document.body.dataset.drawn = String(Number(document.body.dataset.drawn ?? 0) + 1);
  } finally {
    drawing = false;
    element('sample-stop').disabled = true;
  }
}

function remember() {
  for (const id of ['seed', 'class', 'sampler', 'guidance']) state.set(id, element(id).value);
  state.set('steps', element('sample-steps').value);
}

/// Opens files that were dropped or chosen: [path, File] pairs.
export async function openModel(files, name) {
  program.unmount('model');
  const zip = files.length === 1 && /\.zip$/i.test(files[0][0]);
  const bytes = async (file) => new Uint8Array(await file.arrayBuffer());
  if (zip) program.mount_zip('model', await bytes(files[0][1]));
  else if (files.length === 1 && /\.safetensors$/i.test(files[0][0])) {
    // Weights alone say nothing of their network: they are taken for those of the built-in one.
    program.mount('model/config.toml', builtInConfig.bytes);
    program.mount('model/model.safetensors', await bytes(files[0][1]));
  } else for (const [path, file] of files) program.mount(`model/${path}`, await bytes(file));
  use(program.PictureModel.open('model'), () => text('sample.model.own', { name }));
}

const builtInConfig = { bytes: null };

export async function start() {
  const answer = await fetch(new URL('model/config.toml', import.meta.url));
  builtInConfig.bytes = new Uint8Array(await answer.arrayBuffer());
  element('sample-form').onsubmit = (event) => { event.preventDefault(); attempt(draw); };
  element('sample-next').onclick = () => {
    element('seed').value = Number(element('seed').value) + 1;
    attempt(draw);
  };
  element('sample-stop').onclick = () => { stopping = true; };
  element('model-builtin').onclick = () => attempt(async () => use(program.PictureModel.open('built-in'), builtIn));
  element('model-trained').onclick = () => attempt(async () => useTrained());
  element('model-file').onchange = ({ target }) => attempt(async () => {
    const file = target.files[0];
    if (file) await openModel([[file.name, file]], file.name);
    target.value = '';
  });
  element('model-folder').onchange = ({ target }) => attempt(async () => {
    const files = [...target.files].map((file) => [file.webkitRelativePath.split('/').slice(1).join('/'), file]);
    if (files.length) await openModel(files, target.files[0].webkitRelativePath.split('/')[0]);
    target.value = '';
  });
  element('sample-equation').innerHTML = EQUATION;
  document.addEventListener('language', words);
  read();
  use(program.PictureModel.open('built-in'), builtIn);
}

export function useTrained() {
  const { model, steps } = trained;
  use(model, () => text('sample.model.trained', { step: steps }));
}

export function read() {
  element('seed').value = state.number('seed', 0, 0, Number.MAX_SAFE_INTEGER);
  element('sample-steps').value = state.number('steps', 50, 1, 1000);
  element('sampler').value = state.get('sampler', 'DDIMScheduler');
  if (element('sampler').selectedIndex < 0) element('sampler').value = 'DDIMScheduler';
  const guidance = Number(state.get('guidance', '1'));
  element('guidance').value = Number.isFinite(guidance) ? guidance : 1;
  const label = state.get('class', '9');
  if ([...element('class').options].some((option) => option.value === label)) element('class').value = label;
}

const bar = (letter, index) => `<msub><mover accent="true"><mi>${letter}</mi><mo>‾</mo></mover><mi>${index}</mi></msub>`;
const EQUATION = `<math display="block"><mrow><mover accent="true"><mi>x</mi><mo>^</mo></mover><mo>=</mo>
  <mfrac><mrow><msub><mi>x</mi><mi>t</mi></msub><mo>−</mo>${bar('b', 't')}<mo>&#x2062;</mo><mi>f</mi></mrow>${bar('a', 't')}</mfrac>
  <mo>,</mo><mspace width="1.5em"/><msub><mi>x</mi><mi>s</mi></msub><mo>=</mo>${bar('a', 's')}<mo>&#x2062;</mo><mover accent="true"><mi>x</mi><mo>^</mo></mover>
  <mo>+</mo>${bar('b', 's')}<mo>&#x2062;</mo><mi>f</mi></mrow></math>`;
