"""One step of a run, rebuilt from the checkpoint before it, on one device, and taken apart."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkit import configs, data
from jaxkit.errors import UsageError
from jaxkit.proofs import dissecting
from jaxkit.recipe import Plan, plan
from jaxkit.runs import checkpoints, command, directory, feeding, files, ledger, loop, provenance, record
from jaxkit.types import Examples, Key, Recipe, State

_JIT = "jaxkit.parallel.jit"


class Replay(NamedTuple):
    """What a step was made of.

    step:      the one that was taken apart: the first up to the one asked for that is not finite, or that itself
    start:     the checkpoint that it was rebuilt from; 0: the beginning
    examples:  the numbers of the batch's examples in the training data
    notes:     what is to be known of how far the replay is the run
    values:    the metrics of the step, of the replay
    recorded:  the loss in the row of the step asked for; None where there is none
    replayed:  what the replay makes of it; None where it did not come so far, or began too late
    findings:  what taking it apart has shown
    """

    step: int
    start: int
    examples: tuple[int, ...]
    notes: tuple[str, ...]
    values: Mapping[str, Any]
    recorded: Any
    replayed: Any
    findings: dissecting.Findings


def replay(
    recipe: Callable[[configs.Frozen], Recipe],
    run: Path,
    step: int,
    *,
    allow: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Replay:
    """Rebuilds a step of a run on one device and takes it apart.

    Args:
        recipe: the experiment's.
        run: the run's directory.
        step: the number of the update, as recorded: 1 is the first.
        allow: modules that its config may call into, beside `configs.ALLOWED`.
        say: is told how it goes.

    Raises:
        UsageError: no run, other data than it had, an experiment that makes another state.
    """
    config = directory.read_config(run)
    if not 1 <= step <= config.num_steps:
        raise UsageError(f"--step: came {step}, wanted 1 to {config.num_steps}, the steps of this run")
    built, examples = _built(recipe, run, config, allow)
    planned = plan(built, batch_size=config.batch_size)
    say(f"{planned.num_parameters:,} parameters, {examples.size:,} examples")
    start, state, key = _start(built, config, run, planned, step)
    say(f"rebuilds step {step} from " + (f"checkpoint {start}" if start else "the beginning"))
    before, now, found, sums = _walk_to(built, config, examples, state, key, start, step)
    recorded, replayed = _losses(run, sums, start, step)
    stream = data.shuffled(examples, batch_size=config.batch_size, seed=config.seed)
    batch_of = lambda moment: (moment.state, stream[moment.number - 1], key)
    earlier = batch_of(before) if before is not None else None
    indices = stream.indices(now.number - 1)
    findings = dissecting.take_apart(built.update, batch_of(now), earlier, indices)
    return Replay(
        now.number,
        start,
        tuple(indices.tolist()),
        notes=(*_first(now.number, step), *_notes(config, run)),
        values=record.values(found),
        recorded=recorded,
        replayed=replayed,
        findings=findings,
    )


def _built(
    recipe: Callable[[configs.Frozen], Recipe], run: Path, config: configs.Frozen, allow: Sequence[str]
) -> tuple[Recipe, Examples]:
    """The experiment, on one device whatever its layout, and its data, after a look that they are the run's."""
    # A step under jit is the run's own, with its options of the compiler. Nothing is written: no writer is built.
    layout = config.layout if config.layout.get("call") == _JIT else {"call": _JIT}
    alone = configs.replace(config, {"layout": layout, "writers": ()})
    configs.check_calls(alone, allow=(*configs.ALLOWED, *allow))
    built = command.compose(recipe, alone)
    examples = data.opening.opened({"train": built.data["train"]})["train"]
    provenance.check_same_data(run, {"train": examples.manifest})
    return built, examples


