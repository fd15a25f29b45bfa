
// Everything drawn once, and again when the filter, the width or the colours change.

function drawAll() {
  hideTip();
  [drawRoofline, drawTimeline, drawTreemap, drawMemory].forEach((draw) => draw());
}
drawHead();
drawAccount();
startTimeline();
startMemory();
startTable();
listeners.push(drawAll, drawTable);
setFilter("");

byId("filter").addEventListener("input", () => setFilter(byId("filter").value));
byId("clear").addEventListener("click", () => setFilter(""));
document.querySelectorAll('input[name="dots"]').forEach((input) => input.addEventListener("change", drawRoofline));
addEventListener("keydown", (event) => {
  if (event.key === "Escape") setFilter("");
});
addEventListener("resize", drawAll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
