"""Reading `metrics.jsonl`; without jax, so that a listing of a thousand runs need not wait for it."""

import json
import math
from pathlib import Path
from typing import Any

from jaxkit.errors import UsageError
from jaxkit.runs import files

# As hands write them; a run writes strings, which every reader of JSON takes.
_DECODER = json.JSONDecoder(parse_constant={"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}.get)
# What a row says beside its values.
BESIDE = frozenset({"step", "wall", "speed", "digest"})


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a record; a last line that a kill tore is left out.

    Raises:
        UsageError: a line before the last one is no row.

    Example:
        >>> read(Path("there_is_no_such_file"))
        []
    """
    rows, broken = begin(path)
    if broken:
        raise UsageError(
            f"{path}: line {len(rows) + 1} is no row of a record; restore the file,"
            " or start the run's command again, which goes on from what is whole"
        )
    return rows


def begin(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The rows up to the first line that is none, and whether there is such a line."""
    return parse(files.content(path)) if path.exists() else ([], False)


def parse(content: bytes) -> tuple[list[dict[str, Any]], bool]:
    r"""The rows of some bytes of a record up to the first line that is none, and whether there is such a line.

    Example:
        >>> parse(b'{"step": 5, "digest": "0a"}\n{"step": 10, "dig')
        ([{'step': 5, 'digest': '0a'}], False)
    """
    rows: list[dict[str, Any]] = []
    # Behind the last newline there is nothing, or a row that was being written.
    for line in content.split(b"\n")[:-1]:
        try:
            row = _DECODER.decode(line.decode())
            whole = isinstance(row["step"], int) and isinstance(row["digest"], str)
        except (ValueError, TypeError, KeyError, RecursionError):
            whole = False
        if not whole or (rows and row["step"] <= rows[-1]["step"]):
            return rows, True
        rows.append(row)
    return rows, False


def number(value: Any) -> float | None:
    """A recorded value as a float, with "nan" and "inf" as what they say; None where it is no number.

    Example:
        >>> number(1), number("nan"), number("-inf"), number("12"), number(None)
        (1.0, nan, -inf, None, None)
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # an integer of hundreds of digits; a float so written is read as infinite, too
            return math.inf if value > 0 else -math.inf
    return float(value) if value in ("nan", "inf", "-inf") else None


def finite(value: Any) -> float | None:
    """A recorded value as a float where it is a finite number, else None.

    Example:
        >>> finite(1), finite("nan"), finite(10**400), finite("12")
        (1.0, None, None, None)
    """
    found = number(value)
    return found if found is not None and math.isfinite(found) else None


def newest(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each value that was recorded the newest.

    Example:
        >>> newest([{"step": 1, "loss": 2.0, "test/loss": 3.0}, {"step": 2, "loss": 1.0}])
        {'loss': 1.0, 'test/loss': 3.0}
    """
    found: dict[str, Any] = {}
    for row in rows:
        found |= row
    return {name: value for name, value in found.items() if name not in BESIDE}
