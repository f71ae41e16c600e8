"""Tables as the verbs print them: fitted to a terminal, or as wide as they are for grep and less -S."""

import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from jaxkit.runs.text import printable

_HEADER = 20
# To fit a long table to a window takes longer than anybody waits.
_MOST_FITTED = 200


def show(*parts: Any) -> None:
    """Prints lines, and what `table` gives."""
    for part in parts:
        if isinstance(part, str):
            print(part)
        else:
            from rich.console import Console

            Console(highlight=False, markup=False).print(part)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Sequence[int] = ()) -> Any:
    """A table without lines between its rows; the columns at `right` are numbers.

    In a narrow window the first and the last column are broken, never a number.
    """
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty() or len(rows) > _MOST_FITTED:
        return _plain([printable(name) for name in columns], cells, right)
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        ends = place in (0, len(columns) - 1) and place not in right
        justify: Any = "right" if place in right else "left"
        made.add_column(header(name), justify=justify, overflow="fold", no_wrap=not ends)
    for row in cells:
        made.add_row(*row)
    return made


def _plain(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(columns, *rows)]

    def line(row: Sequence[str]) -> str:
        gaps = [" " * (width - cell_len(cell)) for width, cell in zip(widths, row)]
        padded = (gap + cell if place in right else cell + gap for place, (gap, cell) in enumerate(zip(gaps, row)))
        return "  ".join(padded).rstrip()

    return "\n".join(["", line(columns), "  ".join("─" * width for width in widths), *map(line, rows), ""])


def as_json(value: Any) -> str:
    """JSON with text for what it has no number for (nan, infinities), and the fields of named tuples by name.

    Example:
        >>> as_json({"loss": float("inf")}).split()
        ['{', '"loss":', '"inf"', '}']
    """
    return json.dumps(_finite(value), indent=1)


def _finite(value: Any) -> Any:
    value = value._asdict() if hasattr(value, "_asdict") else value
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def header(name: str) -> str:
    """A long name in several lines, broken at its dots and slashes.

    Example:
        >>> print(header("config.optimizer.learning_rate.peak_value"))
        config.optimizer.
        learning_rate.
        peak_value
    """
    lines = [""]
    for part in printable(name).replace(".", ".\n").replace("/", "/\n").split("\n"):
        lines[-1:] = [lines[-1] + part] if len(lines[-1] + part) <= _HEADER else [lines[-1], part]
    return "\n".join(line for line in lines if line)
