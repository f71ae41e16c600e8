// Draws what stands in the page as data.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const groups = charts.group(data.runs.map((name, place) => ({ name, place, curves: data.curves[place] })));

  const boxes = new Map();
  const box = (parent, name) => {
    if (!boxes.has(name)) {
      const made = document.createElement("div");
      made.className = "chart";
      parent.append(made);
      boxes.set(name, made);
    }
    return boxes.get(name);
  };

  const draw = () => {
    const wanted = find("smoothing") && {
      smoothing: Number(find("smoothing").value), log: find("log").checked, axis: find("axis").value };
    const parentOf = (metric) => find(charts.isMain(metric) ? "main-charts" : "more-charts");
    // All places before the first curve: a chart is as wide as its place was when it was drawn.
    for (const metric of groups.keys()) box(parentOf(metric), metric);
    for (const [metric, lines] of groups) {
      const parent = parentOf(metric);
      const folded = parent.closest("details");
      // What is folded has no width yet.
      if (!folded || folded.open) charts.draw(box(parent, metric), metric, lines, wanted);
    }
    if (find("legend")) charts.legend(find("legend"), groups);
    const diagrams = new Map();
    data.reliability.forEach((found, place) => {
      for (const [name, diagram] of Object.entries(found)) {
        if (!diagrams.has(name)) diagrams.set(name, []);
        diagrams.get(name).push({ name: data.runs[place], color: place, diagram });
      }
    });
    for (const [name, found] of diagrams) charts.reliability(box(find("reliability-charts"), `${name} `), name, found);
    for (const swatch of document.querySelectorAll(".swatch")) {
      swatch.style.background = charts.color(Number(swatch.dataset.color));
    }
  };

  for (const id of ["smoothing", "log", "axis"]) find(id)?.addEventListener("input", draw);
  const more = find("more-charts")?.closest("details");
  if (more) more.hidden = [...groups.keys()].every(charts.isMain);
  more?.addEventListener("toggle", draw);
  charts.dark.addEventListener("change", draw);
  draw();
})();
