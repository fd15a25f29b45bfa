
// The table: sums by what is chosen, sorted by any column, of the launches that the filter leaves.

const KEYS = {
  phase: (l) => l.phase,
  module: (l) => l.module || "(none)",
  op: (l) => l.op,
  shader: kernelOf,
  launch: (_, i) => i,
};
const FILTERS = {
  phase: (key) => `phase:${key}`, module: (key) => (key === "(none)" ? "" : `module:${key}`), op: (key) => `op:${key}`,
  shader: (key) => `kernel:${key}`, launch: (key) => `launch:${key}`,
};
const milliseconds = (x) => (x * 1e3).toFixed(3);
const short = (x) => (x === 0 ? "0" : x < 1 ? x.toFixed(3) : x < 100 ? x.toFixed(2) : x.toFixed(0));
const COLUMNS = [
  ["name", (r) => r.order, null, ""],
  ["share", (r) => r.share, (r) => percent(r.share), "of the time of all launches"],
  ["ms", (r) => r.median, (r) => milliseconds(r.median), "median of all launches of the row together"],
  ["p5", (r) => r.p5, (r) => milliseconds(r.p5), "5 per cent of the runs took less"],
  ["p95", (r) => r.p95, (r) => milliseconds(r.p95), "5 per cent of the runs took more"],
  ["roof", (r) => r.roof, (r) => `${(100 * r.roof).toFixed(1)} %`, "time at the roof over the median time; may exceed 100 % where caches beat the copy"],
  ["limit", (r) => r.limit, (r) => r.limit, "what bounds it: arithmetic, bandwidth, or the launch itself"],
  ["GFLOP/s", (r) => r.flopsPerSecond, (r) => short(r.flopsPerSecond * 1e-9), "at the median"],
  ["GB/s", (r) => r.bytesPerSecond, (r) => short(r.bytesPerSecond * 1e-9), "at the median"],
  ["FLOP/B", (r) => r.flops / Math.max(r.bytes, 1), (r) => short(r.flops / Math.max(r.bytes, 1)), "operations per byte"],
  ["GFLOP", (r) => r.flops, (r) => short(r.flops * 1e-9), "operations"],
  ["MB", (r) => r.bytes, (r) => short(r.bytes * 1e-6), "bytes that must move"],
  ["calls", (r) => r.calls, (r) => r.calls, "launches in a step"],
  ["gap µs", (r) => r.gap, (r) => (r.gap * 1e6).toFixed(1), "time between the end of the launch before and the begin of this"],
];
const PAGE = 50;
const table = { by: "op", column: 2, down: true, rows: PAGE };

function startTable() {
  byId("by").replaceChildren("by", ...Object.keys(KEYS).map((by) => make("button", { type: "button", "data-by": by, onclick: () => {
    Object.assign(table, { by, rows: PAGE });
    drawTable();
  } }, by)));
}

/** The only phase without a launch: the host makes and uploads the batch before the first. */
function addHost(rows) {
  const { median, p5, p95 } = profile.upload;
  const share = median / (median + profile.launched.median);
  rows.forEach((r) => { r.share *= 1 - share; });
  rows.push({ key: "data", order: rows.length, numbers: [], median, p5, p95, share, flops: 0, bytes: 0, calls: 0, gap: 0,
    roof: 0, flopsPerSecond: 0, bytesPerSecond: 0, limit: "host" });
}

function drawTable() {
  document.querySelectorAll("#by button").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.by === table.by)));
  const rows = [...grouped([...shown], KEYS[table.by])].map(([key, numbers], order) => ({ key, order, ...sumOf(numbers) }));
  if (table.by === "phase" && shown.size === launches.length) addHost(rows);
  const value = table.column === 0 && table.by !== "launch" ? (r) => r.key : COLUMNS[table.column][1];
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  rows.sort((a, b) => (table.down ? -1 : 1) * compare(value(a), value(b)));
  const heads = COLUMNS.map(([name, , , words], i) => {
    const head = make("th", { scope: "col" }, make("button", { type: "button", title: words, onclick: () => {
      const same = table.column === i;
      Object.assign(table, { column: i, down: same ? !table.down : i > 0 });
      drawTable();
      document.querySelectorAll("#table th button")[i].focus();
    } }, name === "name" ? table.by : name, table.column === i ? (table.down ? " ↓" : " ↑") : ""));
    if (name === "name") head.className = "name";
    if (table.column === i) head.setAttribute("aria-sort", table.down ? "descending" : "ascending");
    return head;
  });
  const most = Math.max(...rows.map((r) => r.share), Number.MIN_VALUE);
  const cells = (r) => COLUMNS.slice(1).map(([name, , text]) => {
    const cell = make("td", {}, String(text(r)));
    if (name === "share") cell.prepend(make("span", { class: "bar-of", style: `width: ${44 * r.share / most}px` }));
    return cell;
  });
  const named = (r) => {
    if (r.limit === "host") return make("td", { class: "name" }, r.key);
    const l = launches[r.numbers[0]];
    const name = table.by === "launch" ? `${r.key}  ${labelOf(l)}` : r.key;
    const more = table.by === "launch" ? ` ${l.phase} ${kernelOf(l)} [${l.variant}] ${l.groups.join("x")}` : "";
    return make("td", { class: "name" },
      make("button", { type: "button", onclick: () => {
        toggleFilter(FILTERS[table.by](r.key));
        document.querySelector("#table td button")?.focus();
      } }, name), make("small", {}, more));
  };
  const body = rows.slice(0, table.rows).map((r) => make("tr", {}, named(r), ...cells(r)));
  byId("table").replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...body)));
  const rest = rows.length - table.rows;
  if (rest > 0) {
    byId("table").append(make("button", { type: "button", class: "more", onclick: () => {
      table.rows = rows.length;
      drawTable();
    } }, `Show ${rest} more`));
  } else if (rows.length === 0) {
    byId("table").append(make("p", { class: "quiet" }, "No launch matches the filter."));
  }
}
