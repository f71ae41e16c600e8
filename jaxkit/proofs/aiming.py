"""When to kill: moments spread over a run, and aimed at what is rare: start-up, saves, deletions."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxkit.proofs import children
from jaxkit.runs import checkpoints, directory

# Deletions and saves take milliseconds; who aims at them has to look often.
_SECONDS_BETWEEN_LOOKS = 0.0005
_TAIL_BYTES = 2**16


class Aim(NamedTuple):
    """One kill, planned.

    at:       "start-up", "steps", "save", "deletion" or "anywhere"
    progress: how much of the run must be done before, from 0 to 1
    delay:    how long after the moment that is aimed at, as a part of what it may last, from 0 to 1
    """

    at: str
    progress: float
    delay: float


class Kill(NamedTuple):
    """One kill that hit.

    aimed:   what it was aimed at
    seconds: after the process was started
    phase:   what it hit: "start-up", "steps", "save" or "deletion"
    reached: the newest step that was recorded or saved
    resumes: the step that the next start goes on from
    """

    aimed: str
    seconds: float
    phase: str
    reached: int
    resumes: int

    def __str__(self) -> str:
        return (
            f"{self.seconds:.3f} s after the start, in {self.phase} (aimed at {self.aimed}),"
            f" step {self.reached} reached; goes on from step {self.resumes}"
        )


class Pace(NamedTuple):
    """What the uninterrupted run took: steps, seconds in all, to the first step, for an interval, for a save."""

    num_steps: int
    total: float
    to_first_step: float
    interval: float
    save: float
    saves: int


def pace(whole: Path) -> Pace:
    """The pace of a finished run, from its directory."""
    found, config = directory.summary(whole), directory.read_config(whole)
    timing, rows = found["timing"], max(1, found["num_steps"] // config.log_every)
    saves = -(-config.num_steps // config.checkpoint_every)
    stepping = max(timing["total"] - timing["to_first_step"] - timing["evaluating_and_saving"], 0.0)
    return Pace(
        num_steps=config.num_steps,
        total=timing["total"],
        to_first_step=timing["to_first_step"],
        interval=stepping / rows,
        save=timing["evaluating_and_saving"] / saves,
        saves=saves,
    )


def aims(kills: int, draw: random.Random, *, deletes: bool) -> list[Aim]:
    """Kills that are aimed at everything in turn, in the order of the progress that they wait for.

    Example:
        >>> sorted({aim.at for aim in aims(5, random.Random(0), deletes=True)})
        ['anywhere', 'deletion', 'save', 'start-up', 'steps']
    """
    kinds = ["save", "steps", "deletion", "start-up", "anywhere"]
    kinds = [kind for kind in kinds if deletes or kind != "deletion"]
    chosen = [kinds[number % len(kinds)] for number in range(kills)]
    draw.shuffle(chosen)
    return spread([Aim(kind, draw.random(), draw.random()) for kind in chosen])


def spread(aims: Sequence[Aim]) -> list[Aim]:
    """The same aims with their progress in ascending order: a killed run goes on, it does not begin again."""
    progress = sorted(aim.progress for aim in aims)
    # What is aimed at comes after the progress that is waited for, and must come before the end.
    return [aim._replace(progress=0.8 * part) for aim, part in zip(aims, progress)]


def shoot(process: subprocess.Popen, folder: Path, aim: Aim, pace: Pace) -> Kill | None:
    """Waits for the moment that is aimed at and kills the process; None where it ended before."""
    began = time.monotonic()
    unfinished, at_start = _unfinished(folder), _resumes(folder)
    fresh = lambda: _unfinished(folder) - unfinished
    far_enough = lambda: _reached(folder) >= aim.progress * pace.num_steps
    # What to wait for, one after the other, and for how long afterwards at most.
    waits: dict[str, tuple[list[Callable[[], bool]], float]] = {
        "start-up": ([], pace.to_first_step),
        "anywhere": ([], pace.total),
        "steps": ([far_enough], 2 * pace.interval),
        "save": ([far_enough, lambda: any(step > _resumes(folder) for step, _ in fresh())], pace.save),
        "deletion": ([far_enough, lambda: any(step < _resumes(folder) for step, _ in fresh())], 0.0),
    }
    conditions, longest = waits[aim.at]
    alive = all(_wait(process, condition) for condition in conditions)
    until = time.monotonic() + aim.delay * longest
    if not alive or not _wait(process, lambda: time.monotonic() >= until):
        return None
    seconds = time.monotonic() - began
    children.kill(process)
    if process.returncode != -signal.SIGKILL:
        return None
    reached, resumes = _reached(folder), _resumes(folder)
    phase = "start-up" if reached <= at_start and seconds < pace.to_first_step else "steps"
    for step, _ in fresh():
        phase = "save" if step > resumes else "deletion"
    return Kill(aim.at, seconds, phase, reached, resumes)


def _wait(process: subprocess.Popen, condition: Callable[[], bool]) -> bool:
    """Whether the condition came true before the process ended."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return False


def _unfinished(folder: Path) -> set[tuple[int, int]]:
    """(step, inode) of every checkpoint without a manifest: being written, being deleted, or left behind."""
    found = set()
    try:
        for entry in os.scandir(folder / directory.CHECKPOINTS):
            if entry.name.isdecimal() and not os.path.exists(f"{entry.path}/{checkpoints.MANIFEST}"):
                found.add((int(entry.name), entry.inode()))
    except FileNotFoundError:
        pass
    return found


def _resumes(folder: Path) -> int:
    return max(checkpoints.steps(folder / directory.CHECKPOINTS), default=0)


def _reached(folder: Path) -> int:
    """The newest step that is recorded or saved."""
    return max(recorded(folder / directory.METRICS), _resumes(folder))


def recorded(path: Path) -> int:
    """The newest step of a record that is being written, without reading more than its end; 0 where it has none.

    Example:
        >>> recorded(Path("there_is_no_such_file"))
        0
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return 0
    for line in reversed(lines[:-1]):
        try:
            return json.loads(line)["step"]
        except (ValueError, TypeError, KeyError):
            continue
    return 0
