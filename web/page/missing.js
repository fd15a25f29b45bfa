// What stands in the way of WebGPU here, and what to do.

import { t as text } from './strings.js';

/// Nothing, or { reason, remedies } in words.
export async function missing() {
  if (!isSecureContext) {
    return { reason: text('missing.insecure', { origin: location.origin }), remedies: [text('missing.insecure.remedy')] };
  }
  if (!navigator.gpu) return { reason: text('missing.absent'), remedies: ofBrowser() };
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  if (adapter) return null;
  const flags = ofBrowser().filter((remedy) => remedy === text('missing.chrome.linux'));
  return { reason: text('missing.adapter'), remedies: [...['driver', 'list', 'acceleration'].map((name) => text(`missing.adapter.${name}`)), ...flags] };
}

function ofBrowser() {
  const agent = navigator.userAgent;
  const version = (pattern) => pattern.exec(agent)?.[1];
  const firefox = version(/Firefox\/(\d+)/);
  if (firefox) return [text('missing.firefox', { version: firefox })];
  const chrome = version(/(?:Chrome|Chromium|CriOS)\/(\d+)/);
  if (chrome) {
    const known = [text('missing.chrome', { version: chrome })];
    return /Linux/.test(agent) && !/Android/.test(agent) ? [...known, text('missing.chrome.linux')] : known;
  }
  const safari = version(/Version\/([\d.]+).*Safari/);
  return safari ? [text('missing.safari', { version: safari })] : [text('missing.other')];
}
