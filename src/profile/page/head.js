
// The head of the page, and where the time of an undisturbed step goes.

const CLOCKS = {
  "timestamps-in-passes": "timestamps inside passes: a launch's time begins at the end of the one before",
  "timestamps-per-pass": "timestamps per pass: each launch has a pass of its own",
  "waiting": "waiting for each launch, with the way to the device and back",
};

function drawHead() {
  const { wall, profiled, roofs } = profile;
  const missing = profile.wall_seconds - profile.accounted_seconds;
  const overhead = profiled.median / profile.wall_seconds - 1;
  document.title = `${profile.subject} on ${profile.device}: inkwash profile`;
  byId("subject").textContent = `Profile of a ${profile.subject}`.replace(/^Profile of a (?!training|sampling)/, "Profile of ");
  byId("device").textContent = `${profile.device} (${profile.backend}, ${profile.driver}), kernels for ${profile.kernels}. ` +
    `${profile.date.replace("T", " ").replace("Z", " UTC")}.`;
  const figures = [
    [seconds(profile.wall_seconds), `undisturbed step (5 to 95\u00a0%: ${seconds(wall.p5)} to ${seconds(wall.p95)})`],
    [seconds(profile.accounted_seconds), "accounted for"],
    [`${seconds(missing)}`, `not accounted for (${percent(missing / profile.wall_seconds)})`],
    [`${overhead >= 0 ? "+" : ""}${percent(overhead)}`, `what profiling adds (${seconds(profiled.median)} with it)`],
    [`${count(roofs.flops_per_s)}FLOP/s`, "f32 multiply-adds, measured roof"],
    [`${bytes(roofs.bytes_per_s)}/s`, "copied, read plus written, measured roof"],
  ];
  byId("figures").replaceChildren(...figures.map(([figure, words]) => make("div", {}, make("b", {}, figure), make("span", {}, words))));
  const notes = [
    `Clock: ${CLOCKS[profile.clock] || profile.clock}. It adds ${seconds(roofs.clock_seconds)} to a launch; an empty launch takes ` +
      `${seconds(roofs.launch_seconds)} without it.`,
    `${profile.runs} profiled steps, in turns with as many undisturbed ones; medians of them.`,
    ...profile.notes,
  ];
  if (wall.p95 > 1.3 * wall.p5) {
    notes.push("Undisturbed steps differ much: other work kept this machine busy while it was measured.");
  }
  byId("notes").replaceChildren(...notes.map((note) => make("li", {}, note)));
  byId("footer").textContent = `inkwash ${profile.inkwash}. Everything on this page is in this one file, the measurements too ` +
    `(as JSON, in the element with the id "profile").`;
  const used = PHASES.filter((phase) => launches.some((l) => l.phase === phase));
  byId("legend").replaceChildren(...used.map((phase) =>
    make("span", {}, make("i", { style: `background: var(--${phase})` }), phase)));
}

function drawAccount() {
  const { wall_seconds: wall, roofs } = profile;
  const missing = wall - profile.accounted_seconds;
  const calls = launches.reduce((sum, l) => sum + l.calls, 0);
  const rows = [
    ["data, on the host", profile.upload.median, "data", "making and uploading the batch"],
    ["encode and submit", profile.encode.median, "host", "until the device has the first of the work"],
    ["launches", profile.launched.median, "forward", `${calls}, which would take ${seconds(calls * roofs.launch_seconds)} if they were empty`],
    ["gaps between them", profile.gaps.median, "quiet", ""],
    ["added by timing", -profile.timing_seconds, "noise", "to the two lines above"],
    ["not accounted for", missing, "loss", missing < 0 ? "negative: launches of profiled steps took longer" : ""],
    ["undisturbed step", wall, "ink", ""],
  ];
  const widest = Math.max(...rows.map(([, time]) => Math.abs(time)), Number.MIN_VALUE);
  const body = rows.map(([name, time, shade, words], i) => make("tr", i === rows.length - 1 ? { class: "total" } : {},
    make("td", { class: "name" }, name),
    make("td", {}, seconds(time)),
    make("td", {}, percent(time / wall)),
    make("td", { class: "part" }, make("span", {
      class: "bar-of", style: `width: ${180 * Math.abs(time) / widest}px; background: var(--${shade})`,
    })),
    make("td", { class: "name quiet" }, words)));
  byId("account").replaceChildren(make("table", {}, make("tbody", {}, ...body)));
}
