"""Processes that take rounds of steps in turn; what is said to them is in peers/protocol.py."""

import contextlib
import json
import math
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SECONDS_TO_ANSWER = 600


class Running(NamedTuple):
    """A process, the log of what it says besides, and what it said when it was ready."""

    process: subprocess.Popen
    log: Path
    ready: dict[str, Any]


def start(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Running:
    """Starts a process and waits until it is ready.

    Raises:
        RuntimeError: it ended, or said nothing for ten minutes; with the end of its log.
    """
    began, pipe = time.time(), subprocess.PIPE
    with log.open("w") as sink:
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=sink, env=dict(environment), cwd=log.parent
        )
    running = Running(process, log, {})
    try:
        running.ready.update(_answer(running))
    except RuntimeError:
        stop(running)
        raise
    running.ready["to_first_step"] = running.ready["first_step_at"] - began
    return running


def one_round(running: Running, steps: int) -> tuple[float, float]:
    """One round of a process: its steps/s, and its newest loss.

    Raises:
        RuntimeError: as `start`.
    """
    assert running.process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended, as its answer will say
        running.process.stdin.write(f"{steps}\n".encode())
        running.process.stdin.flush()
    found = _answer(running)
    return (steps + found["excess"]) / found["seconds"], found["loss"]


def _answer(running: Running) -> dict[str, Any]:
    stream = running.process.stdout
    assert stream is not None
    line = stream.readline() if select.select([stream], [], [], SECONDS_TO_ANSWER)[0] else b""
    if not line:
        lines = [line for line in running.log.read_text().splitlines() if line.strip()]
        raise RuntimeError(lines[-1] if lines else "it ended and said nothing")
    return json.loads(line)


def peak_mebibytes(running: Running) -> float:
    """The most main memory that a process ever held; nan where the system does not say."""
    status = Path(f"/proc/{running.process.pid}/status")
    if not status.exists():
        return math.nan
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) / 1024


def stop(running: Running) -> None:
    """Ends a process: the end of its input does, or after ten seconds a signal."""
    assert running.process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        running.process.stdin.close()
    try:
        running.process.wait(10)
    except subprocess.TimeoutExpired:
        running.process.kill()
        running.process.wait()
    assert running.process.stdout is not None
    running.process.stdout.close()
