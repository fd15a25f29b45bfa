
// Timeline: what the host and the device did in one step, and when.

const ROWS = [["host", 22], ["phase", 22], ["module", 22], ["part", 22], ["launch", 30]];
const LINE = { left: 74, axis: 24, gap: 5 };
const timeline = { bars: [], begin: 0, end: 1, whole: [0, 1], pressed: null };

/** The bars of every row, in seconds since the step began. */
function timelineBars() {
  const { host, device, submitted } = profile.timeline;
  const bars = host.map((h) => ({ row: "host", name: h.name, begin: h.begin, end: h.end, shade: "host", launches: null }));
  const spans = device.map((s) => ({ launch: s.launch, begin: s.begin + submitted, end: s.end + submitted }));
  const runs = (row, name) => {
    let bar = null;
    for (const s of spans) {
      const l = launches[s.launch], called = name(l), shade = l.phase;
      if (!bar || bar.name !== called || bar.shade !== shade) {
        bar = { row, name: called, begin: s.begin, end: s.end, shade, launches: [] };
        bars.push(bar);
      }
      bar.end = s.end;
      bar.launches.push(s.launch);
    }
  };
  runs("phase", (l) => l.phase);
  runs("module", (l) => modulesOf(l.module)[0] || "");
  runs("part", (l) => modulesOf(l.module).slice(1).join("."));
  spans.forEach((s) => bars.push({ row: "launch", name: launches[s.launch].op, begin: s.begin, end: s.end,
    shade: launches[s.launch].phase, launches: [s.launch] }));
  return bars.filter((bar) => bar.name !== "");
}

function startTimeline() {
  timeline.bars = timelineBars();
  const end = Math.max(...timeline.bars.map((bar) => bar.end), 1e-9);
  timeline.whole = [0, end * 1.005];
  [timeline.begin, timeline.end] = timeline.whole;
  const canvas = byId("timeline");
  const at = (event) => event.clientX - canvas.getBoundingClientRect().left;
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== canvas) return;
    event.preventDefault();
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) moveTimeline(event.deltaX / canvas.clientWidth);
    else zoomTimeline(1.0015 ** event.deltaY, timeOf(at(event)));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    timeline.pressed = { x: at(event), begin: timeline.begin, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const pressed = timeline.pressed;
    if (pressed && (pressed.moved || Math.abs(at(event) - pressed.x) > 3)) {
      pressed.moved = true;
      hideTip();
      const length = timeline.end - timeline.begin;
      showRange(pressed.begin - (at(event) - pressed.x) / (canvas.clientWidth - LINE.left) * length, length);
      return;
    }
    const bar = barAt(at(event), event.clientY - canvas.getBoundingClientRect().top);
    canvas.style.cursor = bar && bar.launches ? "pointer" : "grab";
    bar ? showTip(event.clientX, event.clientY, barFacts(bar)) : hideTip();
  });
  canvas.addEventListener("pointerup", (event) => {
    const clicked = timeline.pressed && !timeline.pressed.moved;
    timeline.pressed = null;
    const bar = clicked && barAt(at(event), event.clientY - canvas.getBoundingClientRect().top);
    if (bar && bar.launches) toggleFilter(barFilter(bar));
  });
  canvas.addEventListener("pointercancel", () => (timeline.pressed = null));
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("dblclick", () => showRange(...timeline.whole));
  const middle = () => (timeline.begin + timeline.end) / 2;
  const keys = {
    ArrowLeft: () => moveTimeline(-0.1), ArrowRight: () => moveTimeline(0.1), "0": () => showRange(...timeline.whole),
    "+": () => zoomTimeline(0.6, middle()), "=": () => zoomTimeline(0.6, middle()), "-": () => zoomTimeline(1 / 0.6, middle()),
    Home: () => showRange(0, timeline.end - timeline.begin),
    End: () => showRange(timeline.whole[1], timeline.end - timeline.begin),
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
    keys[event.key]();
    event.preventDefault();
  });
  byId("zoom-in").addEventListener("click", keys["+"]);
  byId("zoom-out").addEventListener("click", keys["-"]);
  byId("zoom-all").addEventListener("click", keys["0"]);
}

const timeOf = (x) => timeline.begin + (x - LINE.left) / (byId("timeline").clientWidth - LINE.left) * (timeline.end - timeline.begin);

