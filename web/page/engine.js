// The program and its device. Calls wait for each other, since an object of the program serves one at a time.

import init, * as program from './inkwash.js';

export { program };

let engine = null;
let queue = Promise.resolve();
/// Edited shaders in use: texts by name.
let edited = {};
/// What the device is.
let facts = null;
/// Counts devices: what was prepared on an earlier one is of no use.
let generation = 0;

/// For the tests, and for whoever compares: ?default-limits and ?kernels=workgroup.
const asked = new URLSearchParams(location.search);
const options = JSON.stringify({ default_limits: asked.has('default-limits'), kernels: asked.get('kernels') });

/// Another device: with these shaders, an object of texts by name as JSON.
export const openDevice = (shaders) => program.Engine.open(shaders, options);
const loaded = { time: 0 };

/// Loads the program and the built-in model, and opens the device.
export async function start() {
  const at = (file) => new URL(file, import.meta.url);
  const bytes = async (file) => {
    const answer = await fetch(at(file));
    if (!answer.ok) throw new Error(`${file}: ${answer.status}`);
    return new Uint8Array(await answer.arrayBuffer());
  };
  const model = Promise.all([bytes('model/config.toml'), bytes('model/model.safetensors')]);
  model.catch(() => {});
  await init({ module_or_path: at('inkwash_bg.wasm') });
  engine = await openDevice('{}');
  facts = JSON.parse(engine.facts());
  loaded.time = performance.now();
  const [config, weights] = await model;
  program.mount('built-in/config.toml', config);
  program.mount('built-in/model.safetensors', weights);
}

export const secondsToOpen = () => loaded.time / 1000;

/// Runs `work(engine)` after whatever runs now.
export function run(work) {
  const result = queue.then(() => work(engine));
  queue = result.catch(() => {});
  return result;
}

/// Opens another device, with these shaders in place of the embedded ones. `before(engine)` may still use the old one, and what
/// `after(engine, what before gave)` does belongs to the change: if it fails, everything stays as it was.
export function reopen(shaders = edited, before = async () => {}, after = async () => {}) {
  return run(async (old) => {
    const next = await openDevice(JSON.stringify(shaders));
    await after(next, await before(old));
    engine = next;
    facts = JSON.parse(engine.facts());
    edited = shaders;
    generation += 1;
    document.dispatchEvent(new Event('device'));
  });
}

export const deviceFacts = () => facts;
export const isCpu = () => facts.kind === 'cpu';

export const shadersInUse = () => edited;

/// Keeps what `make(engine, ...)` gives until key or device change.
export function kept(make) {
  let last = { key: null, generation: -1, value: null };
  return async (engine, key, ...rest) => {
    if (last.key !== key || last.generation !== generation) {
      last = { key: null, generation, value: null };
      last = { key, generation, value: await make(engine, ...rest) };
    }
    return last.value;
  };
}

/// A moment in which the browser draws and listens. A hidden tab draws nothing, and must not wait for it.
export const breathe = () => new Promise((resolve) => {
  if (document.hidden) setTimeout(resolve, 0);
  else requestAnimationFrame(() => setTimeout(resolve, 0));
});
