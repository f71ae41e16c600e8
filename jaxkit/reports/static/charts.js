// Charts that the report and the dashboard share. Colours after Okabe and Ito: told apart with any eyes.
"use strict";
const charts = (() => {
  const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a", "#8c5e3c"];
  const DARK = ["#56b4e9", "#e69f00", "#2cc295", "#e59cc4", "#f0764a", "#8f9dff", "#b8b8b8", "#c9a27c"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  const color = (place) => (dark.matches ? DARK : LIGHT)[place % LIGHT.length];
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // "test/loss" is the loss of the split "test"; without a slash it is that of training.
  const parts = (name) => {
    const slash = name.lastIndexOf("/");
    return slash < 0 ? ["train", name] : [name.slice(0, slash), name.slice(slash + 1)];
  };

  // One chart for each metric, the loss first: the splits and the runs that have it, as lines.
  // runs: [{name, place, curves: {name: curve}}]
  const group = (runs) => {
    const several = runs.length > 1, groups = new Map();
    const named = runs.flatMap((run) => Object.entries(run.curves).map(([name, curve]) => [run, ...parts(name), curve]));
    // A split looks the same in every chart, training the plainest.
    const splits = [...new Set(named.map(([, split]) => split))].sort((a, b) => (a !== "train") - (b !== "train"));
    for (const [run, split, metric, curve] of named) {
      const nth = splits.indexOf(split);
      if (!groups.has(metric)) groups.set(metric, []);
      groups.get(metric).push({ name: several ? `${run.name}, ${split}` : split, split, run: run.name, curve,
                                color: several ? run.place : nth, dash: several ? nth : 0 });
    }
    const order = (a, b) => (a !== "loss") - (b !== "loss") || (a < b ? -1 : 1);
    return new Map([...groups].sort(([a], [b]) => order(a, b)));
  };

  // What the colours and the dashes mean: of one run its splits, of several the runs, and how their splits are drawn.
  const legend = (box, groups) => {
    const lines = [...groups].filter(([metric]) => isMain(metric)).flatMap(([, found]) => found);
    const colors = new Map(), dashes = new Map();
    const several = new Set(lines.map((line) => line.run)).size > 1;
    for (const line of lines) {
      colors.set(several ? line.run : line.split, line.color);
      dashes.set(line.split, line.dash);
    }
    const item = (text, paint, dash) => {
      const made = document.createElement("span"), sample = document.createElement("i");
      sample.style.borderTopColor = paint;
      sample.style.borderTopStyle = ["solid", "dashed", "dotted", "double"][dash % 4];
      made.append(sample, document.createTextNode(text));
      return made;
    };
    const items = [...colors].map(([text, place]) => item(text, color(place), 0));
    if (several) items.push(...[...dashes].map(([text, dash]) => item(text, style("--muted"), dash)));
    box.replaceChildren(...items);
  };

  // The parts of a composed metric, and speed, are for whoever asks.
  const isMain = (metric) => !metric.includes(".");

  // Exponential, and without the pull towards zero that it has at the start; a gap stays a gap. To be done before
  // thinning: the extremes of noise have another mean. Where the record is not here whole, the means of its
  // stretches are smoothed, each as so many rows.
  const smooth = (curve, weight) => {
    const from = curve.means ?? curve;
    let average = 0, mass = 0;
    const value = from.value.map((value, n) => {
      if (value === null) return null;
      const kept = weight ** (from.rows?.[n] ?? 1);
      average = kept * average + (1 - kept) * value;
      mass = kept * mass + (1 - kept);
      return average / mass;
    });
    return { ...from, value };
  };

  // At most so many points, the lowest and highest of each stretch.
  const thin = (curve, most) => {
    const size = curve.value.length;
    if (size <= most) return curve;
    const stretch = Math.ceil(size / (most / 2)), kept = [];
    for (let start = 0; start < size; start += stretch) {
      let low = -1, high = -1, gap = -1;
      for (let n = start; n < Math.min(start + stretch, size); n++) {
        const value = curve.value[n];
        if (value === null) { if (gap < 0) gap = n; continue; }
        if (low < 0 || value < curve.value[low]) low = n;
        if (high < 0 || value > curve.value[high]) high = n;
      }
      kept.push(...[...new Set([low, high, gap])].filter((n) => n >= 0).sort((a, b) => a - b));
    }
    const pick = (list) => kept.map((n) => list[n]);
    return { step: pick(curve.step), seconds: pick(curve.seconds), value: pick(curve.value) };
  };

  const layout = (title, x, more) => {
    const axis = { gridcolor: style("--line"), zerolinecolor: style("--line"), linecolor: style("--line"),
                   tickfont: { color: style("--muted") }, automargin: true };
    return {
      title: { text: escape(title), x: 0, xref: "paper", xanchor: "left", y: 0.97, yanchor: "top",
               font: { size: 14, color: style("--text") } },
      font: { family: "system-ui, sans-serif", size: 12, color: style("--text") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 48, r: 12, t: 40, b: 40 },
      xaxis: { ...axis, title: { text: x, font: { color: style("--muted"), size: 11 }, standoff: 6 } },
      yaxis: { ...axis },
      // The legend stands over all charts, once.
      showlegend: false, hovermode: "x unified", hoverlabel: { namelength: 40, bgcolor: style("--surface") },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: style("--muted"), activecolor: style("--accent") }, ...more,
    };
  };

  // Plotly reads a little HTML in texts: names are shown as they are.
  const escape = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const OPTIONS = { displaylogo: false, responsive: true,
                    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] };

  // lines: [{name, color, dash, curve: {step, seconds, value}}]
  const draw = (box, title, lines, { smoothing = 0, log = false, axis = "step" } = {}) => {
    const traces = [];
    for (const line of lines) {
      const few = line.curve.value.length < 30;
      const trace = (whole, more) => {
        const curve = thin(whole, 4000);
        return {
          // Copies: of an array that has only grown Plotly sees no change.
          x: [...curve[axis]], y: [...curve.value], name: escape(line.name), type: "scatter", connectgaps: false,
          mode: few ? "lines+markers" : "lines", marker: { size: 4 },
          line: { color: color(line.color), dash: DASHES[line.dash % DASHES.length], width: 1.8 }, ...more };
      };
      if (smoothing > 0) {
        traces.push(trace(line.curve, { opacity: 0.22, showlegend: false, hoverinfo: "skip", mode: "lines" }));
        traces.push(trace(smooth(line.curve, smoothing)));
      } else traces.push(trace(line.curve));
    }
    const shown = layout(title, axis === "step" ? "step" : "seconds");
    shown.yaxis.type = log ? "log" : "linear";
    return Plotly.react(box, traces, shown, OPTIONS);
  };

  // diagrams: [{name, color, diagram: {confidence, accuracy, count}}]
  const reliability = (box, title, diagrams) => {
    const ideal = { x: [0, 1], y: [0, 1], mode: "lines", hoverinfo: "skip", showlegend: false,
                    line: { color: style("--muted"), width: 1, dash: "dot" } };
    const traces = diagrams.flatMap(({ name, color: place, diagram }) => {
      const total = diagram.count.reduce((sum, n) => sum + (n || 0), 0) || 1;
      const size = diagram.count.map((n) => 5 + 22 * Math.sqrt((n || 0) / total));
      return [{
        x: diagram.confidence, y: diagram.accuracy, name: escape(name), mode: "lines+markers", connectgaps: true,
        // A large marker at an edge is whole.
        cliponaxis: false, line: { color: color(place), width: 1.2 },
        marker: { size, opacity: 0.75, line: { width: 0 } },
        customdata: diagram.count, hovertemplate: "sure %{x:.3f}, right %{y:.3f}, %{customdata:,.0f} examples" }];
    });
    const shown = layout(title, "confidence", { hovermode: "closest" });
    shown.xaxis.range = shown.yaxis.range = [-0.02, 1.04];
    shown.yaxis.title = { text: "accuracy", font: { color: style("--muted"), size: 11 } };
    return Plotly.react(box, [ideal, ...traces], shown, OPTIONS);
  };

  return { color, dark, group, isMain, legend, draw, reliability };
})();
