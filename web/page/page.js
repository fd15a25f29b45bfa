// Tabs, notices, and what to do when something fails.

import { reopen } from './engine.js';
import * as state from './state.js';
import { t as text } from './strings.js';

export const element = (id) => document.getElementById(id);

const TABS = ['draw', 'sample', 'train', 'inside'];
const shown = [];

/// Calls `listener` whenever this tab is shown.
export const whenShown = (tab, listener) => shown.push([tab, listener]);

export function showTab(tab) {
  const wanted = TABS.includes(tab) ? tab : 'draw';
  state.set('tab', wanted);
  for (const name of TABS) {
    element(name).hidden = name !== wanted;
    element(`tab-${name}`).setAttribute('aria-selected', name === wanted);
    element(`tab-${name}`).tabIndex = name === wanted ? 0 : -1;
  }
  for (const [name, listener] of shown) if (name === wanted) listener();
}

export function startTabs() {
  for (const name of TABS) element(`tab-${name}`).onclick = () => showTab(name);
  element('tabs').onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const at = TABS.indexOf(state.get('tab', 'draw'));
    const next = TABS[(at + step + TABS.length) % TABS.length];
    showTab(next);
    element(`tab-${next}`).focus();
  };
  element('notice-close').onclick = () => { element('notice').hidden = true; };
}

/// A sentence at the top, with an action if there is one.
export function notice(message, label, action) {
  element('notice').hidden = false;
  element('notice-text').textContent = message;
  element('notice-action').hidden = !action;
  if (action) {
    element('notice-action').textContent = label;
    element('notice-action').onclick = () => attempt(action);
  }
}

/// What is done on a new device before the page goes on; and what is said when one is lost.
export const recovery = { message: null, restore: null };

/// Runs what the visitor asked for, and says what went wrong. Gives whether it went well.
export async function attempt(work) {
  try {
    await work();
    return true;
  } catch (error) {
    report(error);
    return false;
  }
}

/// Another device, on which the run in training goes on.
async function again() {
  await reopen(undefined, undefined, (engine) => recovery.restore?.(engine));
  notice(text('error.reopened'));
}

export function report(error) {
  const message = error.message ?? String(error);
  if (error.name === 'Stopped') return;
  if (error.name === 'DeviceLost') {
    const said = recovery.message?.(message) ?? text('error.lost', { message });
    notice(said, text('error.reopen'), again);
  } else if (error.name === 'OutOfMemory') {
    notice(text('error.memory', { message }), text('error.reopen'), again);
  } else {
    notice(text('error.other', { message }));
    if (error.name !== 'Input' && error.name !== 'NoDevice') console.warn(error);
  }
}

/// Opens a shader in the editor. Set by the tab that has it.
export const editor = { open: () => {} };

export function openShader(name) {
  showTab('inside');
  editor.open(name);
}
