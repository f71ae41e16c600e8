"""`jaxkit runs`: the runs below a directory, filtered, sorted, in columns."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from jaxkit.cli import parsing, tables
from jaxkit.configs import MISSING
from jaxkit.errors import UsageError
from jaxkit.runs import rows
from jaxkit.runs.text import moment, number, printable


def runs(arguments: argparse.Namespace) -> int:
    """Lists the runs of a directory."""
    from jaxkit.runs import index, selecting

    if arguments.limit is not None and arguments.limit < 1:
        raise UsageError(f"--limit: came {arguments.limit}, wanted at least 1")
    top = parsing.path(arguments.directory)
    conditions = [selecting.condition(text) for text in arguments.where]
    columns, sort = _names(arguments.columns), _names(arguments.sort)
    entries = index.runs(top)
    selecting.check_names(entries, columns)
    found = selecting.select(entries, conditions, sort)[: arguments.limit]
    if arguments.json:
        print(tables.as_json([_for_machines(entry, columns) for entry in found]))
        return 0
    if not found:
        tables.show(
            printable(f"no runs in {top}" if not entries else f"none of the {len(entries):,} runs in {top}")
        )
        return 0
    tables.show(_table(found, columns or ["run", "status", "step"], evaluation=not columns))
    return 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _for_machines(entry: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    from jaxkit.runs import selecting

    if not columns:
        return entry["summary"]
    found = {name: selecting.value(entry, name) for name in columns}
    # By "run" a script finds the directory, whatever else it asks for.
    return {name: None if value is MISSING else value for name, value in found.items()} | {
        "run": entry["summary"]["run"]
    }


def _table(entries: Sequence[Mapping[str, Any]], columns: Sequence[str], *, evaluation: bool) -> Any:
    from jaxkit.runs import selecting

    right = []
    for place, name in enumerate(columns):
        known = [value for entry in entries if (value := selecting.value(entry, name)) is not MISSING]
        if known and name != "updated" and all(isinstance(value, int | float) for value in known):
            right.append(place)
    rows = [
        [*(_cell(entry, name) for name in columns), *([_evaluation(entry)] if evaluation else [])]
        for entry in entries
    ]
    return tables.table([*columns, *(["evaluation"] if evaluation else [])], rows, right=right)


def _cell(entry: Mapping[str, Any], name: str) -> str:
    from jaxkit.runs import selecting

    found = selecting.value(entry, name)
    if found is MISSING:
        return ""
    if name == "step":
        return f"{found:,}/{entry['summary']['num_steps']:,}"
    if name == "updated":
        return moment(found)
    if name in ("commit", "fingerprint", "params_sha256"):
        return printable(str(found)[:12])
    return number(found) if isinstance(found, int | float) else printable(str(found))


def _evaluation(entry: Mapping[str, Any]) -> str:
    """What a whole held-out split came to; of a damaged run what is wrong with it."""
    if "error" in entry["summary"]:
        return printable(entry["summary"]["error"])
    return ", ".join(
        printable(f"{split}/{name} {number(found)}")
        for split, metrics in entry["summary"]["evaluation"].items()
        for name, value in metrics.items()
        if (found := rows.number(value)) is not None
    )
