"""All runs below a directory, read once and remembered in `.index.sqlite` until their files change.

The index is a cache: it may be deleted at any time, and where it is damaged, of another version, or the directory
cannot be written, the runs are read as if there were none.
"""

import contextlib
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxkit.errors import UsageError
from jaxkit.runs import directory, evaluations, files, rows

NAME = ".index.sqlite"
# DIR/run, DIR/group/run, DIR/group/group/run; deeper there is something else than runs.
DEPTH = 3
# Counts up when an entry gets other keys.
VERSION = 1
SPARK_POINTS = 48

_READ = (directory.CONFIG, directory.STATUS, directory.METRICS, directory.PROVENANCE)
# A file that was written a moment ago may be written again without a change of its times.
_SECONDS_TO_SETTLE = 2.0
_SECONDS_FOR_THE_LOCK = 1.0


class Place(NamedTuple):
    """A run directory that was found; `key` changes whenever one of the files that are read does."""

    name: str
    path: Path
    key: str
    settled: bool


def find(top: Path, depth: int = DEPTH) -> Iterator[Place]:
    """The runs below a directory, by name ("run", "group/run"); what is in a run is not searched.

    Names that begin with a point are passed over, and links that lead to what is found anyway.
    """
    yield from _find(str(top), "", depth, top.resolve())


# With paths as text: of thousands of runs a Path for each file would be half of the time.
def _find(folder: str, name: str, depth: int, whole: Path) -> Iterator[Place]:
    try:
        with os.scandir(folder) as scanned:
            found = {entry.name: entry for entry in scanned}
    except OSError:
        return
    if name and directory.CONFIG in found:
        yield _place(folder, name, found)
        return
    for entry in (found[each] for each in sorted(found)) if depth else ():
        with contextlib.suppress(OSError):
            if entry.name.startswith(".") or not entry.is_dir():
                continue
            if entry.is_symlink() and Path(entry.path).resolve().is_relative_to(whole):
                continue
            yield from _find(entry.path, f"{name}/{entry.name}" if name else entry.name, depth - 1, whole)


def _place(folder: str, name: str, entries: Mapping[str, os.DirEntry[str]]) -> Place:
    parts, newest = [], 0.0
    for entry in (*(entries[each] for each in _READ if each in entries), *_reports(entries)):
        try:
            stat = entry.stat()
        except OSError:
            continue
        parts.append(f"{entry.name} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_size} {stat.st_ino}")
        newest = max(newest, stat.st_mtime, stat.st_ctime)
    return Place(name, Path(folder), "\n".join(parts), newest < time.time() - _SECONDS_TO_SETTLE)


