"""The loop of a run: feed, update, and now and then record, evaluate and save.

It never waits for a number that it does not need: metrics stay on the devices and are fetched one
interval late. What it does at step n depends on n alone, so a resumed run does what an uninterrupted
one would have done.
"""

import collections
import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxkit import data, random, updates
from jaxkit.errors import UsageError
from jaxkit.means import add
from jaxkit.recipe import Plan, nbytes
from jaxkit.runs import checkpoints, digest, directory, distributed, record, retraces, timing, together
from jaxkit.runs.progress import Progress
from jaxkit.types import Examples, Indexed, Key, Metrics, Recipe, State, Writer

# A CPU with several pretended devices deadlocks when some thirty calls are under way.
MAX_CALLS_UNDER_WAY = 8
# A call of several steps takes at most about this many floating point operations: some 0.1 s of a CPU core.
MAX_FLOPS_PER_CALL = 1e10
MAX_STEPS_PER_CALL = 200
# Data in memory up to this size is put on the devices whole; of more, each batch is.
MAX_BYTES_ON_DEVICES = 2**30


class Form(NamedTuple):
    """How many steps one call takes, and why."""

    steps_per_call: int
    reason: str


class Outcome(NamedTuple):
    """What a loop came to: the state, the newest evaluation of each split, and where its time went.

    first_step_at: when the first call was done, in seconds since the epoch
    timing:        steps/s without the first call, evaluations and saves; seconds of those
    """

    state: State
    step: int
    evaluations: Mapping[str, Metrics]
    first_step_at: float
    timing: Mapping[str, float | None]


class _Row(NamedTuple):
    """What is to be recorded at a step, still on the devices."""

    step: int
    metrics: list[Metrics]
    parameters: jax.Array
    evaluations: Mapping[str, list[Metrics]]
    speed: Mapping[str, float]


class _Ledger(NamedTuple):
    """Takes rows as they come from the devices, and writes them when they are there.

    add:         (row) -> None
    flush:       (keep) -> None; fetches and writes all but the newest `keep` rows
    interval:    () -> the sum of the metrics since the last row that has them, on the host
    evaluations: the newest evaluation of each split
    """

    add: Callable[[_Row], None]
    flush: Callable[[int], None]
    interval: Callable[[], Metrics]
    evaluations: Mapping[str, Metrics]


