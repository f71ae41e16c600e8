"""What the process beside a run does: it gives the rows of the record to the writers, while the run goes on."""

import contextlib
import fcntl
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxkit.runs import cursors, directory, sending

# How long it goes on when the run's process has died without a word.
SECONDS_AFTER_A_KILL = 10.0


def work(*, run: str, allow: Sequence[str] | None, aside: bool) -> None:
    """What the process does: a thread for each writer, until it is told to finish or its parent is gone.

    With `aside` it runs where nothing else wants the processor, until then.
    """
    from jaxkit.writers import libraries

    for number in (signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)  # a library that asks the terminal is told that there is none
    if aside:
        _schedule("SCHED_IDLE")
    # What imports make stays: to look for garbage in it would take a tenth of their time.
    gc.set_threshold(100_000)
    libraries.keep_quiet()
    messages = os.fdopen(os.dup(1), "w")
    # Whatever a library prints is for nobody.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    folder, stopping, lock = Path(run), threading.Event(), threading.Lock()

    def said(task: cursors.Task, text: str) -> None:
        with lock, contextlib.suppress(OSError):
            print(json.dumps([task.name, f"{task.name}: {text}"]), file=messages, flush=True)

    def serve(task: cursors.Task) -> None:
        sending.send(sending.Job(folder, task, stopping, lambda text: said(task, text), allow))

    def wait_for_the_end() -> None:
        line = sys.stdin.readline()
        _schedule("SCHED_OTHER")
        # A second more than the other side waits; it says what was left.
        end = threading.Timer(1 + (json.loads(line) if line else SECONDS_AFTER_A_KILL), os._exit, (1,))
        end.daemon = True
        end.start()
        stopping.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    with _alone(folder):
        found = cursors.tasks(directory.read_config(folder).writers)
        threads = [threading.Thread(target=serve, args=(task,), daemon=True) for task in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _schedule(policy: str) -> None:
    """Gives all threads of this process a policy of Linux's; elsewhere, or where it is not allowed, nothing."""
    if hasattr(os, "SCHED_IDLE"):
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):
                os.sched_setscheduler(int(thread.name), getattr(os, policy), os.sched_param(0))


@contextlib.contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Waits for the process that served a run which was killed, and may be sending its last rows."""
    (run / cursors.FOLDER).mkdir(exist_ok=True)
    with (run / cursors.FOLDER / ".lock").open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.1)
        yield
