"""`metrics.jsonl`: what a run saw, one row for each recorded step, whatever was killed on the way."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkit.checks import UsageError
from jaxkit.means import NothingCounted
from jaxkit.runs import digest, files


class Recorder(NamedTuple):
    """Appends rows, and knows the end of their digest chain.

    append: (step, {name: float | None}, fold of the parameters, speed, more=False) -> the row; the speed
            ({name: number}, steps/s and what goes with it) is beside the values, and no part of the digest;
            with more=True another row follows at once, and the file may get both together
    digest: () -> the newest row's digest
    sync:   () -> None; what was appended is on the disk when it returns
    close:  () -> None
    """

    append: Callable[..., dict[str, Any]]
    digest: Callable[[], str]
    sync: Callable[[], None]
    close: Callable[[], None]


def nowhere() -> Recorder:
    """The record of a process that leaves the writing to another.

    Example:
        >>> nowhere().append(1, {"loss": 0.5}, 7, {})
        {}
    """
    return Recorder(lambda *row, more=False: {}, lambda: "", lambda: None, lambda: None)


def recorder(path: Path, *, after: int, newest: str | None = None) -> Recorder:
    """Opens the record to go on after step `after`: later rows, and a torn last line, are cut off.

    `newest` is the digest that the chain had at that step, where it is known.

    Raises:
        UsageError: rows up to that step are missing or changed.
        OSError: the file cannot be written.
    """
    rows = [row for row in _read(path)[0] if row["step"] <= after]
    found = rows[-1]["digest"] if rows else ""
    if newest not in (None, found):
        raise UsageError(
            f"{path}: rows up to step {after} are missing or changed, the checkpoint goes on from others;"
            f" restore the file, or move {path.parent} away and start the same command again"
        )
    if path.exists():
        files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    file, encode = path.open("a", encoding="utf-8"), json.JSONEncoder().encode

    def append(
        step: int,
        values: Mapping[str, Any],
        parameters: int,
        speed: Mapping[str, float] = {},
        *,
        more: bool = False,
    ) -> dict[str, Any]:
        nonlocal found
        found = digest.chain(found, step, values, parameters)
        rounded = {"speed": {name: float(f"{value:.5g}") for name, value in speed.items()}} if speed else {}
        row = {"step": step, "wall": round(time.time(), 3), **values, **rounded, "digest": found}
        file.write(encode(row) + "\n")
        if not more:
            file.flush()
        return row

    def sync() -> None:
        file.flush()
        os.fsync(file.fileno())

    return Recorder(append, lambda: found, sync, file.close)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a record; a last line that a kill tore is left out.

    Raises:
        UsageError: a line before the last one is no row.

    Example:
        >>> read(Path("there_is_no_such_file"))
        []
    """
    rows, broken = _read(path)
    if broken:
        raise UsageError(
            f"{path}: line {len(rows) + 1} is no row of a record; restore the file,"
            " or start the run's command again, which goes on from what is whole"
        )
    return rows


def _read(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The rows up to the first line that is none, and whether there is such a line."""
    rows: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    # Behind the last newline there is nothing, or a row that was being written.
    for line in lines[:-1]:
        try:
            row = json.loads(line)
            whole = isinstance(row["step"], int) and isinstance(row["digest"], str)
        except (ValueError, TypeError, KeyError, RecursionError):
            whole = False
        if not whole or (rows and row["step"] <= rows[-1]["step"]):
            return rows, True
        rows.append(row)
    return rows, False


def values(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float | str | None]:
    """The numbers of a dict of additive states, flat: a state with several gives "name.number".

    Null where nothing was counted, a string ("nan", "inf") for what JSON has no number for; arrays are
    left to the reports.

    Example:
        >>> from jaxkit.means import Mean
        >>> values({"loss": Mean(np.float64(6), np.float64(3)), "none": Mean(np.float64(0), np.float64(0))})
        {'loss': 2.0, 'none': None}
    """
    flat: dict[str, float | str | None] = {}
    for name, state in metrics.items():
        value = computed(state)
        if isinstance(value, float):
            flat[prefix + name] = plain(value)
            continue
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        for part, number in parts:
            if number is None or np.ndim(number) == 0:
                flat[prefix + (f"{name}.{part}" if part else name)] = plain(number)
    return flat


def computed(state: Any) -> Any:
    """`state.compute()`, or None where nothing was counted (a step that was skipped)."""
    try:
        return state.compute()
    except NothingCounted:
        return None


def plain(value: Any) -> Any:
    """A value as JSON can hold it: arrays as lists, nan and infinities as strings.

    Example:
        >>> plain({"a": np.float32(0.5), "b": np.array([1.0, np.nan])})
        {'a': 0.5, 'b': [1.0, 'nan']}
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | str | int):
        return value
    if np.ndim(value):
        return [plain(item) for item in np.asarray(value).tolist()]
    number = float(value)
    return number if math.isfinite(number) else str(number)
