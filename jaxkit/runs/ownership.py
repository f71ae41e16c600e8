"""Who writes in a run directory, where a lock does not reach: another machine, over a shared file system.

On one machine the lock of the file system decides (`directory.claim`), and a killed process loses it at once. Not
every shared file system takes a lock on one machine for those on another; so whoever writes also leaves a file
with its name, and touches it every few seconds. One that nobody has touched for a minute is of a process that is
gone.
"""

import contextlib
import json
import os
import platform
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxkit.errors import UsageError
from jaxkit.runs import files

OWNER = ".owner"
SECONDS_BETWEEN_TOUCHES = 10.0
SECONDS_UNTIL_GONE = 60.0


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Leaves this process's name in a directory, and keeps it fresh.

    To be called by whoever has the lock, so that a name of this machine is that of a process that is gone.

    Raises:
        UsageError: a process of another machine writes there.
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
            raise UsageError(
                f"workdir: process {owner.get('pid')} of {owner.get('host')} is writing in {workdir}"
                f" ({max(age, 0):.0f} s ago); wait for it (if it was killed, for {SECONDS_UNTIL_GONE:.0f} s),"
                " or choose another with --workdir=DIR"
            )
    files.write_text(path, json.dumps(mine))
    stopped = threading.Event()

    def touch() -> None:
        while not stopped.wait(SECONDS_BETWEEN_TOUCHES):
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        if _read(path) == mine:
            with contextlib.suppress(OSError):
                path.unlink()


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
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
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
