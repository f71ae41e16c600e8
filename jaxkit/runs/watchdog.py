"""A watchdog: a run whose step does not finish in time ends, with the stacks of all threads."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from jaxkit.runs import process
from jaxkit.runs.peers import STUCK

ENVIRONMENT = "JAXKIT_STEP_SECONDS"


class Watch(NamedTuple):
    """What the loop tells its watchdog.

    begins: (step) -> None; the step after this one begins, with the wait for its batch
    calls:  (count) -> None; a call of so many steps is made; the first of its length compiles, and is not timed
    rests:  () -> None; what comes now takes as long as it takes (evaluating, saving)
    """

    begins: Callable[[int], None]
    calls: Callable[[int], None]
    rests: Callable[[], None]


@contextlib.contextmanager
def watching() -> Iterator[Watch]:
    """A watchdog for one loop, where JAXKIT_STEP_SECONDS sets the time; without it nothing is watched.

    Raises:
        UsageError: what it is set to is no number of seconds.

    Example:
        >>> with watching() as watch:
        ...     watch.begins(3)
    """
    limit = process.seconds_of(ENVIRONMENT)
    if limit is None:
        yield Watch(lambda step: None, lambda count: None, lambda: None)
        return
    watch, stands = _watch()
    ended = threading.Event()

    def looks() -> None:
        while not ended.wait(min(1.0, limit / 4)):
            # Should Python itself be held, this thread cannot look; then faulthandler ends the process, with 1.
            faulthandler.dump_traceback_later(2 * limit + 60, exit=True)
            now = stands()
            if now is not None and time.monotonic() - now[0] > limit:
                _end(limit, now[1])

    thread = threading.Thread(target=looks, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()
        faulthandler.cancel_dump_traceback_later()


def _watch() -> tuple[Watch, Callable[[], tuple[float, int] | None]]:
    """What the loop tells, and () -> (since when, after which step) where a step is timed."""
    # Replaced whole, so that another thread never sees half of a change.
    stands: tuple[float, int] | None = None
    lengths: set[int] = set()

    def begins(step: int) -> None:
        nonlocal stands
        stands = (time.monotonic(), step) if lengths else None

    def calls(count: int) -> None:
        nonlocal stands
        if count not in lengths:
            lengths.add(count)
            stands = None

    def rests() -> None:
        nonlocal stands
        stands = None

    return Watch(begins, calls, rests), lambda: stands


def _end(seconds: float, step: int) -> None:
    faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
    # A progress bar has hidden the cursor.
    shown = "\x1b[?25h" * sys.stderr.isatty()
    print(
        f"{shown}error: step {step + 1} has not finished in {seconds:g} s ({ENVIRONMENT}); the stacks are above;"
        " the same command goes on from the newest checkpoint",
        file=sys.stderr,
        flush=True,
    )
    # Whoever is stuck cannot be asked to stop; the newest checkpoint and the record are whole.
    os._exit(STUCK)
