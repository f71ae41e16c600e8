"""`metrics.jsonl`: what a run saw, one row for each recorded step, whatever was killed on the way."""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxkit.errors import UsageError
from jaxkit.means import Mean, NothingCounted
from jaxkit.runs import digest, files, rows
from jaxkit.runs.rows import read as read


class Recorder(NamedTuple):
    """Appends rows, and knows the end of their digest chain.

    append: (step, {name: float | None}, fold of the parameters, speed={}) -> None; the speed ({name: number},
            steps/s and what goes with it) is beside the values, and no part of the digest
    extend: ([(step, values, fold), ...], speed={}) -> None; rows that the file gets together, in less time
    noted:  () -> what a checkpoint says of the record so far: the newest row's digest, and the SHA-256 of all rows
    sync:   () -> None; what was appended is on the disk when it returns
    close:  () -> None
    """

    append: Callable[..., None]
    extend: Callable[..., None]
    noted: Callable[[], dict[str, str]]
    sync: Callable[[], None]
    close: Callable[[], None]


def nowhere() -> Recorder:
    """The record of a process that leaves the writing to another.

    Example:
        >>> nowhere().append(1, {"loss": 0.5}, 7, {})
    """
    nothing = lambda *rows: None
    return Recorder(nothing, nothing, lambda: {}, lambda: None, lambda: None)


class Beginning(NamedTuple):
    """The rows of a record up to some step, as they stand in the file, and the digest of the last."""

    content: bytes
    digest: str


def beginning(path: Path, *, after: int, noted: Mapping[str, Any] = {}) -> Beginning:
    """The rows up to step `after`, if they are those which the checkpoint of that step has `noted`.

    Raises:
        UsageError: rows up to that step are missing or changed.

    Example:
        >>> beginning(Path("there_is_no_such_file"), after=5)
        Beginning(content=b'', digest='')
    """
    content = files.content(path) if path.exists() else b""
    whole = [row for row in rows.parse(content)[0] if row["step"] <= after]
    kept = b"".join(line + b"\n" for line in content.split(b"\n")[: len(whole)])
    found = {"digest": whole[-1]["digest"] if whole else "", "record_sha256": hashlib.sha256(kept).hexdigest()}
    # An older jaxkit has noted the digest alone.
    if any(noted.get(name, value) != value for name, value in found.items()):
        raise UsageError(
            f"{path}: rows up to step {after} are missing or changed, the checkpoint goes on from others;"
            f" restore the file, or move {path.parent} away and start the same command again"
        )
    return Beginning(kept, found["digest"])


def recorder(path: Path, *, after: int, begun: Beginning | None = None) -> Recorder:
    """Opens the record to go on after step `after`: later rows, and a torn last line, are cut off.

    `begun` are the rows up to there, where they were read already.

    Raises:
        OSError: the file cannot be written.
    """
    content, found = begun or beginning(path, after=after)
    hashed = hashlib.sha256(content)
    if path.exists():
        files.write_bytes(path, content)
    file = path.open("ab")

    def append(step: int, values: Mapping[str, Any], parameters: int, speed: Mapping[str, float] = {}) -> None:
        extend([(step, values, parameters)], speed)

    def extend(rows: Iterable[tuple[int, Mapping[str, Any], int]], speed: Mapping[str, float] = {}) -> None:
        nonlocal found
        wall, lines = round(time.time(), 3), []
        rounded = {name: float(f"{value:.5g}") for name, value in speed.items()}
        beside = f'"speed": {json.dumps(rounded)}, ' if rounded else ""
        for step, values, parameters in rows:
            found = digest.chain(found, step, values, parameters)
            # Written out, as json writes it: where every step is recorded, it takes twice as long.
            said = "".join([f"{digest.quoted(name)}: {_number(value)}, " for name, value in values.items()])
            lines.append(f'{{"step": {step}, "wall": {wall}, {said}{beside}"digest": "{found}"}}\n')
        content = "".join(lines).encode()
        hashed.update(content)
        file.write(content)
        file.flush()

    def sync() -> None:
        file.flush()
        os.fsync(file.fileno())

    noted = lambda: {"digest": found, "record_sha256": hashed.hexdigest()}
    return Recorder(append, extend, noted, sync, file.close)


def _number(value: Any) -> str:
    return repr(value) if type(value) is float and math.isfinite(value) else json.dumps(value)


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


def values_of_each(metrics: Mapping[str, Any]) -> list[dict[str, float | str | None]]:
    """The `values` of many dicts of additive states, stacked: each array has a leading axis.

    Example:
        >>> from jaxkit.means import Mean
        >>> values_of_each({"loss": Mean(np.array([6.0, 1.0]), np.array([3.0, 0.0]))})
        [{'loss': 2.0}, {'loss': None}]
    """
    leaves, tree = jax.tree.flatten(metrics)
    # Of each step of a run there are means of one number, mostly: divided together they take a third of the time.
    if all(
        type(state) is Mean and np.ndim(state.total) == 1 and np.all(state.count) for state in metrics.values()
    ):
        columns = [state.total / state.count for state in metrics.values()]
        if all(np.isfinite(column).all() for column in columns):
            return [dict(zip(metrics, row)) for row in zip(*(column.tolist() for column in columns))]
    return [values(jax.tree.unflatten(tree, [leaf[n] for leaf in leaves])) for n in range(len(leaves[0]))]


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
