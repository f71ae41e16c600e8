"""`jaxkit compare`: two runs, or two groups of runs, side by side."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxkit.cli import parsing, tables
from jaxkit.errors import UsageError
from jaxkit.runs import rows
from jaxkit.runs.text import number, printable


def compare(arguments: argparse.Namespace) -> int:
    """Compares two runs (A B), or two groups (A... --with B...)."""
    from jaxkit.runs import compare, groups

    a, b = [parsing.path(run) for run in arguments.runs], [parsing.path(run) for run in arguments.others or ()]
    if not b:
        if len(a) != 2:
            raise UsageError(
                f"compare: came {len(a)} run(s), wanted two; two groups are divided so: compare A1 A2 --with B1 B2"
            )
        a, b = a[:1], a[1:]
    alone = len(a) == len(b) == 1
    found = compare.pair(a[0], b[0]) if alone else groups.compared(a, b)
    if arguments.json:
        print(tables.as_json(found))
        return 0
    tables.show(*(_pair(found, diff=arguments.diff) if alone else _groups(found)))
    return 0


def _pair(found: Mapping[str, Any], *, diff: bool) -> Iterator[Any]:
    for letter, run, status, step in zip("AB", found["runs"], found["status"], found["steps"]):
        yield printable(f"{letter} = {run}: {status}, step {step:,}")
    yield from _lines(found)
    code = found["code"]
    if code["diff"]:
        yield printable(code["diff"] if diff else code["stat"] + "\n(--diff shows it whole)")
    if found["config"]:
        rows = [("config." + row["path"], _values([row["a"]]), _values([row["b"]])) for row in found["config"]]
        yield tables.table(("config", "A", "B"), rows)
    yield from _sections(found)
    if found["metrics"]:
        values = [(name, number(a), number(b), _change(a, b)) for name, (a, b) in found["metrics"].items()]
        yield tables.table(("last evaluation", "A", "B", "B - A"), values, right=(1, 2, 3))
    shown = lambda value: "" if value is None else number(value)
    times = [(name, shown(a), shown(b)) for name, (a, b) in found["timing"].items()]
    if times:
        yield tables.table(("timing", "A", "B"), times, right=(1, 2))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What can be said in a line each: the record, the config, the code."""
    record = found["record"]
    first, shorter = record["first"], min(record["rows"])
    if first is None and shorter == max(record["rows"]):
        yield f"record   identical: {shorter} of {shorter} rows" if shorter else "record   none yet"
    elif first is None and not shorter:
        yield "record   one has no rows yet"
    elif first is None:
        yield f"record   identical as far as both go, to step {record['up_to']:,}"
    elif len(set(first["steps"])) > 1:
        yield "record   at other steps: {:,} and {:,}".format(*first["steps"])
    else:
        begin = f"identical up to step {record['up_to']:,}, " if record["up_to"] is not None else ""
        names = ", ".join(f"{printable(k)} {number(a)} and {number(b)}" for k, (a, b) in first["values"].items())
        yield f"record   {begin}different at step {first['steps'][0]:,}: {names or 'the parameters'}"
    if not found["config"]:
        yield "config   the same"
    code = found["code"]
    commits = " and ".join(
        f"{str(commit)[:12]}{' with changes' * bool(dirty)}"
        for commit, dirty in zip(code["commits"], code["dirty"])
    )
    said = {True: "the same", False: "different", None: f"cannot be compared: {code['reason']}"}[code["same"]]
    yield printable(f"code     {said} ({commits})" if all(code["commits"]) else f"code     {said}")
    same = [name for name in ("data", "packages", "environment") if not found[name]]
    if same:
        yield f"the same {', '.join(same)}"
    digests = found["params_sha256"]
    if all(digests):
        yield f"final parameters {'identical, bit for bit' if len(set(digests)) == 1 else 'different'}"


def _sections(found: Mapping[str, Any]) -> Iterator[Any]:
    parts = {
        "data": {
            f"{split}.{name}": values
            for split, entries in found["data"].items()
            for name, values in entries.items()
        },
        "versions": found["packages"],
        "environment": found["environment"],
    }
    for title, entries in parts.items():
        if entries:
            yield tables.table((title, "A", "B"), [(name, _said(a), _said(b)) for name, (a, b) in entries.items()])


def _groups(found: Mapping[str, Any]) -> Iterator[Any]:
    for letter, runs, seeds in zip("AB", found["runs"], found["seeds"]):
        yield printable(f"{letter} = {len(runs)} run{'s' * (len(runs) > 1)}, seeds {', '.join(map(str, seeds))}")
    between = [row for row in found["config"] if row["between"]]
    within = [row["path"] for row in found["config"] if not row["between"]]
    if within:
        yield printable(f"within both groups differ: {', '.join('config.' + path for path in within)}")
    if between:
        rows = [("config." + row["path"], _values(row["a"]), _values(row["b"])) for row in between]
        yield tables.table(("config", "A", "B"), rows)
    else:
        yield "the groups differ in no value of the config"
    origin = [(row["path"], _values(row["a"]), _values(row["b"])) for row in found["origin"]]
    if origin:
        yield tables.table(("made with", "A", "B"), origin)
    else:
        yield "all have the same code, data, packages and environment"
    table: list[tuple[Any, ...]] = []
    for name, row in found["metrics"].items():
        low_high = "{} to {}".format(*map(number, row["interval"])) if row["interval"] else ""
        p = f"{row['p']:.2g}" if row["p"] is not None else ""
        change = number(row["difference"]) if row["difference"] is not None else ""
        # Few runs are said once, below.
        note = "" if row["note"] == "few runs" else row["note"]
        table.append((name, _moments(row["a"]), _moments(row["b"]), change, low_high, p, note))
    yield tables.table(("last evaluation", "A", "B", "B - A", "95 % interval", "p", ""), table)
    how = "paired by seed, paired t" if found["paired"] else "not paired (other seeds), Welch's t"
    yield f"mean ± standard deviation of a run; {how}; p is of each row alone, not corrected for their number"
    for note in found["notes"]:
        yield printable(f"note: {note}")


def _moments(side: Mapping[str, Any]) -> str:
    if side["mean"] is None:
        return ""
    return number(side["mean"]) + (f" ± {side['sd']:.2g}" if side["sd"] is not None else "")


def _values(said: Sequence[str | None]) -> str:
    # Values are as Python writes them, strings in quotes: no value reads so.
    return ", ".join("absent" if value is None else value for value in dict.fromkeys(said))


def _change(a: Any, b: Any) -> str:
    before, after = rows.finite(a), rows.finite(b)
    return "" if before is None or after is None else f"{after - before:+.4g}"


def _said(value: Any) -> str:
    return "" if value is None else json.dumps(value) if isinstance(value, list | dict) else str(value)
