
// Memory: the tensors in working memory during each launch, stacked in the order in which they are computed.

const MEM = { height: 260, left: 74, top: 10, bottom: 34 };
const memory = { alive: [], totals: [], peak: 0, chosen: 0, boxes: [] };

function startMemory() {
  const canvas = byId("memory");
  const { tensors, states, inputs, constants, outputs, working } = profile.memory;
  const parts = `${bytes(states)} live across steps (weights, moments), ${bytes(inputs)} inputs, ${bytes(constants)} constants, ` +
    `${bytes(outputs)} outputs, and ${bytes(working)} of working memory`;
  const total = `${bytes(states + inputs + constants + outputs + working)} of device memory: ${parts}`;
  if (tensors.length === 0) {
    byId("memory-totals").textContent = `${total}.`;
    canvas.hidden = true;
    return;
  }
  memory.alive = launches.map(() => []);
  tensors.forEach((t, number) => { for (let i = t.first; i <= t.last; i++) memory.alive[i].push(number); });
  memory.totals = memory.alive.map((numbers) => numbers.reduce((sum, n) => sum + tensors[n].bytes, 0));
  memory.peak = memory.chosen = memory.totals.indexOf(Math.max(...memory.totals));
  byId("memory-totals").textContent = `${total}, whose tensors need ${bytes(memory.totals[memory.peak])} at the most. Drawn is the working memory: each band is a tensor, ` +
    `in the colour of the phase that computes it. A click or the arrows choose a launch, whose tensors are listed below.`;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const launch = Math.floor((event.clientX - box.left - MEM.left) / (box.width - MEM.left) * launches.length);
    return [launch >= 0 && launch < launches.length ? launch : -1, event.clientY - box.top];
  };
  canvas.addEventListener("pointermove", (event) => {
    const [launch, y] = at(event);
    if (launch < 0) return hideTip();
    const total = `${bytes(memory.totals[launch])} in ${memory.alive[launch].length} tensors`;
    const head = [`launch ${launch}  ${labelOf(launches[launch])}`, `${launches[launch].phase}: ${total}`];
    let above = 0;
    const found = memory.alive[launch].find((n) => (above += tensors[n].bytes) >= memoryAt(y));
    const tensor = y < MEM.height - MEM.bottom && found !== undefined ? tensors[found] : null;
    showTip(event.clientX, event.clientY, tensor ? [...head, `here: ${tensor.name}, ${bytes(tensor.bytes)}, from launch ${tensor.first} to ${tensor.last}`] : head);
  });
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("click", (event) => chooseLaunch(at(event)[0]));
  canvas.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 10 : 1;
    const to = { ArrowLeft: memory.chosen - step, ArrowRight: memory.chosen + step, Home: 0, End: launches.length - 1 }[event.key];
    if (to === undefined) return;
    chooseLaunch(Math.min(Math.max(to, 0), launches.length - 1));
    event.preventDefault();
  });
}

const memoryAt = (y) => (MEM.height - MEM.bottom - y) / (MEM.height - MEM.top - MEM.bottom) * memory.totals[memory.peak] * 1.06;

function chooseLaunch(launch) {
  if (launch < 0) return;
  memory.chosen = launch;
  drawMemory();
}

function drawMemory() {
  if (memory.totals.length === 0) return;
  const { tensors } = profile.memory, shades = colours();
  const [context, width] = contextOf(byId("memory"), MEM.height);
  const floor = MEM.height - MEM.bottom, most = memory.totals[memory.peak] * 1.06;
  const px = (launch) => MEM.left + launch / launches.length * (width - MEM.left);
  const tall = (size) => size / most * (floor - MEM.top);
  context.textAlign = "right";
  for (const size of ticks(0, most, 5)) {
    context.fillStyle = shades.line;
    context.fillRect(MEM.left, floor - tall(size), width - MEM.left, 1);
    context.fillStyle = shades.quiet;
    context.fillText(size === 0 ? "0" : bytes(size), MEM.left - 8, floor - tall(size));
  }
  // Three shades in turns, so that neighbours are told apart.
  const bands = Object.fromEntries(PHASES.map((phase) => [phase, [0.95, 0.65, 0.8].map((part) => mixed(shades[phase], shades.card, part))]));
  launches.forEach((_, launch) => {
    // Whole pixels, and one at the least: so there is no seam, and no launch is lost.
    const x = Math.floor(px(launch)), wide = Math.max(Math.floor(px(launch + 1)) - x, 1);
    let y = floor;
    for (const n of memory.alive[launch]) {
      const high = tall(tensors[n].bytes);
      y -= high;
      context.fillStyle = bands[tensors[n].phase][n % 3];
      context.fillRect(x, y, wide, high);
    }
  });
  context.textAlign = "center";
  for (const launch of ticks(0, launches.length, Math.max(2, width / 110)).filter(Number.isInteger)) {
    context.fillStyle = shades.line;
    context.fillRect(px(launch), floor, 1, 4);
    context.fillStyle = shades.quiet;
    if (px(launch) < width - 12) context.fillText(launch, px(launch), floor + 12);
  }
  context.fillText("launches, in the order of the step", (MEM.left + width) / 2, floor + 27);
  const mark = (launch, shade, words) => {
    const x = (px(launch) + px(launch + 1)) / 2;
    context.strokeStyle = shade;
    context.lineWidth = 1.5;
    context.beginPath();
    context.moveTo(x, MEM.top - 6);
    context.lineTo(x, floor);
    context.stroke();
    context.fillStyle = shades.ink;
    context.textAlign = x > width / 2 ? "right" : "left";
    context.fillText(words, x + (x > width / 2 ? -6 : 6), MEM.top);
  };
  mark(memory.peak, shades.ink, `peak: ${bytes(memory.totals[memory.peak])} at launch ${memory.peak}`);
  if (memory.chosen !== memory.peak) mark(memory.chosen, shades.accent, "");
  listMemory();
}

function listMemory() {
  const { tensors } = profile.memory, launch = memory.chosen, TOP = 12;
  const alive = [...memory.alive[launch]].sort((a, b) => tensors[b].bytes - tensors[a].bytes);
  const total = memory.totals[launch];
  const rows = alive.slice(0, TOP).map((n) => {
    const t = tensors[n];
    return make("tr", {}, make("td", {}, bytes(t.bytes)), make("td", {}, percent(t.bytes / total)), make("td", {}, t.phase),
      make("td", {}, `${t.first} to ${t.last}`), make("td", { class: "name" }, t.name));
  });
  const rest = alive.slice(TOP).reduce((sum, n) => sum + tensors[n].bytes, 0);
  if (rest > 0) {
    rows.push(make("tr", { class: "quiet" }, make("td", {}, bytes(rest)), make("td", {}, percent(rest / total)), make("td"), make("td"),
      make("td", { class: "name" }, `${alive.length - TOP} more`)));
  }
  const heads = ["size", "share", "computed in", "alive in launches"].map((name) => make("th", { scope: "col" }, name));
  byId("memory-list").replaceChildren(
    make("p", {}, `Alive in launch ${launch}${launch === memory.peak ? ", the peak" : ""} (${fullName(launches[launch])}): ${bytes(total)}`),
    make("table", {}, make("thead", {}, make("tr", {}, ...heads, make("th", { scope: "col", class: "name" }, "tensor"))), make("tbody", {}, ...rows)));
}
