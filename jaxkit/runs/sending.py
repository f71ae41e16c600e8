"""The rows of a record on their way to one writer: in order, in batches, each once, tried again when it fails.

The record is the truth and needs none of this. What a writer has been given is counted in its cursor; what it
has not been given is in the record, so that nothing has to be held in memory.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxkit import configs
from jaxkit.runs import cursors, directory, files, tailing
from jaxkit.runs.cursors import Cursor, Task
from jaxkit.writing import Tracked, Writer

SECONDS_BETWEEN_LOOKS = 1.0
LONGEST_PAUSE = 60.0


class Job(NamedTuple):
    """What is to be sent where.

    run:      the run's directory
    task:     the writer
    stopping: set when no more rows come
    say:      (text) -> None; told what fails
    allow:    the modules that the writer may be of; None for any
    """

    run: Path
    task: Task
    stopping: threading.Event
    say: Callable[[str], None]
    allow: Sequence[str] | None = None


def send(job: Job) -> None:
    """Sends rows as they come until `stopping` is set, then what is left; a failure is said once, and noted.

    Between attempts it waits, longer each time. Once `stopping` is set there is one attempt, no more.
    """
    pause, cursor, said = SECONDS_BETWEEN_LOOKS, None, False

    def save(changed: Cursor) -> None:
        nonlocal cursor, pause
        try:
            json.dumps(changed.kept)
        except (TypeError, ValueError) as error:
            raise TypeError(f"what the writer keeps (flush, keep) is no JSON: {error}") from error
        # In memory first: a full disk must not make what was sent count as missing.
        cursor = changed
        if not changed.error:
            pause = SECONDS_BETWEEN_LOOKS
        cursors.write(job.run, job.task, changed)

    while True:
        last = job.stopping.is_set()
        try:
            cursor = cursor or cursors.read(job.run, job.task)
            _attempt(job, cursor, save)
            return
        except BaseException as error:  # whatever a library, a server or a disk can do, sys.exit too
            text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            if not said:
                job.say(
                    f"{text}; the record has what is missed here, `jaxkit sync {job.run}` sends it at the latest"
                )
            said = True
            with contextlib.suppress(OSError):
                save((cursor or cursors.new(job.task))._replace(error=text))
        if last:
            return
        job.stopping.wait(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _attempt(job: Job, cursor: Cursor, save: Callable[[Cursor], None]) -> None:
    """Sends from the cursor on, until `stopping` was set before a look that found nothing."""
    writer, rows, at, opened = cursors.build(job.task, job.allow), _reader(job), cursor, False

    def keep(**values: Any) -> None:
        nonlocal cursor, at
        cursor = cursor._replace(kept={**cursor.kept, **values}, closed=False)
        at = at._replace(kept=cursor.kept, closed=False)
        save(cursor)

    while True:
        ending = job.stopping.is_set()
        found = rows(at.step)
        if found and found[0]["step"] == at.step:
            _compare(job, at, found.pop(0)["digest"])
        if not opened and (found or (ending and not at.closed)):
            there, opened = _open(job, writer, at, keep), True
            if there is not None and there != at.step:
                at, rows = at._replace(step=there, digest=None), _reader(job)
                continue
        if found:
            kept = _give(writer, found)
            at = at._replace(step=found[-1]["step"], digest=found[-1]["digest"], closed=False, error=None)
            if kept is not None:
                cursor = at = at._replace(kept={**at.kept, **kept})
                save(cursor)
        elif ending:
            break
        else:
            job.stopping.wait(SECONDS_BETWEEN_LOOKS)
    if opened:
        writer.close()
    if opened or cursor.error:
        save(at._replace(closed=True, error=None))


def _reader(job: Job) -> Callable[[int], list[dict[str, Any]]]:
    return tailing.reader(job.run / directory.METRICS)


def _compare(job: Job, at: Cursor, digest: str) -> None:
    if at.digest not in (None, digest):
        job.say(f"the rows up to step {at.step} were sent before the run was changed and computed anew; they stay")


def _open(job: Job, writer: Writer, at: Cursor, keep: Callable[..., None]) -> int | None:
    config = directory.read_config(job.run)
    return writer.open(Tracked(job.run, config, lambda: tags(job.run, config), at.kept, keep))


def _give(writer: Writer, rows: Sequence[dict[str, Any]]) -> Any:
    for row in rows:
        writer.write(row["step"], tailing.numbers(row), row["wall"])
    return writer.flush()


def tags(run: Path, config: Any) -> dict[str, str]:
    """What names a run elsewhere: its experiment, fingerprint, commit and directory."""
    noted = files.read_json(run / directory.PROVENANCE) or {}
    found = {
        "experiment": directory.status(run).get("experiment"),
        "fingerprint": configs.fingerprint(config),
        "git_commit": files.part(noted, "git").get("commit"),
        "directory": str(run.absolute()),
    }
    return {name: str(text) for name, text in found.items() if text}