def choose_form(recipe: Recipe, plan: Plan, config: Any) -> Form:
    """How many steps one call takes: a divisor of every interval of the run, so that none is overshot."""
    common = math.gcd(config.log_every, config.eval_every, config.checkpoint_every)
    divisor = lambda most: max(k for k in range(1, common + 1) if common % k == 0 and k <= max(most, 1))
    if recipe.steps_per_call is not None:
        if not isinstance(recipe.steps_per_call, int) or recipe.steps_per_call < 1:
            raise UsageError(
                f"steps_per_call: came {recipe.steps_per_call!r}, wanted an int >= 1, or None to choose"
            )
        chosen = divisor(recipe.steps_per_call)
        return Form(chosen, f"asked for {recipe.steps_per_call}; the intervals of the run divide by {common}")
    if plan.slow_in_a_loop:
        return Form(1, "convolutions are slow inside a loop on this backend")
    chosen = divisor(min(MAX_STEPS_PER_CALL, int(MAX_FLOPS_PER_CALL // max(plan.flops, 1))))
    return Form(chosen, f"a step has about {plan.flops:.1e} FLOPs; the intervals of the run divide by {common}")


def train(
    recipe: Recipe,
    config: Any,
    plan: Plan,
    examples: Mapping[str, Examples],
    workdir: Path,
    *,
    show: Callable[[int], Progress],
    writers: tuple[Writer, ...] = (),
    stopped: Callable[[], bool] = lambda: False,
    worker: distributed.Worker = distributed.ALONE,
) -> Outcome:
    """Trains from the newest checkpoint (or from the start) to the last step, or until `stopped()`.

    Of many processes (`worker`) each does this, and stops where `stopped()` is true in one.

    Raises:
        OSError: the run directory cannot be written.
    """
    layout, form, last = recipe.layout, choose_form(recipe, plan, config), config.num_steps
    saved_at, state, key, interval, warnings = _begin(recipe, config, plan, workdir)
    guard = retraces.guard()
    watched = recipe._replace(
        update=guard.watch("update", recipe.update), evaluate=guard.watch("evaluate", recipe.evaluate)
    )
    update, calls = _feed(watched, config, examples["train"], form, saved_at)
    update = layout.compile(update)
    evaluate = _evaluator(watched, config, examples)
    tokens = recipe.data["train"].schema.get("tokens")
    rates = timing.rates(
        plan,
        batch_size=config.batch_size,
        length=tokens.shape[0] - 1 if tokens is not None else None,
        num_devices=layout.num_devices,
    )
    fold, stopped = jax.jit(digest.fold), together.agreed(stopped)

    with (
        contextlib.closing(show(saved_at)) as progress,
        contextlib.closing(_recorder(workdir, saved_at)) as recorder,
    ):
        for warning in warnings:
            progress.message(f"warning: {warning}")
        ledger = _ledger(config, recorder, progress, writers, interval)
        timer, under_way, since = timing.timer(saved_at, rates), collections.deque[Any](), list[Metrics]()
        step, stops = saved_at, False
        guard.placed("state", state)
        while step < last and not stops:
            count, batch = timer.waiting(lambda: next(calls))
            worker.beat(step + count, count)
            state, metrics = update(state, batch, key)
            step += count
            since.append(metrics)
            under_way.append(metrics)
            if step - count == saved_at:
                jax.block_until_ready(under_way)
                guard.placed("state", state)
                timer.first(step)
            if len(under_way) > MAX_CALLS_UNDER_WAY:
                jax.block_until_ready(under_way.popleft())

            # Asked once a step: a stop that is seen is one that is saved.
            stops = stopped()
            evaluates = step % config.eval_every == 0 or step == last
            saves = step % config.checkpoint_every == 0 or step == last or stops
            if not (evaluates or saves or step % config.log_every == 0):
                continue
            speed = timer.speed(step)
            if evaluates or saves:
                worker.rest()
            with timer.pause() if evaluates or saves else contextlib.nullcontext():
                found = evaluate(state) if evaluates else {}
                ledger.add(_Row(step, since, fold(state.params), found, speed))
                if evaluates:
                    guard.arm()
                since = []
                ledger.flush(0 if saves else 1)
                if saves:
                    recorder.sync()
                    saved = {"state": state, "interval": ledger.interval()}
                    folder = workdir / directory.CHECKPOINTS
                    checkpoints.save(folder, step, saved, digest=recorder.digest())
        jax.block_until_ready(state)
        worker.rest()
        evaluations = ledger.evaluations
        if saved_at == last:
            # Killed between the last checkpoint and the report: the record has the row, the report is to come.
            evaluations = {
                split: _sum([_host(part) for part in parts]) for split, parts in evaluate(state).items()
            }
        return Outcome(together.whole(state), step, evaluations, timer.first_at(), timer.read(step))


def _begin(recipe: Recipe, config: Any, plan: Plan, workdir: Path) -> tuple[int, State, Key, Metrics, list[str]]:
    """Where to go on from: step, state, the updates' key, the metrics of the interval; and what to warn of."""
    put_state = recipe.layout.put_state
    zeros = jax.tree.map(lambda x: _exact(np.zeros(x.shape, x.dtype)), plan.metrics["train"])
    warnings: list[str] = []
    abstract = {"state": plan.state, "interval": zeros}
    shardings = recipe.layout.shardings
    split = {"state": shardings(plan.state)} if shardings is not None and jax.process_count() > 1 else None
    saved = checkpoints.restore(workdir / directory.CHECKPOINTS, abstract, warnings.append, split)
    # One program for all of it: op by op it takes longer than compiling the update.
    key_of = lambda seed, name: random.named(jax.random.key(seed), name)
    seed = np.uint32(config.seed)
    if saved is None:
        start = lambda seed: (recipe.init(key_of(seed, "init")), key_of(seed, "update"))
        if recipe.layout.shardings is not None:
            # Made where it belongs: no device need hold all of it.
            shapes = (plan.state, jax.eval_shape(start, seed)[1])
            state, key = jax.jit(start, out_shardings=tuple(map(recipe.layout.shardings, shapes)))(seed)
        else:
            state, key = put_state(jax.jit(start)(seed))
        return 0, state, key, zeros, warnings
    step, tree = saved
    key = put_state(jax.jit(lambda seed: key_of(seed, "update"))(seed))
    return step, tree["state"] if split else put_state(tree["state"]), key, tree["interval"], warnings


def _recorder(workdir: Path, saved_at: int) -> record.Recorder:
    """The record, to go on after the checkpoint; it must hold what the checkpoint says that it held."""
    if jax.process_index() != 0:
        return record.nowhere()
    newest = checkpoints.record_digest(workdir / directory.CHECKPOINTS, saved_at)
    return record.recorder(workdir / directory.METRICS, after=saved_at, newest=newest)


def _ledger(
    config: Any, recorder: record.Recorder, progress: Progress, writers: tuple[Writer, ...], interval: Metrics
) -> _Ledger:
    rows: collections.deque[_Row] = collections.deque()
    evaluations: dict[str, Metrics] = {}
    warned: list[int] = []

    def warn_once(step: int, values: Mapping[str, Any]) -> None:
        bad = [name for name, value in values.items() if isinstance(value, str)]
        if bad and not warned:
            warned.append(step)
            progress.message(f"warning: step {step}: {bad[0]} is {values[bad[0]]}; is the learning rate too high?")

    def flush(keep: int) -> None:
        while len(rows) > keep:
            write(rows.popleft())

    def write(row: _Row) -> None:
        nonlocal interval
        interval = _sum([interval, *map(_host, row.metrics)])
        values: dict[str, Any] = {}
        if row.step % config.log_every == 0 or row.step == config.num_steps:
            values |= record.values(interval)
            interval = jax.tree.map(np.zeros_like, interval)
        for split, parts in row.evaluations.items():
            evaluations[split] = _sum([_host(part) for part in parts])
            values |= record.values(evaluations[split], prefix=f"{split}/")
        if values:
            recorder.append(row.step, values, int(row.parameters), row.speed)
            progress.update(row.step, values, row.speed)
            warn_once(row.step, values)
            for writer in writers:
                writer.write(row.step, {name: x for name, x in values.items() if isinstance(x, int | float)})

    return _Ledger(rows.append, flush, lambda: interval, evaluations)


def _feed(
    recipe: Recipe, config: Any, examples: Examples, form: Form, start: int
) -> tuple[Any, Iterator[tuple[int, Any]]]:
    """The update in the form that was chosen, and (number of steps, batch) for each call of it."""
    layout, steps, update = recipe.layout, form.steps_per_call, recipe.update
    rows = together.rows(layout, config.batch_size)
    stream = data.shuffled(examples, batch_size=config.batch_size, seed=config.seed, rows=rows)
    calls = _calls(start, config.num_steps, steps)
    fused = steps > 1
    if examples.arrays is not None and nbytes(dict(examples.arrays)) <= MAX_BYTES_ON_DEVICES:
        update = updates.indexed(update)
        arrays = layout.put_state(dict(examples.arrays))
        indices = (stream.indices(call.start, call.stop if fused else None) for call in calls)
        batches = (Indexed(arrays, found) for found in indices)
    else:
        read = data.prefetch(stream, start, config.num_steps)
        parts = ([next(read) for _ in call] for call in calls)
        batches = (jax.tree.map(lambda *x: np.stack(x), *part) if fused else part[0] for part in parts)
    put = (together.put(layout, batch, config.batch_size, axis=int(fused)) for batch in batches)
    counts = (len(call) for call in _calls(start, config.num_steps, steps))
    return (updates.fuse(update) if fused else update), zip(counts, put)


def _calls(start: int, stop: int, steps: int) -> Iterator[range]:
    """The steps of each call: as long as the form says, ending on multiples of it.

    Example:
        >>> list(_calls(2, 9, 4))
        [range(2, 4), range(4, 8), range(8, 9)]
    """
    while start < stop:
        end = min(start - start % steps + steps, stop)
        yield range(start, end)
        start = end


def _evaluator(recipe: Recipe, config: Any, examples: Mapping[str, Examples]) -> Callable[[State], Any]:
    """Makes state -> {split: [metrics of each batch]} over the whole of every held-out split, not waited for."""
    layout = recipe.layout
    compiled = layout.compile_evaluate(recipe.evaluate)
    average = jax.jit(updates.averaged)
    splits: dict[str, Any] = {}

    def batches_of(split: str) -> Any:
        rows = together.rows(layout, config.batch_size)
        batches = data.padded(examples[split], batch_size=config.batch_size, rows=rows)
        read = lambda: (together.put(layout, batches[n], config.batch_size) for n in range(len(batches)))
        # What fits in memory is put on the devices once; anything else is read anew each time.
        if examples[split].arrays is None:
            return _Again(read)
        return list(read()) if rows is not None else jax.device_put(list(read()))

    def evaluate(state: State) -> dict[str, list[Metrics]]:
        params = average(state)
        for split in examples:
            if split != "train" and split not in splits:
                splits[split] = batches_of(split)
        return {name: [compiled(params, state.extra, batch) for batch in part] for name, part in splits.items()}

    return evaluate


class _Again(NamedTuple):
    """An iterable that begins anew each time."""

    read: Callable[[], Iterator[Any]]

    def __iter__(self):
        return self.read()


def draw(recipe: Recipe, config: Any, state: State, examples: Mapping[str, Examples], workdir: Path) -> None:
    """Hands the record and the predictions on a held-out split to the recipe's picture."""
    split = next(name for name in examples if name != "train")
    batches = data.padded(examples[split], batch_size=config.batch_size)
    params = jax.jit(updates.averaged)(state)
    predict = jax.jit(recipe.predict)
    # On one device, whatever the layout.
    params, extra = jax.device_get((params, state.extra))
    found: list[tuple[Any, Any]] = []
    for n in range(len(batches)):
        batch = batches[n]
        predictions = jax.device_get(predict(params, extra, batch))
        keep = lambda x, mask=batch["mask"]: np.asarray(x)[mask]
        found.append((jax.tree.map(keep, batch), jax.tree.map(keep, dict(predictions))))
    batch, predictions = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
    assert recipe.picture is not None
    recipe.picture(workdir / "picture.png", record.read(workdir / directory.METRICS), batch, predictions)


def _host(metrics: Metrics) -> Metrics:
    return jax.tree.map(_exact, jax.device_get(metrics))


def _exact(x: Any) -> np.ndarray:
    # Sums over many steps and batches: float64 and int64 on the host lose nothing.
    return np.asarray(x, np.float64 if np.issubdtype(np.asarray(x).dtype, np.floating) else np.int64)


def _sum(parts: list[Metrics]) -> Metrics:
    total = parts[0]
    for part in parts[1:]:
        total = add(total, part)
    return total
