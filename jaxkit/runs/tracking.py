"""The process beside a run that gives its rows to writers, and what the run and `jaxkit sync` ask of it.

A process and not a thread: what the writers' libraries import, retry, print or leak takes nothing from the
interpreter that trains, a step costs the same whatever is behind it, and one that hangs can be ended. The record
has the rows whether or not the process is there yet.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxkit.errors import UsageError
from jaxkit.runs import cursors
from jaxkit.runs.process import keep_to_itself

# The machine is the training's first: the libraries of the writers take seconds of a core to import, which on two
# busy cores would be a good part of a run of seconds, and nobody looks at the curves of a longer one so early.
SECONDS_ALONE = 15.0
# How long a run that is over, or was asked to stop, waits for its writers; the rest is for `jaxkit sync`.
SECONDS_AFTER_THE_END = 60.0
SECONDS_AFTER_A_STOP = 10.0

_START = "import json, sys; order = json.loads(sys.stdin.readline()); sys.path[:] = order.pop('path'); " + (
    "from jaxkit.runs import serving; serving.work(**order)"
)


class Beside(NamedTuple):
    """The process beside a run, which there may be none of yet.

    begin:  () -> None; starts it, where it is not there
    finish: (seconds) -> None; begins, and ends it when all is sent, or the seconds are over; a second time nothing
    """

    begin: Callable[[], None]
    finish: Callable[[float], None]


@contextlib.contextmanager
def beside(run: Path, writers: Sequence[Any], console: Any) -> Iterator[Beside]:
    """Serves the writers of a run from another process, after a while, until the context is left.

    What fails is a warning on the console.
    """
    if not writers:
        yield Beside(lambda: None, lambda seconds: None)
        return
    warn = lambda text: console.print(f"warning: {text}", soft_wrap=True)
    process = _later(lambda aside: start(run, writers, warn, aside=aside))
    try:
        yield process
    except BaseException:
        process.finish(SECONDS_AFTER_A_STOP)
        raise
    process.finish(SECONDS_AFTER_THE_END)


def _later(start: Callable[[bool], Callable[[float], None]]) -> Beside:
    """Starts the process when the training has had its time alone, or is asked to before; never twice.

    `start` is told whether the process is to give way to the training.
    """
    started: list[Callable[[float], None]] = []
    timer = threading.Timer(SECONDS_ALONE, lambda: started.append(start(True)))
    timer.daemon = True
    timer.start()

    def begin() -> None:
        timer.cancel()
        timer.join()  # it may be at it
        if not started:
            # First, so that what interrupts the start is no reason for another.
            started.append(lambda seconds: None)
            started[0] = start(False)

    def finish(seconds: float) -> None:
        begin()
        started[0](seconds)

    return Beside(begin, finish)


def start(
    run: Path,
    writers: Sequence[Any],
    warn: Callable[[str], None],
    allow: Sequence[str] | None = None,
    *,
    aside: bool = True,
) -> Callable[[float], None]:
    """Starts the process, where there are writers; it ends by itself soon after this one has died.

    With `aside` it gives way to everything else until it is told to finish.

    What comes back is given the seconds after which the process, told to send what is left, is ended; to call it
    again does nothing.
    """
    if not writers:
        return lambda seconds: None
    try:
        process = _process()
    except OSError as error:  # no more processes, no more memory: no reason to lose a run
        warn(f"no process for the writers: {error}; `jaxkit sync {run}` sends all")
        return lambda seconds: None
    said: set[str] = set()

    def listen() -> None:
        with process.stdout as lines:  # type: ignore[union-attr]
            for line in lines:
                name, text = json.loads(line)
                said.add(name)
                warn(text)

    def tell(line: Any) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(json.dumps(line), file=process.stdin, flush=True)

    def finish(seconds: float) -> None:
        if process.returncode is not None:
            return
        tell(seconds)
        ended: int | None = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                ended = process.wait(seconds) or None
        finally:
            _end(process)
        listener.join(1.0)
        for task in cursors.tasks(writers):
            left = _missing(run, task)
            what = f"{left} rows not sent" if left else "" if _is_closed(run, task) else "not closed"
            if what and task.name not in said:
                why = (
                    f"in the {seconds:g} s given" if ended is None else f"as its process ended (exit code {ended})"
                )
                warn(f"{task.name}: {what} {why}; `jaxkit sync {run}` {'sends them' if left else 'closes it'}")

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    tell({"path": sys.path, "run": str(run), "allow": allow, "aside": aside})
    return finish


def _process() -> subprocess.Popen[str]:
    beside = subprocess.Popen(
        [sys.executable, "-c", _START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Ctrl-C in a terminal goes to a whole group; this process is told by us. Not a session of its own: to each
        # session Linux may give as much of the processor as to another, whatever the priorities within.
        process_group=0,
        # Nothing in it is for an accelerator, which the run may hold whole.
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        text=True,
    )
    keep_to_itself(beside.stdin)  # type: ignore[arg-type]
    return beside


def _missing(run: Path, task: cursors.Task) -> int:
    """How many rows did not reach a writer; 0 where its cursor, or the record, says nothing that can be read."""
    with contextlib.suppress(UsageError, OSError, ValueError, KeyError):
        return cursors.missing(run, cursors.read(run, task))
    return 0


def _is_closed(run: Path, task: cursors.Task) -> bool:
    """Whether a writer was closed; True too where its cursor says nothing that can be read."""
    with contextlib.suppress(UsageError, OSError, ValueError, KeyError):
        return cursors.read(run, task).closed
    return True


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a process and what it has started, if it has not ended."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with contextlib.suppress(OSError):
        process.stdin.close()  # type: ignore[union-attr]


def sync(run: Path, writers: Sequence[Any], *, seconds: float, allow: Sequence[str]) -> list[dict[str, Any]]:
    """Sends what the writers of a run that is over have not been given; what came of it, for each writer.

    Raises:
        UsageError: a writer is outside `allow`, or its library is missing.
    """
    tasks = cursors.check(writers, allow)
    before = [cursors.missing(run, cursors.read(run, task)) for task in tasks]
    said: list[str] = []
    start(run, writers, said.append, allow, aside=False)(seconds)
    found = []
    for task, rows in zip(tasks, before):
        cursor = cursors.read(run, task)
        left = cursors.missing(run, cursor)
        whole = left == 0 and cursor.closed
        ended = next((t.partition(";")[0] for t in said if t.startswith(f"{task.name}: ") and "ended" in t), None)
        error = cursor.error or (None if whole else ended or f"not done within {seconds:g} s")
        found.append(
            {"writer": task.name, "sent": rows - left, "missing": left, "step": cursor.step, "error": error}
        )
    return found
