"use strict";

const profile = JSON.parse(document.getElementById("profile").textContent);
const launches = profile.launches;
const byId = (id) => document.getElementById(id);
const PHASES = ["data", "noise", "forward", "loss", "recompute", "backward", "update", "sample"];

// Numbers as text.

const digits = (x) => (x === 0 ? "0" : x.toPrecision(Math.abs(x) >= 1000 ? 4 : 3)).replace(/e\+?(-?\d+)/, "·10^$1").replace("-", "\u2212");

function scaled(x, units) {
  const size = Math.abs(x);
  const [factor, unit] = units.find(([factor]) => size >= factor) || units[units.length - 1];
  const value = x / factor;
  return `${Math.abs(value) >= 1000 ? Math.round(value) : digits(value)}\u00a0${unit}`;
}
const seconds = (x) => scaled(x, [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]]);
const bytes = (x) => scaled(x, [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]]);
const count = (x) => scaled(x, [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]]);
const percent = (x) => `${(100 * x).toFixed(Math.abs(x) < 0.0995 ? 2 : 1)}\u00a0%`.replace("-", "\u2212");

/** The quantile of sorted numbers, between neighbours in proportion. */
function quantile(sorted, q) {
  const at = q * (sorted.length - 1), low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

// Launches and sums of them.

const kernelOf = (l) => `${l.shader}:${l.entry}`;
const labelOf = (l) => `${l.module}${l.module ? "/" : ""}${l.op}`;
const fullName = (l) => `${l.phase} ${labelOf(l)} ${kernelOf(l)} [${l.variant}] ${l.groups.join("x")}`;

/** The modules within each other that a path names; a number goes with the name before it: `up_blocks.0`, then `resnets.1`. */
const modulesOf = (path) => path.match(/[^.]+(?:\.\d+)*/g) || [];

const wholeNames = launches.map((l) => fullName(l).toLowerCase());

/** What launches take and do together. Quantiles are those of the sums of every run. */
function sumOf(numbers) {
  const of = numbers.map((i) => launches[i]);
  const add = (value) => of.reduce((sum, l) => sum + value(l), 0);
  const runs = Array.from({ length: profile.runs }, (_, run) => add((l) => l.samples[run])).sort((a, b) => a - b);
  const [median, p5, p95] = [0.5, 0.05, 0.95].map((q) => quantile(runs, q));
  const byKey = (key) => {
    const shares = new Map();
    of.forEach((l) => shares.set(l[key], (shares.get(l[key]) || 0) + l.share));
    return [...shares].reduce((a, b) => (b[1] > a[1] ? b : a), ["", -1])[0];
  };
  const flops = add((l) => l.flops), moved = add((l) => l.bytes);
  return {
    numbers, median, p5, p95, flops, bytes: moved,
    share: add((l) => l.share), calls: add((l) => l.calls), gap: add((l) => l.gap_seconds),
    roof: median > 0 ? add((l) => l.roof_share * l.seconds.median) / median : 0,
    flopsPerSecond: median > 0 ? flops / median : 0, bytesPerSecond: median > 0 ? moved / median : 0,
    phase: byKey("phase"), limit: byKey("limit"),
  };
}

/** Launch numbers that share a key, by that key. */
function grouped(numbers, key) {
  const groups = new Map();
  for (const i of numbers) {
    const name = key(launches[i], i);
    groups.has(name) ? groups.get(name).push(i) : groups.set(name, [i]);
  }
  return groups;
}

// The filter, which all charts and the table share.

const FIELDS = {
  phase: (l, _, text) => l.phase === text,
  module: (l, _, text) => l.module.toLowerCase() === text || l.module.toLowerCase().startsWith(text + "."),
  op: (l, _, text) => l.op.toLowerCase() === text,
  kernel: (l, _, text) => kernelOf(l).toLowerCase() === text,
  limit: (l, _, text) => l.limit === text,
  launch: (_, i, text) => String(i) === text,
};
const all = launches.map((_, i) => i);
let shown = new Set(all);
const listeners = [];

/** Whether a filter is set and leaves this launch out. */
const hidden = (i) => !shown.has(i);

function setFilter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const matches = (i) => words.every((word) => {
    const colon = word.indexOf(":");
    const field = colon > 0 && Object.hasOwn(FIELDS, word.slice(0, colon)) && FIELDS[word.slice(0, colon)];
    return field ? field(launches[i], i, word.slice(colon + 1)) : wholeNames[i].includes(word);
  });
  shown = new Set(all.filter(matches));
  if (byId("filter").value !== text) byId("filter").value = text;
  const share = all.reduce((sum, i) => sum + (shown.has(i) ? launches[i].share : 0), 0);
  byId("matches").textContent = words.length
    ? `${shown.size} of ${launches.length} launches, ${percent(share)} of their time`
    : `${launches.length} launches`;
  listeners.forEach((listener) => listener());
}

