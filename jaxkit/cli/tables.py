"""Tables as the verbs print them: as wide as they need where nobody looks at a terminal, for grep and less -S."""

from collections.abc import Iterable, Sequence
from typing import Any

from jaxkit.runs.text import printable

_WIDE = 4_096
_HEADER = 20


def console() -> Any:
    """A console that takes no word for markup."""
    from rich.console import Console

    made = Console(highlight=False, markup=False)
    return made if made.is_terminal else Console(highlight=False, markup=False, width=_WIDE)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[int] = ()) -> Any:
    """A table without lines between its rows; the columns at `right` are numbers.

    In a narrow window the first and the last column are broken, never a number.
    """
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        ends = place in (0, len(columns) - 1) and place not in right
        justify: Any = "right" if place in right else "left"
        made.add_column(header(name), justify=justify, overflow="fold", no_wrap=not ends)
    for row in rows:
        made.add_row(*("" if cell is None else printable(str(cell)) for cell in row))
    return made


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
