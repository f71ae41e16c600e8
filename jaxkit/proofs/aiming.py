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

# Who aims at a save that takes milliseconds has to look often; in a run of hours it takes seconds.
_SECONDS_BETWEEN_LOOKS = (0.0005, 0.05)
_LOOKS_IN_A_RUN = 20_000
_BRIEF_SECONDS = 0.1
_TAIL_BYTES = 2**16


class Aim(NamedTuple):
    """One kill, planned.

    at:       "start-up", "steps", "save", "deletion" or "anywhere"
    progress: how much of the run must be done before, from 0 to 1
    by:       how much may be done at most: from there on it is killed, whatever is under way
    delay:    how long after the moment that is aimed at, as a part of what it may last, from 0 to 1
    """

    at: str
    progress: float
    by: float
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
        save=max(map(_seconds_of_writing, (whole / directory.CHECKPOINTS).iterdir()), default=0.0),
        saves=saves,
    )


def _seconds_of_writing(checkpoint: Path) -> float:
    """From the first file of a checkpoint to its manifest, which comes last."""
    times = [path.stat().st_mtime for path in checkpoint.rglob("*")]
    return max(times, default=0.0) - min(times, default=0.0)


def aims(kills: int, draw: random.Random, pace: Pace) -> list[Aim]:
    """Kills that are aimed at everything in turn, in the order of the progress that they wait for.

    Example:
        >>> pace = Pace(num_steps=9, to_first_step=1.0, total=2.0, interval=0.1, save=0.1, saves=9)
        >>> sorted({aim.at for aim in aims(5, random.Random(0), pace)})
        ['anywhere', 'deletion', 'save', 'start-up', 'steps']
    """
    kinds = ["save", "steps", "deletion", "start-up", "anywhere"]
    # Two checkpoints are kept: of a run that makes no third, none is deleted.
    kinds = [kind for kind in kinds if pace.saves > 2 or kind != "deletion"]
    chosen = [kinds[number % len(kinds)] for number in range(kills)]
    draw.shuffle(chosen)
    return spread([Aim(kind, draw.random(), 1.0, draw.random()) for kind in chosen], pace)


def spread(aims: Sequence[Aim], pace: Pace) -> list[Aim]:
    """The same aims with their progress in ascending order: a killed run goes on, it does not begin again."""
    # What is aimed at comes after the progress that is waited for, and must come before the end.
    progress = [0.8 * part for part in sorted(aim.progress for aim in aims)]
    # The next save and deletion come within that much; the kills after this one are to find something left.
    within = 3 / pace.saves
    by = [min(0.95, part + within) for part in (*progress[1:], 0.8)]
    return [aim._replace(progress=part, by=last) for aim, part, last in zip(aims, progress, by)]


class _Sight(NamedTuple):
    """What is seen of a process from outside, in its run directory.

    resumed: the step that it goes on from
    reached: () -> the newest step that it has recorded or saved
    saving, deleting: () -> whether a checkpoint is under way, or on its way out
    """

    resumed: int
    reached: Callable[[], int]
    saving: Callable[[], bool]
    deleting: Callable[[], bool]


def _sight(folder: Path) -> _Sight:
    """The sight of a process that has just been started."""
    metrics = folder / directory.METRICS
    unfinished, record = _unfinished(folder), _signature(metrics)
    fresh = lambda: _unfinished(folder) - unfinished
    return _Sight(
        resumed=_resumes(folder),
        # Until it goes on from its checkpoint, the record still has the rows that the process before it lost.
        reached=lambda: max(_resumes(folder), recorded(metrics) if _signature(metrics) != record else 0),
        saving=lambda: any(step > _resumes(folder) for step, _ in fresh()),
        deleting=lambda: any(step < _resumes(folder) for step, _ in fresh()),
    )


def shoot(process: subprocess.Popen, folder: Path, aim: Aim, pace: Pace) -> Kill | None:
    """Waits for the moment that is aimed at and kills the process; None where it ended before."""
    began, sight = time.monotonic(), _sight(folder)
    _, reached, saving, deleting = sight
    moved = lambda: reached() > sight.resumed
    far_enough = lambda: reached() >= aim.progress * pace.num_steps and moved()
    too_far = lambda: reached() >= aim.by * pace.num_steps and moved()
    # What to wait for, one after the other, and for how long afterwards at most.
    waits: dict[str, tuple[list[Callable[[], bool]], float]] = {
        "start-up": ([], pace.to_first_step),
        "anywhere": ([], pace.total),
        "steps": ([far_enough], 2 * pace.interval),
        "save": ([far_enough, saving], pace.save),
        "deletion": ([far_enough, saving, deleting], 0.0),
    }
    conditions, longest = waits[aim.at]
    pause = min(max(pace.total / _LOOKS_IN_A_RUN, _SECONDS_BETWEEN_LOOKS[0]), _SECONDS_BETWEEN_LOOKS[1])
    # A deletion is over in no time, and a small save too: who waits for one does not sleep.
    brief = {deleting, saving} if pace.save < _BRIEF_SECONDS else {deleting}
    alive = all(_wait(process, 0.0 if met in brief else pause, met, too_far) for met in conditions)
    until = time.monotonic() + aim.delay * longest
    started = lambda: aim.at == "start-up" and moved()
    if not alive or not _wait(process, pause, lambda: time.monotonic() >= until, started, too_far):
        return None
    seconds = time.monotonic() - began
    children.kill(process)
    if process.returncode != -signal.SIGKILL:
        return None
    phase = "save" if saving() else "deletion" if deleting() else "steps" if moved() else "start-up"
    return Kill(aim.at, seconds, phase, reached(), _resumes(folder))


def _wait(process: subprocess.Popen, pause: float, *conditions: Callable[[], bool]) -> bool:
    """Whether one of the conditions came true before the process ended."""
    while process.poll() is None:
        if any(met() for met in conditions):
            return True
        time.sleep(pause)
    return False


def _unfinished(folder: Path) -> set[tuple[int, int]]:
    """(step, time of change) of every checkpoint without a manifest: being written or deleted, or left behind."""
    found = set()
    try:
        for entry in os.scandir(folder / directory.CHECKPOINTS):
            if entry.name.isdecimal() and not os.path.exists(f"{entry.path}/{checkpoints.MANIFEST}"):
                # Not the inode: the next directory of that name often gets the same.
                found.add((int(entry.name), entry.stat().st_ctime_ns))
    except FileNotFoundError:
        pass  # there is none yet, or one has gone between two looks
    return found


def _resumes(folder: Path) -> int:
    return max(checkpoints.steps(folder / directory.CHECKPOINTS), default=0)


def _signature(path: Path) -> tuple[int, int] | None:
    """What changes when a file does."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size


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