/** Filters by this, or shows everything again if it is the filter already. */
const toggleFilter = (text) => setFilter(byId("filter").value === text ? "" : text);

// Elements, colours, and what hovers beside the pointer.

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    key.startsWith("on") ? element.addEventListener(key.slice(2), value) : element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

function makeSvg(name, attributes = {}, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** The colours of the page as it is, light or dark, for canvases. */
function colours() {
  const names = ["ground", "card", "ink", "quiet", "line", "soft", "accent", "host", "on-fill", ...PHASES];
  return Object.fromEntries(names.map((name) => [name, colour(name)]));
}

/** A mixture of two colours of the style sheet, `#rrggbb` both. */
function mixed(a, b, part) {
  const channel = (hex, i) => parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16);
  return `rgb(${[0, 1, 2].map((i) => Math.round(part * channel(a, i) + (1 - part) * channel(b, i))).join(" ")})`;
}

/** Shows lines of text beside a point of the window; the first is the title. */
function showTip(x, y, [title, ...lines]) {
  const tip = byId("tip");
  tip.replaceChildren(make("b", {}, title), ...lines.filter(Boolean).map((line) => make("div", {}, line)));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 14 + box.width > innerWidth ? x - 14 - box.width : x + 14;
  const top = y + 14 + box.height > innerHeight ? y - 14 - box.height : y + 14;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}
const hideTip = () => (byId("tip").hidden = true);

/** What is told of launches that are summed up. */
function facts(title, sum) {
  return [
    title,
    `${seconds(sum.median)} (5 to 95 %: ${seconds(sum.p5)} to ${seconds(sum.p95)}), ${percent(sum.share)} of all launches`,
    `${sum.calls} call${sum.calls === 1 ? "" : "s"}, ${count(sum.flops)}FLOP, ${bytes(sum.bytes)} to move`,
    `${count(sum.flopsPerSecond)}FLOP/s, ${bytes(sum.bytesPerSecond)}/s, ${percent(sum.roof)} of the roof`,
    `limit: ${sum.limit}`,
  ];
}

function launchFacts(i) {
  const l = launches[i];
  const lines = facts(`${i}  ${labelOf(l)}`, sumOf([i]));
  lines.splice(1, 0, `${l.phase}, ${kernelOf(l)}, ${l.groups.join("x")} workgroups`, l.variant && `[${l.variant}]`);
  return lines;
}

/** A context of a canvas whose units are CSS pixels, made as wide as the page has room and this high. */
function contextOf(canvas, height) {
  const width = canvas.clientWidth, ratio = devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.font = FONT;
  context.textBaseline = "middle";
  return [context, width];
}

/** The font of charts. */
const FONT = `12px ${getComputedStyle(document.body).fontFamily}`;
const ruler = document.createElement("canvas").getContext("2d");
ruler.font = FONT;
const textWidth = (text) => ruler.measureText(text).width;

/** As much of a text as there is room for; nothing if that is less than two letters. */
function fitting(text, room) {
  if (textWidth(text) <= room) return text;
  let length = Math.min(text.length, Math.floor(room / 5));
  while (length > 1 && textWidth(`${text.slice(0, length)}…`) > room) length--;
  return length > 1 ? `${text.slice(0, length)}…` : "";
}

/** Round numbers from low to high, about so many. */
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((n) => n * power >= rough) || 10);
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high; n++) found.push(n * step);
  return found;
}

/** Moves the focus among elements of one chart by the keys that `next` knows, so that the chart is one stop of the Tab key. Enter
    activates, which draws them anew: `find` gives what has come in the place of the elements. */
function rove(elements, next, activate, find) {
  elements.forEach((element, i) => {
    element.setAttribute("tabindex", i === 0 ? "0" : "-1");
    element.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        activate(i);
        find()[i]?.focus();
      } else {
        const to = next(i, event.key);
        if (to === undefined || !elements[to]) return;
        elements.forEach((other, j) => other.setAttribute("tabindex", j === to ? "0" : "-1"));
        elements[to].focus();
      }
      event.preventDefault();
    });
  });
}
