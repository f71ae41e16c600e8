// The table of runs, and that of their configs. Names and values go in as text, never as markup.
"use strict";
const table = (() => {
  const PAGE = 200;
  const make = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const number = (value) => {
    if (value === null) return "not finite";
    if (value === undefined) return "";
    const size = Math.abs(value);
    if (size >= 1e4 && size < 1e12) return Math.round(value).toLocaleString("en");
    return String(Number(value.toPrecision(4)));
  };
  const ago = (seconds) => {
    if (seconds === null || seconds === undefined) return "";
    const passed = Math.max(0, Date.now() / 1000 - seconds);
    for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
      if (passed >= size) return `${Math.floor(passed / size)} ${unit} ago`;
    }
    return "just now";
  };

  const spark = (values) => {
    const space = "http://www.w3.org/2000/svg", picture = document.createElementNS(space, "svg");
    picture.setAttribute("class", "spark");
    picture.setAttribute("viewBox", "0 0 100 24");
    picture.setAttribute("preserveAspectRatio", "none");
    picture.setAttribute("aria-hidden", "true");
    if (values.length > 1) {
      const low = Math.min(...values), high = Math.max(...values), span = high - low || 1;
      const points = values.map((value, n) =>
        `${((100 * n) / (values.length - 1)).toFixed(1)},${(22 - (20 * (value - low)) / span).toFixed(1)}`);
      const line = document.createElementNS(space, "polyline");
      line.setAttribute("points", points.join(" "));
      picture.append(line);
    }
    return picture;
  };

  // What a run itself has under a name, not what all objects have.
  const valueOf = (run, name) => (Object.hasOwn(run.values, name) ? run.values[name] : undefined);

  // What a column sorts by, and what it shows.
  const columns = (metrics) => [
    { title: "run", key: (run) => run.name },
    { title: "status", key: (run) => run.status },
    { title: "step", key: (run) => run.step ?? -1 },
    ...metrics.map((name) => ({ title: name, metric: name, key: (run) => valueOf(run, name) ?? null })),
    { title: "loss", spark: true },
    { title: "updated", key: (run) => run.updated ?? 0 },
  ];

  const compare = (key, sign) => (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (x < y ? -1 : x > y ? 1 : 0) || (a.name < b.name ? -1 : 1);
  };

  const row = (run, metrics, place, choose) => {
    const made = make("tr"), name = make("td", "name"), label = make("label"), box = make("input");
    box.type = "checkbox";
    box.checked = place !== undefined;
    box.dataset.run = run.name;
    box.addEventListener("change", () => choose(run.name, box.checked));
    const swatch = make("span", "swatch");
    if (place !== undefined) swatch.style.background = charts.color(place);
    const text = make("span"), title = make("span", "title", run.name);
    title.title = run.name;
    text.append(title);
    if (run.error) text.append(make("div", "trouble", run.error));
    label.append(box, swatch, text);
    name.append(label);
    const status = make("td"), pill = make("span", "status", run.status);
    pill.dataset.status = run.status;
    status.append(pill);
    const progress = make("td");
    if (run.num_steps) {
      if (run.step < run.num_steps) {
        const bar = make("progress");
        bar.max = run.num_steps;
        bar.value = run.step;
        progress.append(bar);
      }
      const done = `${run.step.toLocaleString("en")} / ${run.num_steps.toLocaleString("en")}`;
      progress.append(make("span", "steps", done));
    }
    const values = metrics.map((metric) => make("td", "number", number(valueOf(run, metric))));
    const curve = make("td");
    curve.append(spark(run.spark));
    made.append(name, status, progress, ...values, curve, make("td", "ago", ago(run.updated)));
    return made;
  };

  const head = (metrics, sort, sortBy) => {
    const made = make("tr");
    for (const { title, key, metric, spark: isSpark } of columns(metrics)) {
      const cell = make("th", metric ? "number" : "");
      cell.scope = "col";
      if (key) {
        const button = make("button", "", title);
        button.type = "button";
        button.addEventListener("click", () => sortBy(title));
        if (sort.title === title) cell.setAttribute("aria-sort", sort.sign > 0 ? "ascending" : "descending");
        cell.append(button);
      } else if (isSpark) cell.textContent = title;
      made.append(cell);
    }
    return made;
  };

  const sorted = (runs, metrics, sort) => {
    const column = columns(metrics).find(({ title, key }) => key && title === sort.title) ?? columns(metrics)[0];
    return [...runs].sort(compare(column.key, sort.sign));
  };

  // The config of one run, or where those of several differ.
  const config = (names, found) => {
    if (names.length === 1) {
      const whole = make("details");
      whole.append(make("summary", "", "config"), make("pre", "", found.text));
      return [whole];
    }
    const title = make("h2", "", "Config differences");
    if (!found.differences.length) return [title, make("p", "", "None: the same config.")];
    const grid = make("table"), head = make("tr"), body = make("tbody"), top = make("thead"), scroll = make("div", "scroll");
    head.append(make("th", "", ""), ...names.map((name) => make("th", "", name)));
    for (const [path, values] of found.differences) {
      const row = make("tr"), cell = make("th");
      cell.append(make("code", "", path));
      row.append(cell, ...values.map((value) => {
        const made = make("td");
        made.append(value === null ? make("span", "absent", "absent") : make("code", "", value));
        return made;
      }));
      body.append(row);
    }
    top.append(head);
    grid.className = "beside";
    grid.append(top, body);
    scroll.append(grid);
    return [title, scroll];
  };

  return { PAGE, make, ago, row, head, sorted, config };
})();
