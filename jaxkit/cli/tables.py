"""Tables as the verbs print them: fitted to a terminal, or as wide as they are for grep and less -S."""

import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from jaxkit.runs.text import printable

_HEADER = 20
# Narrower no column is broken.
_BROKEN = 12
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

    In a narrow window the first and the last column are broken, never a number; where that is not enough, each
    row is several lines.
    """
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    if not (sys.stdout and sys.stdout.isatty()) or len(rows) > _MOST_FITTED:
        return _plain([printable(name) for name in columns], cells, right)
    ends = {0, len(columns) - 1} - {*right}
    if _least(columns, cells, ends) > _window():
        return _row_by_row([printable(name) for name in columns], cells)
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        justify: Any = "right" if place in right else "left"
        made.add_column(header(name), justify=justify, overflow="fold", no_wrap=place not in ends)
    for row in cells:
        made.add_row(*row)
    return made


def _window() -> int:
    from rich.console import Console

    return Console().width


def _least(columns: Sequence[str], cells: Sequence[Sequence[str]], ends: set[int]) -> int:
    """How wide a table is at least, with three spaces between its columns and one on each side."""
    from rich.cells import cell_len

    heads = [max(map(cell_len, header(name).split("\n"))) for name in columns]
    widths = [max([head, *map(cell_len, column)]) for head, *column in zip(heads, *cells)]
    return sum(min(w, _BROKEN) if n in ends else w for n, w in enumerate(widths)) + 3 * len(columns) - 1


def _row_by_row(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Each row under its first cell, a line for each of the others that says something."""
    width = max(map(len, columns[1:]), default=0)
    lines = []
    for first, *rest in rows:
        lines += ["", f"{columns[0]}: {first}" if columns[0] else first]
        lines += [f"  {name:{width}}  {cell}" for name, cell in zip(columns[1:], rest) if cell]
    return "\n".join([*lines, ""])


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