def _start(built: Recipe, config: Any, run: Path, planned: Plan, step: int) -> tuple[int, State, Key]:
    """The newest good checkpoint before the step, or the beginning, and the updates' key."""
    folder = run / directory.CHECKPOINTS
    abstract = {"state": planned.state, "interval": ledger.no_metrics(planned)}
    for number in reversed([found for found in checkpoints.steps(folder) if found < step]):
        if checkpoints.verify(folder / str(number)):
            continue
        try:
            saved = checkpoints.load(folder / str(number), abstract)
        except ValueError as error:
            raise UsageError(f"{error}; is it the code of the run? `jaxkit reproduce` takes that") from error
        # What a run that was not stopped has saved of its ruins is no state to begin with.
        if _finite(saved["state"].params):
            return number, *loop.begin(built, config, planned, saved)[:2]
    return 0, *loop.begin(built, config, planned, None)[:2]


class _Moment(NamedTuple):
    number: int
    state: State


def _walk_to(built: Recipe, config: Any, examples: Examples, state: State, key: Key, start: int, step: int):
    """Takes the steps up to the first that is not finite, or the one asked for.

    Returns:
        (the moment before the step before, None where there is none; the moment before the step; its metrics;
        {step: metrics} of all).
    """
    # The very program of a run that takes one step a call: another form of it may round otherwise.
    one = feeding.Form(1, "each step is looked at")
    update, calls = feeding.feed(built, config, examples, one, start)
    update = built.layout.compile(update)
    before, sums = None, {}
    for number, (_, batch) in zip(range(start + 1, step + 1), calls):
        now = _Moment(number, state)
        # A copy, since the call takes over what it is given.
        state, metrics = update(built.layout.put_state(state), batch, key)
        sums[number] = ledger.on_host(metrics)
        skipped = "skipped" in sums[number] and float(sums[number]["skipped"].compute()) > 0
        if number == step or skipped or not (_finite(metrics) and _finite(state.params)):
            return before, now, sums[number], sums
        before = now
    raise AssertionError


def _finite(tree: Any) -> bool:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return all(bool(jnp.all(jnp.isfinite(x))) for x in leaves)


def _losses(run: Path, sums: Mapping[int, Any], start: int, step: int) -> tuple[Any, Any]:
    """The loss that the run recorded for the interval that the step ends, and what the replay makes of it."""
    rows = [row for row in record.read(run / directory.METRICS) if "loss" in row]
    row = next((row for row in rows if row["step"] == step), None)
    if row is None:
        return None, None
    first = max((other["step"] for other in rows if other["step"] < step), default=0) + 1
    if first <= start or max(sums) < step:
        return row["loss"], None
    total = ledger.summed([sums[number] for number in range(first, step + 1)])
    return row["loss"], record.values(total)["loss"]


def _first(number: int, asked: int) -> Iterator[str]:
    if number < asked:
        yield f"step {number} is the first that is not finite, so it is taken apart instead of step {asked}"


def _notes(config: Any, run: Path) -> Iterator[str]:
    """How far the replay is the run."""
    layout = config.layout.get("call", "a layout of its own")
    if layout != _JIT:
        yield f"the run was made under {layout}, this is a plain jit on one device: they agree to rounding"
    if layout in ("jaxkit.parallel.pmap", "jaxkit.parallel.exact"):
        yield "random draws (dropout, augmentation) are made for each device there, and are others here"
    noted = provenance.read(run)
    steps = files.part(noted, "form").get("steps_per_call", 1)
    if steps != 1:
        yield f"the run took {steps} steps in one call, here each is a call: they agree to rounding"
    here, patch = provenance.git_state(Path.cwd()), provenance.patch(Path.cwd(), leave_out=run)
    recorded = noted.get("git", {}).get("commit")
    if recorded != here.get("commit"):
        yield f"the code is not that of the run: commit {recorded or 'unknown'}, here {here.get('commit')}"
    elif noted.get("patch", {}).get("sha256") not in (None, hashlib.sha256(patch).hexdigest()):
        yield "the code is not that of the run: what differs from its commit is not what differed then"
    if noted.get("config_changes"):
        yield "the config was changed while the run was under way; its last one is replayed"
