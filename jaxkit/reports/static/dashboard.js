// Asks the server now and then for what is new, and shows it.
"use strict";
(() => {
  const SECONDS_BETWEEN_LOOKS = 2;
  const find = (id) => document.getElementById(id);
  const { make } = table;
  let runs = [], rows = new Map(), total = 0, version = "", mistake = "", limit = table.PAGE, metrics = null, sort = { title: "updated", sign: -1 };
  // Of each selected run its colour, and what was read of its record.
  const selected = new Map(), records = new Map(), boxes = new Map();

  const get = async (path, query = []) => {
    const reply = await fetch(`${path}?${new URLSearchParams(query)}`);
    const found = await reply.json();
    if (!reply.ok) throw Object.assign(new Error(found.error), { told: true });
    return found;
  };

  // Held-out results before those of training, accuracy and loss before the rest.
  const usual = () => {
    const names = [...new Set(runs.flatMap((run) => Object.keys(run.values)))];
    const rank = (name) => (name.includes(".") ? 8 : 0) + (name.includes("/") ? 0 : 4)
      + (name.endsWith("accuracy") ? 0 : name.endsWith("loss") ? 1 : 2);
    return names.sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
  };

  // What has an operator in it the server answers, which knows the configs; words are looked for here.
  const filters = () => {
    const parts = find("filter").value.split(/\s+/).filter(Boolean);
    const isCondition = (part) => /^[^=<>!~]+[=<>!~]/.test(part);
    return { words: parts.filter((part) => !isCondition(part)).map((part) => part.toLowerCase()),
             conditions: parts.filter(isCondition) };
  };

  let shownAt = 0;
  const showRuns = () => {
    shownAt = Date.now();
    const { words } = filters();
    const text = (run) => `${run.name} ${run.status} ${run.experiment ?? ""}`.toLowerCase();
    const known = usual(), shown = metrics ?? known.slice(0, 2);
    const fitting = table.sorted(runs.filter((run) => words.every((w) => text(run).includes(w))), shown, sort);
    find("head").replaceChildren(table.head(shown, sort, sortBy));
    showRows(fitting.slice(0, limit), shown);
    find("further").hidden = fitting.length <= limit;
    find("further").textContent = `${fitting.length - limit} more`;
    find("none").hidden = fitting.length > 0;
    find("none").textContent = mistake
      || (total ? "No run fits the filter." : "No runs yet. The first to start appears here.");
    find("count").textContent = `${total.toLocaleString("en")} run${total === 1 ? "" : "s"}`;
    showColumns(known, shown);
  };

  // A row that says what it said stays the element that it was: whoever is on it with the keyboard stays there too.
  const showRows = (fitting, shown) => {
    const kept = new Map(), focused = document.activeElement?.dataset?.run;
    for (const run of fitting) {
      const place = selected.get(run.name);
      const says = JSON.stringify([run, shown, place, table.ago(run.updated), charts.dark.matches]);
      const before = rows.get(run.name);
      const row = before?.says === says ? before.row : table.row(run, shown, place, choose);
      kept.set(run.name, { says, row });
    }
    rows = kept;
    const now = [...find("runs").children], next = [...kept.values()].map(({ row }) => row);
    if (now.length === next.length && now.every((row, n) => row === next[n])) return;
    find("runs").replaceChildren(...next);
    if (focused) find("runs").querySelector(`[data-run="${CSS.escape(focused)}"]`)?.focus();
  };

  const showColumns = (known, shown) => {
    const names = known.join("\n");
    if (find("columns").dataset.names === names) return;
    find("columns").dataset.names = names;
    find("columns").replaceChildren(...known.map((name) => {
      const label = make("label"), box = make("input");
      box.type = "checkbox";
      box.checked = shown.includes(name);
      box.addEventListener("change", () => {
        metrics = (metrics ?? shown).filter((other) => other !== name);
        if (box.checked) metrics.push(name);
        showRuns();
      });
      label.append(box, make("span", "", name));
      return label;
    }));
  };

  const sortBy = (title) => {
    sort = { title, sign: sort.title === title ? -sort.sign : title === "updated" ? -1 : 1 };
    showRuns();
  };

  const choose = (name, wanted) => {
    if (wanted && !selected.has(name)) {
      const taken = new Set(selected.values());
      let place = 0;
      while (taken.has(place)) place++;
      selected.set(name, place);
    } else if (!wanted) selected.delete(name);
    showSelected();
  };

  const showSelected = () => {
    history.replaceState(null, "", `#${new URLSearchParams([...selected.keys()].map((run) => ["run", run]))}`);
    showRuns();
    showCurves();
    showConfig();
    readSelected();
  };

  const add = (record, found) => {
    // Without a prototype: a metric may have any name.
    if (found.restart) { record.curves = Object.create(null); record.began = undefined; }
    for (const [step, wall, values] of found.rows) {
      record.began ??= wall ?? undefined;
      for (const [name, value] of Object.entries(values)) {
        const curve = (record.curves[name] ??= { step: [], seconds: [], value: [] });
        curve.step.push(step);
        curve.seconds.push(wall === null ? null : wall - record.began);
        curve.value.push(value);
      }
    }
    record.offset = found.offset;
    record.digest = found.digest;
    record.damaged = found.damaged;
  };

  const readOne = async (name) => {
    if (!records.has(name)) records.set(name, { offset: 0, digest: "", damaged: false, curves: {}, busy: false });
    const record = records.get(name);
    if (record.busy) return false;
    record.busy = true;
    let news = false;
    try {
      for (let more = true; more && selected.has(name);) {
        const found = await get("api/rows", { run: name, offset: record.offset, digest: record.digest });
        news ||= found.rows.length > 0 || found.restart && record.offset > 0
          || found.damaged !== record.damaged;
        add(record, found);
        more = found.more;
      }
    } catch (error) {
      if (!error.told) throw error;
    } finally { record.busy = false; }
    return news;
  };

  const readSelected = async () => {
    const news = await Promise.all([...selected.keys()].map(readOne));
    if (news.some(Boolean)) showCurves();
  };

  const showCurves = () => {
    const chosen = [...selected].map(([name, place]) => ({ name, place, curves: records.get(name)?.curves ?? {} }));
    const groups = charts.group(chosen);
    const wanted = { smoothing: Number(find("smoothing").value), log: find("log").checked, axis: find("axis").value };
    for (const [metric, box] of boxes) {
      if (groups.has(metric)) continue;
      box.remove();
      boxes.delete(metric);
      // Not while it is being drawn.
      box.drawn.finally(() => Plotly.purge(box));
    }
    for (const [metric, lines] of groups) {
      const main = charts.isMain(metric);
      if (!main && !find("folded").open) continue;
      if (!boxes.has(metric)) {
        boxes.set(metric, make("div", "chart"));
        find(main ? "curves" : "more").append(boxes.get(metric));
      }
      boxes.get(metric).drawn = charts.draw(boxes.get(metric), metric, lines, wanted);
    }
    charts.legend(find("legend"), groups);
    find("folded").hidden = [...groups.keys()].every(charts.isMain);
    const empty = !selected.size ? "Select runs to see their curves." : groups.size ? "" : "Nothing is recorded yet.";
    const broken = [...selected.keys()].filter((name) => records.get(name)?.damaged).join(", ");
    find("hint").textContent = empty || (broken && `Damaged, and read as far as it is whole: the record of ${broken}.`);
    find("hint").hidden = !empty && !broken;
    find("report").hidden = !selected.size;
    find("report").href = `report?${new URLSearchParams([...selected.keys()].map((run) => ["run", run]))}`;
    find("report").textContent = selected.size > 1 ? `report of these ${selected.size}` : "report of this run";
  };

  let asked = 0;
  const showConfig = async () => {
    const names = [...selected.keys()], mine = ++asked, box = find("config");
    if (!names.length) { box.replaceChildren(); return; }
    try {
      const found = await get("api/config", names.map((run) => ["run", run]));
      // Another selection may have been made meanwhile.
      if (mine === asked) box.replaceChildren(...table.config(names, found));
    } catch (error) {
      if (mine === asked) box.replaceChildren(make("p", "", error.message));
    }
  };

  const lookAtRuns = async () => {
    const { conditions } = filters(), first = version === "";
    let found;
    try {
      found = await get("api/runs", [["version", version], ...conditions.map((text) => ["where", text])]);
      mistake = "";
    } catch (error) {
      if (!error.told) throw error;
      // A condition that is not written to its end yet.
      mistake = error.message;
      found = { version: "none", runs: [], total, directory: find("directory").textContent };
    }
    find("directory").textContent = found.directory;
    total = found.total;
    // "2 min ago" grows old too.
    if (!found.runs && Date.now() - shownAt < 30_000) return;
    runs = found.runs ?? runs;
    version = found.version;
    if (first) begin();
    const gone = conditions.length ? [] : [...selected.keys()].filter((name) => !runs.some((run) => run.name === name));
    gone.forEach((name) => selected.delete(name));
    showRuns();
    if (first || gone.length) showSelected();
  };

  const look = async () => {
    if (!document.hidden) {
      try {
        await lookAtRuns();
        await readSelected();
        find("connection").textContent = "";
        find("connection").className = "";
      } catch (error) {
        find("connection").textContent = error.told ? error.message : "no connection, trying again";
        find("connection").className = "lost";
      }
    }
    setTimeout(look, 1000 * SECONDS_BETWEEN_LOOKS);
  };

  // What the address names, or the newest run.
  const begin = () => {
    const named = new URLSearchParams(location.hash.slice(1)).getAll("run");
    const newest = [...runs].sort((a, b) => (b.updated ?? 0) - (a.updated ?? 0)).slice(0, 1).map((run) => run.name);
    const known = named.filter((name) => runs.some((run) => run.name === name));
    (known.length ? known : newest).forEach((name, place) => selected.set(name, place));
  };

  for (const id of ["smoothing", "log", "axis"]) find(id).addEventListener("input", showCurves);
  find("filter").addEventListener("input", () => { limit = table.PAGE; showRuns(); });
  // Conditions are asked when they are whole: at the next look, or at once with the enter key.
  find("filter").addEventListener("change", () => lookAtRuns().catch(() => {}));
  find("further").addEventListener("click", () => { limit += table.PAGE; showRuns(); });
  find("clear").addEventListener("click", () => { selected.clear(); showSelected(); });
  find("folded").addEventListener("toggle", showCurves);
  charts.dark.addEventListener("change", () => { showRuns(); showCurves(); });
  look();
})();
