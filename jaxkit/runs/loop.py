"""The loop of a run: feed, update, and now and then record, evaluate and save.

It never waits for a number that it does not need: metrics stay on the devices and are fetched one
interval late. What it does at step n depends on n alone, so a resumed run does what an uninterrupted
one would have done.
"""

import collections
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxkit import random
from jaxkit.recipe import Plan
from jaxkit.runs import (
    checkpoints,
    digest,
    directory,
    distributed,
    feeding,
    ledger,
    record,
    retraces,
    timing,
    together,
)
from jaxkit.runs.progress import Progress
from jaxkit.types import Examples, Key, Metrics, Recipe, State, Writer

# A CPU with several pretended devices deadlocks when some thirty calls are under way.
MAX_CALLS_UNDER_WAY = 8


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
    layout, form, last = recipe.layout, feeding.choose_form(recipe, plan, config), config.num_steps
    saved_at, state, key, interval, warnings = _begin(recipe, config, plan, workdir)
    guard = retraces.guard()
    watched = recipe._replace(
        update=guard.watch("update", recipe.update), evaluate=guard.watch("evaluate", recipe.evaluate)
    )
    update, calls = feeding.feed(watched, config, examples["train"], form, saved_at)
    update = layout.compile(update)
    evaluate = feeding.evaluator(watched, config, examples)
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
        rows = ledger.ledger(config, recorder, progress, writers, interval)
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
                rows.add(ledger.Row(step, since, fold(state.params), found, speed))
                if evaluates:
                    guard.arm()
                since = []
                rows.flush(0 if saves else 1)
                if saves:
                    recorder.sync()
                    saved = {"state": state, "interval": rows.interval()}
                    folder = workdir / directory.CHECKPOINTS
                    checkpoints.save(folder, step, saved, digest=recorder.digest())
        jax.block_until_ready(state)
        worker.rest()
        evaluations = rows.evaluations
        if saved_at == last:
            # Killed between the last checkpoint and the report: the record has the row, the report is to come.
            evaluations = {
                split: ledger.summed([ledger.on_host(part) for part in parts])
                for split, parts in evaluate(state).items()
            }
        return Outcome(together.whole(state), step, evaluations, timer.first_at(), timer.read(step))


def _begin(recipe: Recipe, config: Any, plan: Plan, workdir: Path) -> tuple[int, State, Key, Metrics, list[str]]:
    """Where to go on from: step, state, the updates' key, the metrics of the interval; and what to warn of."""
    put_state = recipe.layout.put_state
    zeros = jax.tree.map(lambda x: ledger.exact(np.zeros(x.shape, x.dtype)), plan.metrics["train"])
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
