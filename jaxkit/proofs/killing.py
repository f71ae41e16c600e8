"""Killed at random moments and resumed: the proof that it ends with the bits of a run that nobody touched."""

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxkit.errors import UsageError
from jaxkit.proofs import aiming, children, comparing
from jaxkit.proofs.aiming import Aim, Kill
from jaxkit.runs import directory, files, process, verifying

WHOLE, LOG = "whole", "log.txt"
# A round in which the run ends before anything hits it is tried so often.
_FRUITLESS_ROUNDS = 3


class Proof(NamedTuple):
    """What came of killing and resuming.

    kills:       each kill, in order
    rounds:      how many runs they were spread over: one that ends before all have hit is followed by another
    comparison:  of the uninterrupted run and the first killed one that differs, or the last one
    differences: in one line each, all that is not the same; () where the proof holds
    """

    kills: tuple[Kill, ...]
    rounds: int
    comparison: comparing.Comparison
    differences: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether there were kills, and nothing differs."""
        return bool(self.kills) and self.comparison.identical and not self.differences


def prove(
    command: Sequence[str], *, kills: int, seed: int, top: Path, say: Callable[[str], None] = lambda text: None
) -> Proof:
    """Runs an experiment's command to its end, then again with `kills` kill -9s, and compares what both left.

    Args:
        command: the experiment's own, without --workdir.
        kills: how many; a run that ends before all of them have hit is followed by another.
        seed: of the moments; when exactly one hits is up to the machine.
        top: where the run directories are made: "whole", "killed-1", ...
        say: is told how it goes, line by line.

    Raises:
        UsageError: the command does not work uninterrupted, or the directory holds something else.
    """
    _check(kills, top)
    whole = top / WHOLE
    with process.asked_to_stop():
        _run(command, whole, top)
        pace = aiming.pace(whole)
        say(f"uninterrupted: {pace.num_steps:,} steps, {pace.total:.1f} s")
        aims = aiming.aims(kills, random.Random(seed), pace)
        done: list[Kill] = []
        rounds = fruitless = 0
        while True:
            rounds += 1
            killed, before = top / f"killed-{rounds}", len(done)
            for kill in _killed(command, killed, aims[len(done) :], pace, top):
                done.append(kill)
                say(f"kill {len(done)} of {kills}: {kill}")
            comparison = comparing.compare(whole, killed)
            differences = (*map(str, comparison.differences), *_left(whole, killed))
            fruitless = fruitless + 1 if len(done) == before else 0
            if differences or len(done) == kills:
                break
            if fruitless == _FRUITLESS_ROUNDS:
                differences = (f"only {len(done)} of {kills} kills hit: the run is too short for more",)
                break
            aims = aims[: len(done)] + aiming.spread(aims[len(done) :], pace)
    return Proof(tuple(done), rounds, comparison, differences)


def _check(kills: int, top: Path) -> None:
    if kills < 1:
        raise UsageError(f"--kills: came {kills}, wanted at least 1")
    if directory.holds_run(top):
        raise UsageError(f"workdir: {top} is a run's; choose another with --workdir=DIR")
    for name in (WHOLE, "killed-1"):
        if (top / name).exists():
            raise UsageError(f"workdir: {top} holds a proof already ({name}); choose another with --workdir=DIR")
    top.mkdir(parents=True, exist_ok=True)


def _killed(command: Sequence[str], folder: Path, aims: Sequence[Aim], pace: aiming.Pace, top: Path):
    """Starts the command again and again; yields each kill that hits, until the run has ended."""
    for aim in aims:
        with _started(command, folder, top) as process:
            kill = aiming.shoot(process, folder, aim, pace)
        if kill is None:
            _check_ended(process.returncode, top)
            return
        yield kill
    _run(command, folder, top)


def _started(command: Sequence[str], folder: Path, top: Path):
    return children.started([*command, f"--workdir={folder}"], log=top / LOG, environment=children.environment())


def _run(command: Sequence[str], folder: Path, top: Path) -> None:
    with _started(command, folder, top) as process:
        process.wait()
    _check_ended(process.returncode, top)


def _check_ended(code: int, top: Path) -> None:
    if code != 0:
        log = top / LOG
        raise UsageError(f"the command ended with exit code {code}: {children.last_words(log)}")


def _left(whole: Path, killed: Path) -> list[str]:
    """What kills have left behind for good: other checkpoints than those of the whole run, half a file or line."""
    names = lambda run: sorted({*os.listdir(run / directory.CHECKPOINTS)} - {verifying.FIRST})
    found = []
    if names(killed) != names(whole):
        found.append(f"checkpoints: {names(whole)} and {names(killed)}")
    found += [f"{path} was left half-written" for path in killed.rglob(".*") if files.is_temporary(path)]
    if not (killed / directory.METRICS).read_bytes().endswith(b"\n"):
        found.append(f"{killed / directory.METRICS}: the last line is torn")
    return found
