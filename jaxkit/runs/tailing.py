"""Reading a record while it grows."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxkit.runs import files
from jaxkit.runs.rows import BESIDE, number

MAX_ROWS_AT_ONCE = 1_000


def reader(path: Path) -> Callable[[int], list[dict[str, Any]]]:
    """Reads a record that grows: `rows(step)` are the next from that step on, a thousand at most, [] for none yet.

    A line without an end is left for the next time. A record that was put in the place of the one that was being
    read is read from its beginning.
    """
    place, offset = 0, 0

    def rows(after: int) -> list[dict[str, Any]]:
        nonlocal place, offset
        found: list[dict[str, Any]] = []
        try:
            file = files.opened(path)
        except FileNotFoundError:
            return found
        with file:
            stat = os.fstat(file.fileno())
            if stat.st_ino != place or stat.st_size < offset:
                place, offset = stat.st_ino, 0
            file.seek(offset)
            while len(found) < MAX_ROWS_AT_ONCE and (line := file.readline()).endswith(b"\n"):
                offset += len(line)
                row = json.loads(line)
                if row["step"] >= after:
                    found.append(row)
        return found

    return rows


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The values of a row that are numbers, nan and infinities with them, and the speed as "speed/NAME".

    Example:
        >>> numbers({"step": 5, "wall": 1.0, "loss": "nan", "none": None, "digest": "", "speed": {"steps": 2}})
        {'loss': nan, 'speed/steps': 2.0}
    """
    found = {name: number(value) for name, value in row.items() if name not in BESIDE}
    found |= {f"speed/{name}": number(value) for name, value in row.get("speed", {}).items()}
    return {name: value for name, value in found.items() if value is not None}