def _reports(entries: Mapping[str, os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    if evaluations.EVALUATION not in entries:
        return []
    try:
        with os.scandir(entries[evaluations.EVALUATION].path) as scanned:
            return sorted((e for e in scanned if e.name.endswith(".json")), key=lambda entry: entry.name)
    except OSError:
        return []


def runs(top: Path, *, remember: bool = True) -> list[dict[str, Any]]:
    """An entry for each run below a directory, in the order of their names.

    An entry is {"name", "summary", "config", "values", "commit", "updated", "spark"}: what `directory.summary`
    gives, the newest of each recorded and evaluated value by name, seconds since the epoch, a thinned curve of the
    loss. Of a damaged run `summary` says what is wrong, and the others are empty. `remember` keeps the index.

    Raises:
        UsageError: there is no such directory, or it is a run.
    """
    if not top.is_dir():
        raise UsageError(f"{top}: there is no such directory; name the one that holds the runs")
    if directory.is_run(top):
        raise UsageError(f"{top}: is a run itself; name the directory that holds it, or: jaxkit show {top}")
    places = list(find(top))
    if not remember:
        return [_entry(place) for place in places]
    known, whole = _load(top / NAME)
    entries, new = [], {}
    for place in places:
        key, entry = known.get(place.name, ("", None))
        if entry is None or key != place.key:
            entry = _entry(place)
            if place.settled and entry["summary"]["status"] != "damaged" and _is_text(place.name + place.key):
                new[place.name] = (place.key, entry)
        else:
            _stand(entry, place)
        entries.append(entry)
    gone = known.keys() - {place.name for place in places}
    if new or gone:
        _keep(top / NAME, new, gone, afresh=not whole)
    return entries


def _entry(place: Place) -> dict[str, Any]:
    """What is to be known of one run; of a damaged one, which must not hide the others, what is wrong with it."""
    empty: dict[str, Any] = {
        "name": place.name,
        "config": {},
        "values": {},
        "commit": None,
        "updated": None,
        "spark": [],
    }
    try:
        recorded = rows.read(place.path / directory.METRICS)
        summary = directory.summary(place.path, recorded)
        code = files.part(files.read_json(place.path / directory.PROVENANCE) or {}, "git")
        # It was read as a config already: whole, and canonical or made so by hand.
        config = files.read_json(place.path / directory.CONFIG)
        wall = recorded[-1].get("wall") if recorded else None
        values = rows.newest(recorded)
        for split, metrics in summary["evaluation"].items():
            values |= evaluations.flat(metrics, f"{split}/")
    except (UsageError, OSError) as error:
        return {**empty, "summary": {"run": str(place.path), "status": "damaged", "error": str(error)}}
    return {
        **empty,
        "summary": summary,
        "config": config,
        "values": values,
        "commit": code.get("commit"),
        "updated": rows.finite(wall),
        "spark": spark(recorded),
    }


def _stand(entry: dict[str, Any], place: Place) -> None:
    """Brings what is remembered to now: how the directory is named from here, and whether its process lives."""
    summary = entry["summary"]
    if summary["status"] in ("running", "interrupted"):
        with contextlib.suppress(UsageError, OSError):
            summary["status"] = directory.status(place.path)["status"]
    summary["run"] = str(place.path)


def spark(recorded: Sequence[Mapping[str, Any]], name: str = "loss") -> list[float]:
    """A curve in a few points: the mean of each stretch of what was recorded under a name.

    Example:
        >>> spark([{"loss": 3.0}, {"loss": "nan"}, {"loss": 1.0}])
        [3.0, 1.0]
    """
    finite = [value for row in recorded if (value := rows.finite(row.get(name))) is not None]
    stretch = max(1, -(-len(finite) // SPARK_POINTS))
    parts = [finite[start : start + stretch] for start in range(0, len(finite), stretch)]
    # Divided first: the sum of large numbers may be none.
    return [float(f"{sum(value / len(part) for value in part):.4g}") for part in parts]


def _is_text(name: str) -> bool:
    # A name on disk may be any bytes; a database takes text.
    return name.encode(errors="replace").decode() == name


def _load(path: Path) -> tuple[dict[str, tuple[str, Any]], bool]:
    """What the index has, {name: (key, entry)}, and whether it is whole."""
    found: dict[str, tuple[str, Any]] = {}
    # A link from elsewhere may lead to a database that is somebody's.
    if not path.is_file() or path.is_symlink():
        return found, not path.is_symlink()
    try:
        with contextlib.closing(_open(path, "ro")) as index:
            if index.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                return found, True
            for name, key, text, check in index.execute("SELECT name, key, entry, crc FROM runs"):
                if zlib.crc32(f"{name}\n{key}\n{text}".encode()) == check:
                    found[name] = (key, json.loads(text))
    except (sqlite3.Error, ValueError, TypeError) as error:
        return {}, isinstance(error, sqlite3.Error) and _hindered(error)
    return found, True


def _keep(path: Path, new: Mapping[str, tuple[str, Any]], gone: set[str], *, afresh: bool) -> None:
    """Writes what changed; a damaged index is made afresh. A lock or a full disk hinders only this."""
    for begin in (afresh, True):
        try:
            if begin:
                # With what it was going to roll back, which the new one must not be taken for.
                path.with_name(f"{NAME}-journal").unlink(missing_ok=True)
                path.unlink(missing_ok=True)
            with contextlib.closing(_open(path, "rwc")) as index, index:
                _write(index, new, gone)
            return
        except OSError:
            return
        except sqlite3.Error as error:
            if _hindered(error):
                return


def _hindered(error: sqlite3.Error) -> bool:
    """Whether it is the moment or the place that is wrong, not what the file holds."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CANTOPEN) & 0xFF
    return code not in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _open(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=_SECONDS_FOR_THE_LOCK)


def _write(index: sqlite3.Connection, new: Mapping[str, tuple[str, Any]], gone: set[str]) -> None:
    index.execute("BEGIN IMMEDIATE")
    if index.execute("PRAGMA user_version").fetchone()[0] != VERSION:
        index.execute("DROP TABLE IF EXISTS runs")
        index.execute("CREATE TABLE runs (name TEXT PRIMARY KEY, key TEXT, entry TEXT, crc INTEGER) WITHOUT ROWID")
        index.execute(f"PRAGMA user_version = {VERSION}")
    found = [(name, key, json.dumps(entry)) for name, (key, entry) in new.items()]
    index.executemany(
        "REPLACE INTO runs VALUES (?, ?, ?, ?)",
        [(*row, zlib.crc32("\n".join(row).encode())) for row in found],
    )
    index.executemany("DELETE FROM runs WHERE name = ?", [(name,) for name in gone])
