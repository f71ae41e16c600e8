"""The sections of a report that are tables, each from runs to markup."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxkit import configs
from jaxkit.reports.gather import Run
from jaxkit.reports.html import Markup, element, folded, joined, section, table
from jaxkit.runs import compare, evaluations, files, text

_TIMING = {
    "steps_per_second": "steps/s",
    "examples_per_second": "examples/s",
    "tokens_per_second": "tokens/s",
    "model_flops_utilisation": "model FLOPs utilisation",
    "to_first_step": "seconds to the first step",
    "first_call": "of them in the first call",
    "evaluating_and_saving": "seconds evaluating and saving",
    "waiting_for_data": "seconds waiting for data",
    "total": "seconds in all",
}


def headline(runs: Sequence[Run]) -> Markup:
    """What was run and how it stands."""
    experiments = dict.fromkeys(str(run.summary["experiment"] or "run") for run in runs)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs of {', '.join(experiments)}"
    swatch = lambda place: element("span", "", class_="swatch", data_color=place) if len(runs) > 1 else None
    rows = [
        (
            joined(swatch(place), run.name),
            element("span", run.summary["status"], class_="status", data_status=run.summary["status"]),
            f"{run.summary['step']:,} of {run.summary['num_steps']:,}",
            run.provenance.get("seed", ""),
            element("code", run.summary["fingerprint"][:12]),
            text.moment(run.summary["newest"].get("wall")),
        )
        for place, run in enumerate(runs)
    ]
    lead = element("p", ", ".join(experiments), class_="lead") if len(runs) == 1 else None
    return joined(
        element("h1", title), lead, table(("run", "status", "step", "seed", "config", "last recorded"), rows)
    )


def results(runs: Sequence[Run]) -> Markup | None:
    """The last evaluation, metric by metric."""
    columns = [
        {
            name: value
            for split, report in run.evaluation.items()
            for name, value in evaluations.flat(report["metrics"], f"{split}/").items()
        }
        for run in runs
    ]
    names = dict.fromkeys(name for column in columns for name in column)
    if not names:
        return None
    rows = [(name, *(text.number(column.get(name, "")) for column in columns)) for name in names]
    return section("results", "Last evaluation", table(("", *(run.name for run in runs)), rows, class_="numbers"))


def config(runs: Sequence[Run]) -> Markup:
    """Where the configs differ, and each whole."""
    parts: list[Any] = []
    if len(runs) > 1:
        differing = compare.differing_config([run.config for run in runs])
        absent = element("span", "absent", class_="absent")
        said = lambda value: absent if value is None else element("code", value)
        rows = [(element("code", path), *map(said, values)) for path, values in differing.items()]
        if rows:
            parts.append(table(("differs at", *(run.name for run in runs)), rows, class_="beside"))
        else:
            parts.append(element("p", "All have the same config."))
    changed = [
        (run.name, change.get("after_step"), _code(json.dumps(change.get("changed"))))
        for run in runs
        for change in _list(run.provenance, "config_changes")
        if isinstance(change, dict)
    ]
    if changed:
        parts.append(table(("changed on the way", "after step", "path, before, then"), changed))
    whole = [
        folded(
            run.name if len(runs) > 1 else "config.json",
            element("pre", configs.to_json(run.config)),
            open_=len(runs) == 1,
        )
        for run in runs
    ]
    return section("config", "Config", *parts, *whole)


def provenance(runs: Sequence[Run]) -> Markup:
    """Code, data, devices and versions: what all share once, the rest run by run."""
    flat = [dict(_origin(run)) for run in runs]
    names = dict.fromkeys(name for entries in flat for name in entries)
    rows = [(name, *(_code(entries.get(name)) for entries in flat)) for name in names]
    beside = "beside" if len(runs) > 1 else None
    parts: list[Any] = [table(("", *(run.name for run in runs)), rows, class_=beside)] if rows else []
    for run in runs:
        if run.patch.strip():
            parts.append(folded(f"dirty.patch of {run.name}", element("pre", run.patch)))
    packages = [files.part(run.provenance, "packages") for run in runs]
    names = dict.fromkeys(sorted((name for entries in packages for name in entries), key=str.lower))
    if names:
        versions = [(name, *(entries.get(name, "") for entries in packages)) for name in names]
        head = ("package", *(run.name for run in runs))
        parts.append(folded(f"{len(names)} packages", table(head, versions)))
    return section("provenance", "Provenance", *parts)


def timing(runs: Sequence[Run]) -> Markup | None:
    """Where the time went."""
    found = [run.summary["timing"] for run in runs]
    rows = [(label, *(text.number(each.get(name, "")) for each in found)) for name, label in _TIMING.items()]
    rows = [row for row in rows if any(cell != "" for cell in row[1:])]
    if not rows:
        return None
    return section("timing", "Timing", table(("", *(run.name for run in runs)), rows, class_="numbers"))


def _origin(run: Run) -> Iterator[tuple[str, str]]:
    told = run.provenance
    git = files.part(told, "git")
    if "commit" in git:
        yield "commit", f"{git['commit']}{' with changes' if git.get('dirty') else ''}"
    for split, manifest in files.part(told, "data").items():
        if isinstance(manifest, dict):
            sha256 = str(manifest.get("sha256"))[:12]
            name = f"{manifest.get('name')} {manifest.get('version')}"
            yield f"data.{split}", f"{name}: {manifest.get('size')} records, sha256 {sha256}"
    if isinstance(told.get("command"), list):
        yield "command", " ".join(map(str, told["command"]))
    for name, value in compare.environment(told).items():
        if name == "devices" and isinstance(value, list):
            yield name, ", ".join(f"{value.count(each)} x {each}" for each in dict.fromkeys(map(str, value)))
        else:
            yield name, value if isinstance(value, str) else json.dumps(value)
    resumed = _list(told, "resumed")
    if resumed:
        yield "resumed", f"{len(resumed)} times"
    for name in ("fingerprint", "digest", "params_sha256"):
        if run.summary[name]:
            yield name, str(run.summary[name])


def _list(tree: Mapping[str, Any], name: str) -> list[Any]:
    found = tree.get(name)
    return found if isinstance(found, list) else []


def _code(value: Any) -> Any:
    return "" if value is None else element("code", value)