/** Shows so many seconds from this one on, within the step. */
function showRange(begin, length) {
  const [, end] = timeline.whole;
  length = Math.min(Math.max(length, 1e-7), end);
  timeline.begin = Math.min(Math.max(begin, 0), end - length);
  timeline.end = timeline.begin + length;
  drawTimeline();
}
const moveTimeline = (part) => showRange(timeline.begin + part * (timeline.end - timeline.begin), timeline.end - timeline.begin);
function zoomTimeline(factor, around) {
  const length = (timeline.end - timeline.begin) * factor;
  showRange(around - (around - timeline.begin) * factor, length);
}

function rowTop(row) {
  let top = LINE.axis;
  for (const [name, height] of ROWS) {
    if (name === row) return [top, height];
    top += height + LINE.gap;
  }
  return [top, 0];
}

/** The bar at a point; the nearest within two pixels, since many are thin. */
function barAt(x, y) {
  const row = ROWS.find(([name, height]) => { const [top] = rowTop(name); return y >= top && y <= top + height; });
  if (!row || x < LINE.left) return null;
  const time = timeOf(x), slack = timeOf(x + 2) - time;
  const away = (bar) => Math.max(bar.begin - time, time - bar.end, 0);
  return timeline.bars.filter((bar) => bar.row === row[0] && away(bar) <= slack).sort((a, b) => away(a) - away(b))[0] || null;
}

function barFacts(bar) {
  const when = `from ${seconds(bar.begin)} to ${seconds(bar.end)} of this step: ${seconds(bar.end - bar.begin)}`;
  if (!bar.launches) return [`host: ${bar.name}`, when];
  const words = bar.launches.length === 1 ? launchFacts(bar.launches[0])
    : [`${bar.row === "phase" ? "" : `${bar.shade} `}${barModule(bar) || bar.name}`, `${bar.launches.length} launches`];
  return [...words, when];
}
const barModule = (bar) => {
  const path = launches[bar.launches[0]].module;
  return bar.row === "module" ? modulesOf(path)[0] : bar.row === "part" ? path : "";
};
function barFilter(bar) {
  if (bar.row === "launch") return `launch:${bar.launches[0]}`;
  return bar.row === "phase" ? `phase:${bar.name}` : `phase:${bar.shade} module:${barModule(bar)}`;
}

function drawTimeline() {
  const height = rowTop("")[0] + 2;
  const [context, width] = contextOf(byId("timeline"), height);
  const shades = colours(), { begin, end } = timeline;
  const px = (time) => LINE.left + (time - begin) / (end - begin) * (width - LINE.left);
  context.fillStyle = shades.quiet;
  context.textAlign = "right";
  for (const [name] of ROWS) {
    const [top, tall] = rowTop(name);
    context.fillStyle = shades.soft;
    context.fillRect(LINE.left, top, width - LINE.left, tall);
    context.fillStyle = shades.quiet;
    context.fillText({ part: "in module", launch: "launches" }[name] || name, LINE.left - 8, top + tall / 2);
  }
  context.textAlign = "center";
  for (const time of ticks(begin, end, Math.max(2, width / 130))) {
    const x = px(time);
    context.fillStyle = shades.line;
    context.fillRect(x, 18, 1, height - 20);
    context.fillStyle = shades.quiet;
    if (x > LINE.left + 20 && x < width - 24) context.fillText(time === 0 ? "0" : seconds(time), x, 9);
  }
  context.save();
  context.beginPath();
  context.rect(LINE.left, 0, width - LINE.left, height);
  context.clip();
  context.textAlign = "left";
  for (const bar of timeline.bars) {
    if (bar.end < begin || bar.begin > end) continue;
    const [top, tall] = rowTop(bar.row);
    const x = px(bar.begin), wide = Math.max(px(bar.end) - x, 0.6);
    context.globalAlpha = bar.launches && bar.launches.every(hidden) ? 0.13 : 1;
    context.fillStyle = shades[bar.shade];
    // A seam between neighbours that are wide enough to show one.
    context.fillRect(x, top, wide > 4 ? wide - 1 : wide, tall);
    const from = Math.max(x, LINE.left), room = Math.min(x + wide, width) - from - 8;
    if (room > 24) {
      context.fillStyle = shades["on-fill"];
      context.fillText(fitting(bar.name, room), from + 4, top + tall / 2 + 0.5);
    }
  }
  context.restore();
  byId("timeline-range").textContent = `${begin === 0 ? "0" : seconds(begin)} to ${seconds(end)}`;
}
