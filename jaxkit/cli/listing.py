"""`jaxkit runs`: the runs below a directory, filtered, sorted, in columns."""

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxkit.configs import MISSING
from jaxkit.errors import UsageError
from jaxkit.runs.text import number, printable

_RIGHT = (int, float)


def runs(arguments: argparse.Namespace) -> int:
    """Lists the runs of a directory."""
    from jaxkit.runs import index, selecting

    if arguments.limit is not None and arguments.limit < 1:
        raise UsageError(f"--limit: came {arguments.limit}, wanted at least 1")
    top = Path(arguments.directory)
    conditions = [selecting.condition(text) for text in arguments.where]
    columns, sort = _names(arguments.columns), _names(arguments.sort)
    entries = index.runs(top)
    selecting.check_names(entries, columns)
    found = selecting.select(entries, conditions, sort)[: arguments.limit]
    if arguments.json:
        print(json.dumps([_for_machines(entry, columns) for entry in found], indent=1))
        return 0
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not found:
        console.print(f"no runs in {top}" if not entries else f"none of the {len(entries):,} runs in {top}")
        return 0
    console.print(_table(found, columns or ["run", "status", "step"], evaluation=not columns))
    return 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _for_machines(entry: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    from jaxkit.runs import selecting

    if not columns:
        return entry["summary"]
    found = {name: selecting.value(entry, name) for name in columns}
    plain = lambda value: str(value) if isinstance(value, float) and not math.isfinite(value) else value
    # By "run" a script finds the directory, whatever else it asks for.
    return {name: None if value is MISSING else plain(value) for name, value in found.items()} | {
        "run": entry["summary"]["run"]
    }


def _table(entries: Sequence[Mapping[str, Any]], columns: Sequence[str], *, evaluation: bool) -> Any:
    from rich import box
    from rich.table import Table

    from jaxkit.runs import selecting

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        values = [selecting.value(entry, name) for entry in entries]
        known = [value for value in values if value is not MISSING]
        right = bool(known) and all(isinstance(value, _RIGHT) for value in known)
        table.add_column(printable(name), justify="right" if right else "left", overflow="fold")
    if evaluation:
        table.add_column("evaluation", overflow="fold")
    for entry in entries:
        cells = [_cell(entry, name) for name in columns]
        table.add_row(*cells, *([_evaluation(entry)] if evaluation else []))
    return table


def _cell(entry: Mapping[str, Any], name: str) -> str:
    from jaxkit.runs import selecting

    found = selecting.value(entry, name)
    if found is MISSING:
        return ""
    if name == "step":
        return f"{found:,}/{entry['summary']['num_steps']:,}"
    if name == "updated":
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(found))
    if name in ("commit", "fingerprint", "params_sha256"):
        return printable(str(found)[:12])
    return number(found) if isinstance(found, _RIGHT) else printable(str(found))


def _evaluation(entry: Mapping[str, Any]) -> str:
    """What a whole held-out split came to; of a damaged run what is wrong with it."""
    if "error" in entry["summary"]:
        return printable(entry["summary"]["error"])
    return ", ".join(
        printable(f"{split}/{name} {number(value)}")
        for split, metrics in entry["summary"]["evaluation"].items()
        for name, value in metrics.items()
        if isinstance(value, int | float)
    )
