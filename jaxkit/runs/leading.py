"""The part of a run's process that writes and prints: what it leaves in the directory, from start to end."""

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from jaxkit import configs
from jaxkit.errors import UsageError
from jaxkit.runs import (
    assets,
    digest,
    directory,
    distributed,
    evaluations,
    feeding,
    files,
    loop,
    process,
    progress,
    provenance,
    rows,
    tracking,
)
from jaxkit.runs.peers import OK, TRY_AGAIN


def train(
    recipe, config, plan, examples, folder: Path, console, claim, begun: list[int], worker: distributed.Worker
) -> int:
    """Trains, and returns the exit code; `begun` gets the step after which the run goes on, once it does.

    Raises:
        UsageError: the run cannot go on from what the directory holds; nothing was written.
        Busy: the directory is no longer this process's.
    """
    missing = assets.check(folder, recipe.assets)
    manifests = {split: opened.manifest for split, opened in examples.items()}
    provenance.check_same_data(folder, manifests)
    form = feeding.choose_form(recipe, plan, config)
    console.print(
        f"{plan.num_parameters:,} parameters; "
        + ", ".join(f"{opened.size:,} examples in {split}" for split, opened in examples.items())
        + f"; {form.steps_per_call} step{'s' * (form.steps_per_call > 1)} a call ({form.reason})"
    )
    for said in plan.notes:
        console.print(said, soft_wrap=True)

    process_beside: tracking.Beside

    def note() -> None:
        try:
            fingerprint = configs.fingerprint(config)
            noted = provenance.collect(fingerprint=fingerprint, seed=config.seed, manifests=manifests)
            unrecorded = provenance.unrecorded(Path.cwd(), Path(sys.argv[0]))
            for line in unrecorded:
                console.print(f"warning: {directory.PROVENANCE}: {line}", soft_wrap=True)
            notes = [*plan.notes, *(f"warning: {line}" for line in unrecorded)]
            provenance.note(folder, {**noted, "form": form._asdict(), "notes": notes})
        except Exception as error:  # whatever it is: the numbers of the run are as good without
            console.print(f"warning: {directory.PROVENANCE}: {type(error).__name__}: {error}", soft_wrap=True)

    def begins(step: int) -> None:
        nonlocal process_beside
        for path, before, now in claim.changed:
            console.print(f"config.{path} was {before!r}, is now {now!r}")
        begin(folder, config, claim, missing, step=step)
        begun.append(step)
        process_beside = beside.enter_context(tracking.beside(folder, config.writers, console))
        # Git and package versions take a moment; the first program compiles meanwhile.
        ending.callback(process.in_background(note))

    with contextlib.ExitStack() as beside:
        with contextlib.ExitStack() as ending, process.signals() as stopped:
            outcome = loop.train(
                recipe,
                config,
                plan,
                examples,
                folder,
                show=lambda step: progress.progress(console, start=step, num_steps=config.num_steps),
                begins=begins,
                stopped=stopped.is_set,
                worker=worker,
            )
        return _finish(recipe, config, outcome, examples, folder, console, process_beside)


def _finish(recipe, config, outcome, examples, folder: Path, console, beside: tracking.Beside) -> int:
    """Writes what a run came to, or how far; meanwhile the process beside it begins with what the writers lack."""
    beside.begin()
    timing = {**outcome.timing, "to_first_step": outcome.first_step_at, "total": process.age()}
    done = {
        "step": outcome.step,
        "timing": {name: value and round(value, 4) for name, value in timing.items()},
    }
    if outcome.step < config.num_steps:
        directory.set_status(folder, status="interrupted", **done)
        beside.finish(tracking.SECONDS_AFTER_A_STOP)
        console.print(f"interrupted after step {outcome.step}; the same command goes on from there")
        return TRY_AGAIN
    for split, metrics in outcome.evaluations.items():
        evaluations.write(folder, split, outcome.step, metrics)
    assets.leave(recipe, config, outcome.state, examples, folder, console)
    sha256 = digest.sha256(outcome.state.params)
    directory.set_status(folder, status="finished", params_sha256=sha256, **done)
    files.sync_directory(folder)
    return OK


def begin(
    folder: Path,
    config: configs.Frozen,
    claim: directory.Claim,
    missing: Mapping[Path, bytes],
    *,
    step: int,
) -> None:
    """Makes a directory that is this process's say that its run goes on after `step`.

    `missing` are the assets that are not there yet.

    Raises:
        UsageError: nothing is left to be done, and nothing says how the run ended.
        Busy: it is no longer this process's.
        OSError: it cannot be written.
    """
    # Two that began in the same moment have both written their names by now.
    claim.check()
    if step == config.num_steps and all(row["step"] < step for row in rows.read(folder / directory.METRICS)):
        raise UsageError(
            f"config.num_steps: came {step}, where the run in {folder} was stopped between two rows of its record;"
            f" wanted more steps, if only {step + 1}, so that there is a last row"
        )
    finished = directory.status(folder)["status"] == "finished"
    if claim.changed and finished and step == config.num_steps:
        raise UsageError(
            f"config.{claim.changed[0].path}: the run in {folder} is finished, and no step is left to be taken"
            " with another; wanted more steps too, or another --workdir=DIR"
        )
    if claim.changed:
        change_config(folder, config, after_step=step)
    assets.keep(missing)
    # What an earlier end said of the parameters is no longer so, and what they came to stands in the record.
    directory.set_status(folder, status="running", params_sha256=None)
    if step < config.num_steps:
        evaluations.remove(folder)


def change_config(workdir: Path, config: configs.Frozen, *, after_step: int) -> None:
    """Writes a config that was allowed to differ, and keeps for good what the run's config was before.

    Raises:
        OSError: it cannot be written.
    """
    before, found = directory.read_config(workdir), files.read_json(workdir / directory.PROVENANCE) or {}
    noted = files.parts(found, "config_changes")
    # A kill between the two files: what was noted last never came.
    if noted and noted[-1].get("fingerprint", configs.fingerprint(before)) != configs.fingerprint(before):
        noted = noted[:-1]
    changed = [list(map(str, (p, repr(a), repr(b)))) for p, a, b in configs.differences(before, config)]
    new = {
        "after_step": after_step,
        "changed": changed,
        "before": json.loads(configs.to_json(before)),
        "fingerprint": configs.fingerprint(config),
    }
    files.write_json(workdir / directory.PROVENANCE, {**found, "config_changes": [*noted, new]})
    files.write_text(workdir / directory.CONFIG, configs.to_json(config))
