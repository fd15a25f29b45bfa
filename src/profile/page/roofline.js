
// Roofline: what kernels reach over their operations per byte, below what the device reaches at the most.

const ROOF = { height: 450, left: 74, right: 16, top: 14, bottom: 44 };

/** The roofs that no kernel is judged by, where they were measured: their fields, whether they bound bytes, and their names. */
const OTHER_ROOFS = [
  ["f16_flops_per_s", false, (value) => `${count(value)}FLOP/s of f16 multiply-adds`],
  ["matrix_flops_per_s", false, (value) => `${count(value)}FLOP/s of matrix units`],
  ["subgroup_shuffles_per_s", false, (value) => `${count(value)} shuffles/s in subgroups`],
  ["workgroup_bytes_per_s", true, (value) => `${bytes(value)}/s read from workgroup memory`],
];

function rooflineDots() {
  const kind = document.querySelector('input[name="dots"]:checked').value;
  const groups = kind === "launch"
    ? all.map((i) => [`launch:${i}`, `${i}  ${labelOf(launches[i])}`, [i]])
    : [...grouped(all, kernelOf)].map(([name, numbers]) => [`kernel:${name}`, name, numbers]);
  const dots = groups.map(([filter, name, numbers]) => ({ filter, name, ...sumOf(numbers) }));
  return dots.sort((a, b) => b.share - a.share);
}

