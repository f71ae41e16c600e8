"""`jaxkit runs` and `jaxkit show`: what is in run directories."""

import argparse
import json
from pathlib import Path
from typing import Any

from jaxkit.errors import UsageError


def runs(arguments: argparse.Namespace) -> int:
    """Lists the runs of a directory."""
    from jaxkit.runs import directory

    top = Path(arguments.directory)
    if not top.is_dir():
        raise UsageError(f"{top}: there is no such directory; name the one that holds the runs")
    found = [_summary_or_damage(path) for path in sorted(top.iterdir()) if directory.is_run(path)]
    if arguments.json:
        print(json.dumps(found, indent=1))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "status", "step", "evaluation")
    for run in found:
        if "error" in run:
            table.add_row(Path(run["run"]).name, "damaged", "", run["error"])
            continue
        results = [
            f"{split}/{name} {value:.4g}"
            for split, metrics in run["evaluation"].items()
            for name, value in metrics.items()
            if isinstance(value, int | float)
        ]
        step = f"{run['step']:,}/{run['num_steps']:,}"
        table.add_row(Path(run["run"]).name, run["status"], step, ", ".join(results))
    Console(highlight=False, markup=False).print(table if found else f"no runs in {top}")
    return 0


def _summary_or_damage(path: Path) -> dict[str, Any]:
    """A run's summary; of a damaged one, which must not hide the others, what is wrong with it."""
    from jaxkit.runs import directory

    try:
        return directory.summary(path)
    except (UsageError, OSError) as error:
        return {"run": str(path), "status": "damaged", "error": str(error)}


def show(arguments: argparse.Namespace) -> int:
    """Prints what one run came to."""
    from jaxkit.runs import directory

    found = directory.summary(Path(arguments.run))
    if arguments.json:
        print(json.dumps(found, indent=1))
        return 0
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    for name, value in _flat(found):
        console.print(f"{name:32} {value}", soft_wrap=True)
    return 0


def _flat(tree: Any, prefix: str = ""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
