"""Who writes in a run directory, where a lock does not reach: another machine, over a shared file system.

On one machine the lock of the file system decides (`directory.claim`), and a killed process loses it at once. Not
every shared file system takes a lock on one machine for those on another; so whoever writes also leaves a file
with its name, looks every second that it is still there, and touches it every few. One that nobody has touched for
a minute is of a process that is gone, or of a machine that sleeps: that finds another name when it wakes up, and
ends.
"""

import contextlib
import itertools
import json
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxkit.errors import Busy
from jaxkit.runs import files
from jaxkit.runs.peers import TRY_AGAIN

OWNER = ".owner"
SECONDS_BETWEEN_LOOKS = 1.0
LOOKS_FOR_A_TOUCH = 10
SECONDS_UNTIL_GONE = 60.0


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[Callable[[], None]]:
    """Leaves this process's name in a directory, and keeps it fresh; ends the process where another's is there.

    To be called by whoever has the lock, so that a name of this machine is that of a process that is gone. What it
    gives looks at once, and raises Busy: of two that began in the same moment, one is found out.

    Raises:
        Busy: a process of another machine writes there.
        OSError: it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with held(Path(folder)):
        ...         os.listdir(folder)
        ['.owner']
    """
    path = workdir / OWNER
    mine = {**_machine(), "pid": os.getpid()}
    owner = _read(path)
    if _is_other(owner):
        age = _age(path, workdir)
        # Of a clock that was set back, what was touched lies in the future, and whoever lives touches it again.
        if abs(age) < SECONDS_UNTIL_GONE:
            raise Busy(
                f"workdir: process {owner.get('pid')} of {owner.get('host')} is writing in {workdir}"
                f" ({max(age, 0):.0f} s ago); wait for it (if it was killed, for {SECONDS_UNTIL_GONE:.0f} s),"
                " or choose another with --workdir=DIR"
            )
    files.write_text(path, json.dumps(mine))
    stopped = threading.Event()

    def check() -> None:
        found = _read(path)
        if found != mine:
            whose = (
                f"process {found.get('pid')} of {found.get('host')} writes in it" if found else "its name is gone"
            )
            raise Busy(
                f"workdir: {workdir} is no longer this process's: {whose}; start the same command again when"
                " nobody does, or choose another with --workdir=DIR"
            )

    def watch() -> None:
        for look in itertools.count(1):
            if stopped.wait(SECONDS_BETWEEN_LOOKS):
                return
            try:
                check()
                if look % LOOKS_FOR_A_TOUCH == 0:
                    os.utime(path)
            except Busy as error:
                _leave(error)
            except OSError:
                pass  # the file system does not answer: no word about who writes

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield check
    finally:
        stopped.set()
        thread.join()
        with contextlib.suppress(OSError):
            if _read(path) == mine:
                path.unlink()


def _leave(error: Busy) -> None:
    # A progress bar has hidden the cursor.
    print("\x1b[?25h" * sys.stderr.isatty() + f"error: {error}", file=sys.stderr, flush=True)
    # At once, as if it were killed: what it would still write is another's.
    os._exit(TRY_AGAIN)


def elsewhere(workdir: Path) -> bool:
    """Whether a process of another machine writes in a directory, as far as the clocks of both agree.

    Example:
        >>> elsewhere(Path("there_is_no_such_directory"))
        False
    """
    path = workdir / OWNER
    try:
        return _is_other(_read(path)) and abs(time.time() - path.stat().st_mtime) < SECONDS_UNTIL_GONE
    except OSError:
        return False


def _is_other(owner: dict[str, Any]) -> bool:
    return bool(owner) and {name: owner.get(name) for name in ("host", "boot")} != _machine()


def _machine() -> dict[str, str]:
    return {"host": socket.gethostname(), "boot": _boot()}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(files.content(path).decode())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _boot() -> str:
    """Tells machines of one name apart: containers, and one machine before and after it was started anew."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def _age(path: Path, workdir: Path) -> float:
    """Seconds since a file was touched, by the clock of the file system that it lies on."""
    probe = workdir / f"{OWNER}.probe.{os.getpid()}"
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    finally:
        probe.unlink(missing_ok=True)