function drawRoofline() {
  const host = byId("roofline"), width = host.clientWidth;
  const dots = rooflineDots(), timed = dots.filter((d) => d.median > 0), drawn = timed.filter((d) => d.flops + d.bytes > 0);
  const { flops_per_s: peak, bytes_per_s: stream } = profile.roofs;
  const others = OTHER_ROOFS.map(([field, ofBytes, words]) => ({ value: profile.roofs[field], ofBytes, words }))
    .filter((roof) => roof.value > 0);
  const power = Math.log10;
  // Intensities that are ratios, with the ridge among them, and a decade on either side for what is none.
  const ratios = drawn.filter((d) => d.flops > 0 && d.bytes > 0).map((d) => d.flops / d.bytes).concat(peak / stream);
  const [x0, x1] = [Math.floor(power(Math.min(...ratios))) - 1, Math.ceil(power(Math.max(...ratios)) + 0.3)];
  const left = 10 ** (x0 + 0.25), right = 10 ** (x1 - 0.15);
  for (const d of drawn) {
    d.x = d.flops === 0 ? left : d.bytes === 0 ? right : d.flops / d.bytes;
    d.y = d.flops === 0 ? d.bytesPerSecond * left : d.flopsPerSecond;
  }
  const highest = Math.max(peak, ...others.filter((r) => !r.ofBytes).map((r) => r.value));
  const top = Math.max(highest, ...drawn.map((d) => d.y));
  const low = Math.min(stream * 10 ** x0, ...drawn.map((d) => d.y));
  const [y0, y1] = [Math.max(Math.floor(power(low)), Math.floor(power(top)) - 6), power(top) + 0.35];
  const px = (x) => ROOF.left + (power(x) - x0) / (x1 - x0) * (width - ROOF.left - ROOF.right);
  const py = (y) => ROOF.top + (y1 - Math.max(power(y), y0)) / (y1 - y0) * (ROOF.height - ROOF.top - ROOF.bottom);

  const svg = makeSvg("svg", { viewBox: `0 0 ${width} ${ROOF.height}`, height: ROOF.height, role: "group", "aria-label": "Roofline" });
  const line = (a, b, kind) => svg.append(makeSvg("line", {
    x1: px(a[0]), y1: py(a[1]), x2: px(b[0]), y2: py(b[1]), class: kind,
  }));
  const text = (x, y, words, attributes = {}) => svg.append(makeSvg("text", { x, y, class: "quiet", ...attributes }, words));
  const bottom = 10 ** y0, ceiling = 10 ** y1;
  for (let e = x0; e <= x1; e++) {
    line([10 ** e, bottom], [10 ** e, ceiling], "grid");
    text(px(10 ** e), ROOF.height - ROOF.bottom + 18, e >= 0 ? 10 ** e : (10 ** e).toFixed(-e), { "text-anchor": "middle" });
  }
  for (let e = y0; e <= y1; e++) {
    line([10 ** x0, 10 ** e], [10 ** x1, 10 ** e], "grid");
    text(ROOF.left - 8, py(10 ** e) + 4, count(10 ** e).replace(/\.0+/, ""),
      { "text-anchor": "end" });
  }
  text((ROOF.left + width - ROOF.right) / 2, ROOF.height - 6, "operations per byte that must move", { "text-anchor": "middle" });
  const middle = ROOF.height / 2;
  text(14, middle, "operations per second", { "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` });

  const angle = Math.atan2(py(10 * bottom) - py(bottom), px(10) - px(1)) * 180 / Math.PI;
  // The words stand at a part of the line's length.
  const slope = (rate, flat, kind, words, part) => {
    // Cut off where it leaves the frame below.
    const from = Math.max(10 ** x0, bottom / rate), to = Math.min(flat / rate, 10 ** x1);
    if (from >= to) return;
    line([from, from * rate], [to, to * rate], kind);
    const place = from * (to / from) ** part, x = px(place), y = py(place * rate) - 8;
    text(x, y, words, { "text-anchor": "middle", transform: `rotate(${angle} ${x} ${y})` });
  };
  slope(stream, highest, "roof other", "", 0.5);
  slope(stream, peak, "roof", `${bytes(stream)}/s copied`, 0.5);
  // Where words stand: their left end, their line, their width. Those of level lines stand above, or where others do, below.
  const taken = [], names = [];
  const level = (value, kind, words) => {
    line([Math.max(10 ** x0, value / stream), value], [10 ** x1, value], kind);
    const free = (offset) => taken.every((t) => Math.abs(t[1] - py(value) - offset) >= 13);
    const wide = textWidth(words), x = px(10 ** x1) - 6 - wide, y = py(value) + ([-5, 14, -19, 28].find(free) ?? -5);
    taken.push([x, y, wide]);
    names.push(makeSvg("text", { x, y, "pointer-events": "none", class: "label" }, words));
  };
  level(peak, "roof", `${count(peak)}FLOP/s of f32 multiply-adds`);
  for (const { value, ofBytes, words } of others) {
    if (ofBytes) slope(value, highest, "roof other", words(value), 0.75);
    else level(value, "roof other", words(value));
  }
  const biggest = Math.max(...drawn.map((d) => d.share), Number.MIN_VALUE);
  const circles = drawn.map((d) => {
    const circle = makeSvg("circle", {
      cx: px(d.x), cy: py(d.y), r: 3 + 21 * Math.sqrt(d.share / biggest), role: "button",
      class: d.numbers.every(hidden) ? "dot dim" : "dot", style: `fill: var(--${d.phase}); stroke: var(--${d.phase})`,
      "aria-label": `${d.name}: ${seconds(d.median)}, ${percent(d.share)} of the time, ${percent(d.roof)} of the roof`,
    });
    const words = d.numbers.length === 1 ? launchFacts(d.numbers[0])
      : [...facts(d.name, d), `${d.numbers.length} launches, most of their time in ${d.phase}`];
    const intensity = d.flops > 0 && d.bytes > 0 ? `${digits(d.x)} operations per byte` : "";
    circle.addEventListener("pointermove", (e) => showTip(e.clientX, e.clientY, [...words, intensity]));
    circle.addEventListener("pointerleave", hideTip);
    circle.addEventListener("click", () => toggleFilter(d.filter));
    circle.addEventListener("focus", () => {
      const box = circle.getBoundingClientRect();
      if (circle.matches(":focus-visible")) showTip(box.right, box.bottom, [...words, intensity]);
    });
    circle.addEventListener("blur", hideTip);
    return circle;
  });
  svg.append(...circles, ...names);
  // The largest by name, where there is room beside the dot.
  drawn.slice(0, 10).forEach((d) => {
    const radius = 3 + 21 * Math.sqrt(d.share / biggest), wide = textWidth(d.name);
    for (const [x, y] of [[px(d.x) + radius + 4, py(d.y) + 4], [px(d.x) - radius - 4 - wide, py(d.y) + 4], [px(d.x) - wide / 2, py(d.y) + radius + 14]]) {
      const clash = taken.some((t) => x < t[0] + t[2] && t[0] < x + wide && Math.abs(y - t[1]) < 14);
      if (clash || x + wide > width || x < ROOF.left) continue;
      taken.push([x, y, wide]);
      svg.append(makeSvg("text", { x, y, "pointer-events": "none", class: d.numbers.every(hidden) ? "label dim" : "label" }, d.name));
      break;
    }
  });
  rove(circles, (i, key) => ({ ArrowRight: i + 1, ArrowDown: i + 1, ArrowLeft: i - 1, ArrowUp: i - 1, Home: 0, End: circles.length - 1 })[key],
    (i) => toggleFilter(drawn[i].filter), () => host.querySelectorAll(".dot"));
  host.replaceChildren(svg);
  const still = drawn.filter((d) => d.flops === 0).length, none = timed.length - drawn.length, timeless = dots.length - timed.length;
  byId("roofline-note").textContent = [
    still && `${still} at the left edge without arithmetic: their distance to the line is that of their traffic to the copy.`,
    timeless && `${timeless} not shown: they took no time by this clock.`,
    none && `${none} not shown: their operations and bytes are counted with another launch of their operator.`,
  ].filter(Boolean).join(" ");
}
