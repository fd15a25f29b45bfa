
// Treemap: modules within modules and their operators, by time; coloured by what they reach of the roof.

const MAP = { height: 460, head: 17, pad: 2 };

/** Modules within modules, with operators as leaves. */
function moduleTree() {
  const root = { name: "all launches", filter: "", numbers: all, children: new Map() };
  launches.forEach((l, i) => {
    let node = root, path = "";
    for (const part of modulesOf(l.module)) {
      path += (path && ".") + part;
      if (!node.children.has(part)) node.children.set(part, { name: part, path, filter: `module:${path}`, numbers: [], children: new Map() });
      node = node.children.get(part);
      node.numbers.push(i);
    }
    const key = `/${l.op}`;
    if (!node.children.has(key)) {
      node.children.set(key, { name: l.op, path: labelOf(l), filter: `${path && `module:${path} `}op:${l.op}`, numbers: [], children: new Map() });
    }
    node.children.get(key).numbers.push(i);
  });
  const finish = (node, parent) => {
    Object.assign(node, { parent, sum: sumOf(node.numbers) });
    node.children = [...node.children.values()];
    node.children.forEach((child) => finish(child, node));
    node.children.sort((a, b) => b.sum.share - a.sum.share);
  };
  finish(root, null);
  return root;
}

/** Rectangles as square as they can be, areas in proportion to shares (Bruls, Huizing and van Wijk, 2000). */
function squarified(nodes, x, y, width, height) {
  const total = nodes.reduce((sum, n) => sum + n.sum.share, 0);
  const placed = [];
  if (!(total > 0) || width <= 0 || height <= 0) return placed;
  const areas = nodes.map((n) => n.sum.share / total * width * height);
  let first = 0;
  while (first < nodes.length && width > 0 && height > 0) {
    const side = Math.min(width, height);
    const worst = (area, low, high) => Math.max(side * side * high / (area * area), area * area / (side * side * low));
    let end = first + 1, sum = areas[first];
    while (end < nodes.length && areas[end] > 0 &&
      worst(sum + areas[end], areas[end], areas[first]) <= worst(sum, areas[end - 1], areas[first])) sum += areas[end++];
    const thick = side > 0 ? sum / side : 0;
    let along = 0;
    for (let i = first; i < end; i++) {
      const long = sum > 0 ? areas[i] / sum * side : 0;
      placed.push(width >= height ? [nodes[i], x, y + along, thick, long] : [nodes[i], x + along, y, long, thick]);
      along += long;
    }
    if (width >= height) { x += thick; width -= thick; } else { y += thick; height -= thick; }
    first = end;
    if (!(areas[first] > 0)) break;
  }
  return placed;
}

const tree = moduleTree();

function drawTreemap() {
  const host = byId("treemap"), width = host.clientWidth;
  const svg = makeSvg("svg", { viewBox: `0 0 ${width} ${MAP.height}`, height: MAP.height, role: "group", "aria-label": "Shares by module" });
  const cells = [], nodes = [];
  const place = (node, x, y, w, h, depth) => {
    if (w < 2 || h < 2) return;
    if (node.parent) {
      const dim = node.numbers.every(hidden);
      // The root, since most kernels lie in the lower quarter.
      const reached = Math.round(100 * Math.sqrt(Math.min(1, node.sum.roof)));
      const group = makeSvg("g", dim ? { class: "dim" } : {});
      const leaf = node.children.length === 0;
      const cell = makeSvg("rect", {
        x, y, width: Math.max(w - 1, 1), height: Math.max(h - 1, 1), class: "cell", role: "button", rx: 2,
        style: leaf ? `fill: color-mix(in oklab, var(--scale-high) ${reached}%, var(--scale-low))` : "fill: var(--soft)",
        "aria-label": `${node.path}: ${seconds(node.sum.median)}, ${percent(node.sum.share)} of the time`,
      });
      const words = facts(node.path, node.sum);
      cell.addEventListener("pointermove", (e) => showTip(e.clientX, e.clientY, words));
      cell.addEventListener("pointerleave", hideTip);
      cell.addEventListener("click", () => toggleFilter(node.filter));
      cell.addEventListener("focus", () => {
        const box = cell.getBoundingClientRect();
        if (cell.matches(":focus-visible")) showTip(box.left, box.top, words);
      });
      cell.addEventListener("blur", hideTip);
      group.append(cell);
      const room = w - 9, name = room > 20 && h > 15 ? fitting(node.name, room) : "";
      if (name) {
        const share = percent(node.sum.share), both = `${name}  ${share}`;
        const style = leaf && reached > 62 ? "fill: var(--on-fill)" : "";
        group.append(makeSvg("text", { x: x + 5, y: y + 13, "pointer-events": "none", style },
          !leaf && textWidth(both) <= room ? both : name));
        if (leaf && h > 31 && textWidth(share) <= room) {
          group.append(makeSvg("text", { x: x + 5, y: y + 28, "pointer-events": "none", style, opacity: 0.8 }, share));
        }
      }
      svg.append(group);
      cells.push(cell);
      nodes.push(node);
    }
    if (node.children.length === 0) return;
    const head = node.parent && h > 2 * MAP.head ? MAP.head : 0, pad = node.parent ? MAP.pad : 0;
    for (const [child, ...box] of squarified(node.children, x + pad, y + head + pad, w - 2 * pad - 1, h - head - 2 * pad - 1)) {
      place(child, ...box, depth + 1);
    }
  };
  place(tree, 0, 0, width, MAP.height, 0);
  rove(cells, (i, key) => {
    const node = nodes[i], near = node.parent.children.filter((n) => nodes.includes(n));
    const to = { ArrowRight: near[near.indexOf(node) + 1], ArrowLeft: near[near.indexOf(node) - 1], ArrowUp: node.parent,
      ArrowDown: node.children[0], Home: nodes[0] }[key];
    return to && nodes.includes(to) ? nodes.indexOf(to) : undefined;
  }, (i) => toggleFilter(nodes[i].filter), () => host.querySelectorAll(".cell"));
  host.replaceChildren(svg);
  byId("treemap-legend").replaceChildren(make("span", {}, "reached of the roof"), "0 %", make("i", { class: "ramp" }), "25 %", make("i", { class: "ramp upper" }), "100 % and more");
}
