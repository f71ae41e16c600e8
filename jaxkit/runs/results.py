"""What a finished run came to, as its command prints it."""

import sys
from pathlib import Path
from typing import Any

from jaxkit.runs import assets, directory
from jaxkit.runs import rows as recorded
from jaxkit.runs.peers import FAILED
from jaxkit.runs.stopping import Diverged


def show(console: Any, folder: Path, shown: Path) -> None:
    """The table of results, and the run directory, under the name `shown`, as the last line."""
    from rich.table import Table

    found = directory.summary(folder)
    written = assets.shortened(folder)
    if written:
        console.print(written, soft_wrap=True)
    splits = list(found["evaluation"])
    table = Table(title=f"{found['experiment']}: {found['step']:,} steps", title_justify="left")
    table.add_column("")
    for split in splits:
        table.add_column(split, justify="right")
    rows: dict[str, dict[str, float]] = {}
    for split in splits:
        for name, value in found["evaluation"][split].items():
            parts = value.items() if isinstance(value, dict) else [("", value)]
            for part, number in parts:
                if (value := recorded.number(number)) is not None:  # "nan" is the number that nobody should miss
                    rows.setdefault(f"{name} {part}".strip(), {})[split] = value
    for name, values in rows.items():
        table.add_row(name, *(f"{values[split]:.4f}" if split in values else "" for split in splits))
    table.add_section()
    labels = {"steps_per_second": "steps/s", "to_first_step": "time to first step, s", "total": "total, s"}
    for name, label in labels.items():
        value = found["timing"].get(name)
        table.add_row(label, f"{value:,.1f}" if value else "")
    console.print(table)
    if (folder / assets.SAMPLES).exists():
        console.print(f"samples: {shown / assets.SAMPLES}", soft_wrap=True)
    if (folder / "picture.png").exists():
        console.print(f"picture: {shown / 'picture.png'}", soft_wrap=True)
    console.print(str(shown), soft_wrap=True)


def diverged(console: Any, folder: Path, shown: Path, error: Diverged) -> int:
    """Says why a run ended itself, and returns its exit code; what it saved before is good to go on from."""
    directory.set_status(folder, status="failed", step=error.step, stopped=str(error))
    console.print(str(shown), soft_wrap=True)
    sys.stdout.flush()
    print(
        f"error: {error}; `jaxkit replay {shown} --step {error.step}` names what made it;"
        " config.stop_on says whether a run goes on regardless",
        file=sys.stderr,
    )
    return FAILED
