"""A run, run again from its directory alone: its code, its config, its data, and then the same numbers or not."""

import contextlib
import hashlib
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxkit import configs
from jaxkit.errors import UsageError
from jaxkit.proofs import aiming, children, comparing, environments, worktrees
from jaxkit.runs import checkpoints, directory, files, process, provenance, record

# Below it, runs that do not agree bit for bit are said to agree within tolerance; the number is said too.
TOLERANCE = 1e-3


class Reproduction(NamedTuple):
    """What came of running a run again.

    runs_what:   what was run, in words
    environment: in one line each, what is not as recorded
    notes:       in one line each, what is not known, or cannot be as it was
    comparison:  of the records and checkpoints
    verdict:     "bits", "within tolerance" or "different"
    """

    runs_what: str
    environment: tuple[str, ...]
    notes: tuple[str, ...]
    comparison: comparing.Comparison
    verdict: str


def reproduce(
    run: Path,
    *,
    steps: int | None = None,
    keep: Path | None = None,
    allow: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Reproduction:
    """Runs a run again, in a process of its own from a worktree of its commit and patch, and compares.

    Args:
        run: its directory.
        steps: only up to the first recorded step that is not below it; None: as far as the run has come.
        keep: where the new run stays; None: it is deleted.
        allow: modules that its config may call into, beside `configs.ALLOWED`.
        say: is told what is going to be run, before it is.

    Raises:
        UsageError: it cannot be run again: no run, no provenance, another config or other data than recorded.
    """
    noted, pieces, upto = _checked(run, steps, keep, allow)
    patch = _patch(run)
    with process.asked_to_stop(), worktrees.room() as top, contextlib.ExitStack() as stack:
        code, notes = _code(stack, run, noted, patch, top)
        notes += _said_of(pieces, noted)
        experiment = _experiment(noted, code)
        environment = environments.recorded(noted, code)
        found = environments.differences(noted, environments.here(environment, top))
        runs_what = _what(run, noted, patch, experiment, code)
        for line in (runs_what, *notes, *(f"environment: {line}" for line in found)):
            say(line)
        copy = keep or top / "run"
        _prepare(copy, pieces[0], noted)
        where = code / noted.get("git", {}).get("directory", "")
        for before, config in zip([pieces[0], *pieces], pieces):
            if upto is not None and aiming.recorded(copy / directory.METRICS) >= upto:
                break
            (top / "config.py").write_text(_as_python(config), encoding="utf-8")
            flags = [f"--config={top / 'config.py'}", f"--workdir={copy.absolute()}"]
            flags += [f"--allow-config-change={path}" for path, *_ in configs.differences(before, config)]
            _run([sys.executable, str(experiment), *flags], copy, where, environment, top, until=upto)
        comparison = comparing.compare(run, copy, upto=upto)
    return Reproduction(runs_what, tuple(found), tuple(notes), comparison, verdict(comparison))


def verdict(comparison: comparing.Comparison, tolerance: float = TOLERANCE) -> str:
    """What may be claimed: "bits", "within tolerance" or "different".

    Example:
        >>> verdict(comparing.Comparison(4, 40, 40, 40, 9, (), 0.0))
        'bits'
    """
    if comparison.identical:
        return "bits"
    return "within tolerance" if comparison.rows and comparison.largest <= tolerance else "different"


def _checked(
    run: Path, steps: int | None, keep: Path | None, allow: Sequence[str]
) -> tuple[dict[str, Any], list[configs.Frozen], int | None]:
    """The provenance, the configs to run and the last step to compare, after a look that they belong together."""
    config = directory.read_config(run)
    noted = provenance.read(run)
    if "command" not in noted:
        raise UsageError(f"{run}: has no {directory.PROVENANCE} that says what was run; it cannot be run again")
    fingerprint = _starts(noted)[-1].get("fingerprint")
    if fingerprint != configs.fingerprint(config):
        raise UsageError(
            f"{run / directory.CONFIG}: is not the config that the run was run with: fingerprint recorded"
            f" {str(fingerprint)[:12]}, found {configs.fingerprint(config)[:12]}; restore the file"
        )
    pieces = [*_ran_before(run, noted), config]
    # What was sent to trackers is not sent to them again; it is no part of the numbers.
    pieces = [configs.replace(piece, {"writers": ()}) for piece in pieces]
    for piece in pieces:
        configs.check_calls(piece, allow=(*configs.ALLOWED, *allow))
    recorded = [row["step"] for row in record.read(run / directory.METRICS)]
    for saved in checkpoints.steps(run / directory.CHECKPOINTS)[-1:]:
        # What is compared with must be what the run has written.
        manifest = checkpoints.manifest(run / directory.CHECKPOINTS, saved)
        record.beginning(run / directory.METRICS, after=saved, noted=manifest)
    if not recorded:
        raise UsageError(f"{run}: has recorded no step yet; there is nothing to compare with")
    if steps is not None and steps < 1:
        raise UsageError(f"--steps: came {steps}, wanted at least 1")
    if keep is not None and keep.exists():
        raise UsageError(f"--keep: {keep} is there already; choose another")
    if steps is None and directory.status(run)["status"] == "finished":
        return noted, pieces, None
    return noted, pieces, next((step for step in recorded if step >= (steps or math.inf)), recorded[-1])


def _ran_before(run: Path, noted: Mapping[str, Any]) -> list[configs.Frozen]:
    """The configs that a run had before its last, each run to its end; none where one was changed on the way.

    The end of a run has a row of its own, so that one that was made longer is run again in the same pieces.
    """
    found: list[configs.Frozen] = []
    for change in files.parts(noted, "config_changes"):
        # A run that was not saved yet began with the next one.
        if change.get("after_step") == 0:
            continue
        before = configs.from_json(json.dumps(change.get("before", {})))
        if before.get("num_steps") != change.get("after_step"):
            return []
        if configs.fingerprint(before) not in [start.get("fingerprint") for start in _starts(noted)]:
            raise UsageError(
                f"{run / directory.PROVENANCE}: config_changes: before step {change['after_step']} stands a config"
                " that the run was never started with; restore the file"
            )
        found.append(before)
    return found


def _said_of(pieces: Sequence[configs.Frozen], noted: Mapping[str, Any]) -> list[str]:
    """How a run is run again whose config was changed."""
    if len(pieces) > 1:
        ends = ", ".join(str(piece.num_steps) for piece in pieces[:-1])
        return [
            f"config: the run had come to its end at step {ends} and was made longer; it is run in these pieces"
        ]
    if any(change.get("after_step") for change in files.parts(noted, "config_changes")):
        return ["config: it was changed while the run was under way; the last one is run from the start"]
    return []


def _starts(noted: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [noted, *noted.get("resumed", [])]


def _patch(run: Path) -> bytes:
    try:
        return files.content(run / "dirty.patch")
    except FileNotFoundError:
        return b""


def _code(
    stack: contextlib.ExitStack, run: Path, noted: Mapping[str, Any], patch: bytes, top: Path
) -> tuple[Path, list[str]]:
    """Where the code of the run is, and what is to be said of it."""
    commit = noted.get("git", {}).get("commit")
    if commit is None:
        return Path.cwd(), ["code: the run noted no commit; what stands in this directory now is run"]
    notes = []
    wanted = noted.get("patch", {}).get("sha256")
    if wanted not in (None, hashlib.sha256(patch).hexdigest()):
        notes.append(f"code: {run / 'dirty.patch'} is not the patch that was recorded; it was changed since")
    code = stack.enter_context(worktrees.checkout(Path.cwd(), commit, patch, top))
    notes += [f"code: {note}" for note in worktrees.fill(worktrees.top_of(Path.cwd()), code, patch)]
    for number, resumed in enumerate(noted.get("resumed", []), 1):
        if resumed.get("git", {}).get("commit") != commit or resumed.get("patch") != noted.get("patch"):
            notes.append(f"code: start {number + 1} of the run was made with other code; that of the first is run")
    return code, notes


def _experiment(noted: Mapping[str, Any], code: Path) -> Path:
    """The experiment's file and the directory that it was started in are of the code, and nowhere else."""
    git = noted.get("git", {})
    said = "the recorded code" if "commit" in git else f"{code}, and the run noted no commit"
    path = worktrees.experiment(noted, code, said)
    started_in = code / git.get("directory", "")
    if not (started_in.is_dir() and started_in.resolve().is_relative_to(code.resolve())):
        raise UsageError(f"experiment: was started in {git['directory']}, which {said} does not have")
    return path


def _what(run: Path, noted: Mapping[str, Any], patch: bytes, experiment: Path, code: Path) -> str:
    commit, changed = noted.get("git", {}).get("commit"), worktrees.files_of(patch)
    name = experiment.relative_to(code) if experiment.is_relative_to(code) else experiment
    text = f"runs {name} with {run / directory.CONFIG}"
    text += f", code of commit {commit[:12]}" if commit else ", code as it is here"
    if commit and changed:
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        text += f" and {run / 'dirty.patch'} ({shown})"
    return text


def _prepare(copy: Path, config: configs.Frozen, noted: Mapping[str, Any]) -> None:
    """A run directory that expects the data that the run was run with; another is refused by the run itself."""
    copy.mkdir(parents=True)
    files.write_text(copy / directory.CONFIG, configs.to_json(config))
    files.write_json(copy / directory.PROVENANCE, {"data": noted.get("data", {})})


def _as_python(config: configs.Frozen) -> str:
    """A config file that gives this very config: every version of a run's code can read it."""
    tree = repr(configs.thaw(config))
    return f'nan, inf = float("nan"), float("inf")\n\n\ndef get_config(arg=""):\n    return {tree}\n'


def _run(
    command: Sequence[str],
    copy: Path,
    where: Path,
    environment: Mapping[str, str],
    top: Path,
    *,
    until: int | None,
) -> None:
    """Runs the command to its end, or until it has recorded a step; then it is asked to stop."""
    log = top / "log.txt"
    with children.started(command, log=log, environment=environment, directory=where) as child:
        worktrees.note_child(top, child.pid)
        asked = False
        while child.poll() is None:
            if until is not None and not asked and aiming.recorded(copy / directory.METRICS) >= until:
                child.send_signal(signal.SIGTERM)
                asked = True
            time.sleep(0.02)
    rows = record.read(copy / directory.METRICS)
    done = child.returncode == 0 or (until is not None and rows and rows[-1]["step"] >= until)
    if not done:
        raise UsageError(f"the run ended with exit code {child.returncode}: {children.last_words(log)}")
