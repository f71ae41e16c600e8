"""The writers of a run by name, and how far each has come: `writers/NAME.json`."""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxkit import configs
from jaxkit.configs import fields
from jaxkit.errors import UsageError
from jaxkit.runs import directory, files, tailing
from jaxkit.writing import Writer

FOLDER = "writers"


class Cursor(NamedTuple):
    """What is known to have reached a writer.

    config: the writer's part of the config, as JSON; another one begins at the first row
    step:   the last step that is there
    digest: of that step's row
    kept:   what the writer keeps for itself
    closed: whether it was closed after what it was given last
    error:  why the last attempt failed
    """

    config: Any
    step: int = 0
    digest: str | None = None
    kept: Mapping[str, Any] = {}
    closed: bool = True
    error: str | None = None


class Task(NamedTuple):
    """One writer of a run: its name there, its part of the config, and where that is."""

    name: str
    config: Any
    where: str


def tasks(writers: Sequence[Any]) -> list[Task]:
    """The writers of a run by name: that of the function, with a number where there are several.

    Raises:
        UsageError: they are no tuple of calls.

    Example:
        >>> found = tasks(configs.freeze({"writers": ({"call": "a.csv"}, {"call": "b.csv"})}).writers)
        >>> [task.name for task in found]
        ['csv', 'csv-2']
    """
    if not fields.WRITERS.fits(writers):
        raise UsageError(f"config.writers: came {configs.thaw(writers)!r}, wanted {fields.WRITERS.wanted}")
    found: list[Task] = []
    for index, config in enumerate(writers):
        base = str(config["call" if "call" in config else "function"]).rpartition(".")[2]
        for other in found:
            if other.config == config:
                raise UsageError(f"config.writers.{index}: is {other.where} once more; give each once")
        same = sum(task.name.partition("-")[0] == base for task in found)
        found.append(Task(f"{base}-{same + 1}" if same else base, config, f"config.writers.{index}"))
    return found


def build(task: Task, allow: Sequence[str] | None) -> Writer:
    """The writer that a config names.

    Raises:
        UsageError: it is none, its arguments do not fit, its library is missing, or it is outside `allow`.
    """
    made = configs.build(task.config, where=task.where, allow=allow)
    if not isinstance(made, Writer):
        raise UsageError(f"{task.where}: gave a {type(made).__name__}, wanted a jaxkit.types.Writer")
    return made


def check(writers: Sequence[Any], allow: Sequence[str] | None = None) -> list[Task]:
    """The writers of a run, after a look that each can be built.

    Raises:
        UsageError: see `build`.
    """
    found = tasks(writers)
    for task in found:
        build(task, allow)
    return found


def read(run: Path, task: Task) -> Cursor:
    """Where a writer stands; at the beginning, where it has none or is another than it was.

    Raises:
        UsageError: the file is damaged.
    """
    path, config = _path(run, task), _plain(task)
    found = files.read_json(path)
    if found is None or found.get("config") != config:
        return Cursor(config)
    cursor = Cursor(**{name: found[name] for name in Cursor._fields if name in found})
    if not (isinstance(cursor.step, int) and isinstance(cursor.kept, dict)):
        raise files.damaged(path, "has no step, or nothing kept")
    return cursor


def write(run: Path, task: Task, cursor: Cursor) -> None:
    """Replaces a cursor.

    Raises:
        OSError: it cannot be written.
    """
    _path(run, task).parent.mkdir(exist_ok=True)
    files.write_json(_path(run, task), cursor._asdict())


def new(task: Task) -> Cursor:
    """The cursor of a writer that was given nothing."""
    return Cursor(_plain(task))


def missing(run: Path, cursor: Cursor) -> int:
    """How many rows of the record have not reached a writer."""
    rows = tailing.reader(run / directory.METRICS)
    count = 0
    while found := rows(cursor.step + 1):
        count += len(found)
    return count


def _plain(task: Task) -> Any:
    return json.loads(configs.to_json(task.config))


def _path(run: Path, task: Task) -> Path:
    """The file of a writer: the one that has its config, whatever it is called, for its place may have changed."""
    folder, config = run / FOLDER, _plain(task)
    own = folder / f"{task.name}.json"
    others = [path for path in sorted(folder.glob("*.json")) if path != own]
    for path in (own, *others):
        if _config_in(path) == config:
            return path
    # What another writer was given is not forgotten.
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    return folder / f"{task.name}-{digest}.json" if _config_in(own) is not None else own


def _config_in(path: Path) -> Any:
    with contextlib.suppress(UsageError, OSError):
        return (files.read_json(path) or {}).get("config")
    return None
