"""`metrics.jsonl`: what a run saw, one row for each recorded step, whatever was killed on the way."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkit.runs import digest, files


class Recorder(NamedTuple):
    """Appends rows, and knows the end of their digest chain.

    append: (step, {name: float | None}, fold of the parameters) -> the row
    digest: () -> the newest row's digest
    sync:   () -> None; what was appended is on the disk when it returns
    close:  () -> None
    """

    append: Callable[[int, Mapping[str, Any], int], dict[str, Any]]
    digest: Callable[[], str]
    sync: Callable[[], None]
    close: Callable[[], None]


def recorder(path: Path, *, after: int) -> Recorder:
    """Opens the record to go on after step `after`: later rows, and a torn last line, are cut off.

    Raises:
        OSError: the file cannot be written.
    """
    rows = [row for row in read(path) if row["step"] <= after]
    if path.exists():
        files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    newest = rows[-1]["digest"] if rows else ""
    file = path.open("a")

    def append(step: int, values: Mapping[str, Any], parameters: int) -> dict[str, Any]:
        nonlocal newest
        newest = digest.chain(newest, step, values, parameters)
        row = {"step": step, "wall": round(time.time(), 3), **values, "digest": newest}
        file.write(json.dumps(row) + "\n")
        file.flush()
        return row

    def sync() -> None:
        file.flush()
        os.fsync(file.fileno())

    return Recorder(append, lambda: newest, sync, file.close)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a record; a last line that a kill tore is left out.

    Example:
        >>> read(Path("there_is_no_such_file"))
        []
    """
    rows: list[dict[str, Any]] = []
    lines = path.read_text().split("\n") if path.exists() else [""]
    # Behind the last newline there is nothing, or a row that was being written.
    for line in lines[:-1]:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


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
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        for part, number in parts:
            if number is None or np.ndim(number) == 0:
                flat[prefix + (f"{name}.{part}" if part else name)] = plain(number)
    return flat


def computed(state: Any) -> Any:
    """`state.compute()`, or None where nothing was counted (a step that was skipped)."""
    try:
        return state.compute()
    except ValueError:
        return None


def plain(value: Any) -> Any:
    """A value as JSON can hold it: arrays as lists, nan and infinities as strings.

    Example:
        >>> plain({"a": np.float32(0.5), "b": np.array([1.0, np.nan])})
        {'a': 0.5, 'b': [1.0, 'nan']}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | str | int):
        return value
    if np.ndim(value):
        return [plain(item) for item in np.asarray(value).tolist()]
    number = float(value)
    return number if math.isfinite(number) else str(number)
