"""The loop of a run: feed, update, and now and then record, evaluate and save.

It never waits for a number that it does not need: metrics stay on the devices, and a thread fetches and
records them. What it does at step n depends on n alone, so a resumed run does what an uninterrupted
one would have done.
"""

import contextlib
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxkit import random
from jaxkit.errors import UsageError
from jaxkit.recipe import Plan
from jaxkit.runs import (
    checkpoints,
    digest,
    directory,
    distributed,
    feeding,
    ledger,
    process,
    record,
    retraces,
    saving,
    stopping,
    timing,
    together,
    watchdog,
)
from jaxkit.runs.progress import Progress
from jaxkit.types import Examples, Key, Layout, Metrics, Recipe, State


class Outcome(NamedTuple):
    """What a loop came to: the state, the newest evaluation of each split, and where its time went.

    first_step_at: how old the process was when the first call was done, in seconds
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
    begins: Callable[[int], None] = lambda step: None,
    stopped: Callable[[], bool] = lambda: False,
    worker: distributed.Worker = distributed.ALONE,
) -> Outcome:
    """Trains from the newest checkpoint (or from the start) to the last step, or until `stopped()`.

    Of many processes (`worker`) each does this, and stops where `stopped()` is true in one. `begins` is told the
    step that is gone on from, once it is sure that the run can, and before anything is written.

    Raises:
        UsageError: the run directory cannot be gone on from, or holds another state; nothing was written.
        OSError: the run directory cannot be written.
        Diverged: the loss or the parameters say that the run must end; the record has what is known.
    """
    layout, form, last = recipe.layout, feeding.choose_form(recipe, plan, config), config.num_steps
    warnings: list[str] = []
    saved_at, saved = _restore(recipe, plan, workdir, warnings.append)
    if saved_at > last:
        raise UsageError(
            f"config.num_steps: came {last}, but {workdir} holds a run that has done {saved_at}; wanted as many or"
            " more, or another --workdir=DIR"
        )
    begun = _begun(workdir, saved_at)
    # What is behind the newest whole one was passed over.
    damaged = [step for step in checkpoints.steps(workdir / directory.CHECKPOINTS) if step > saved_at]
    begins(saved_at)
    guard = retraces.guard()
    watched = recipe._replace(
        update=guard.watch("update", recipe.update), evaluate=guard.watch("evaluate", recipe.evaluate)
    )
    update, calls = feeding.feed(watched, config, examples["train"], form, saved_at)
    update = layout.compile(update)
    first = next(calls, None)
    compiles = lambda: _compile(update, layout, plan.state, first)
    state, key, interval = begin(recipe, config, plan, saved, meanwhile=compiles)
    calls = itertools.chain([first] if first is not None else [], calls)
    limit = feeding.limiter()
    evaluate = feeding.evaluator(watched, config, examples, limit, lambda on: guard.arm("evaluate", on))
    tokens = recipe.data["train"].schema.get("tokens")
    rates = timing.rates(
        plan,
        batch_size=config.batch_size,
        length=tokens.shape[0] - 1 if tokens is not None else None,
        num_devices=layout.num_devices,
    )
    fold, stopped = jax.jit(digest.fold), together.agreed(stopped)
    saver = saving.saver(workdir / directory.CHECKPOINTS, damaged)

    with (
        contextlib.closing(show(saved_at)) as progress,
        contextlib.closing(_recorder(workdir, saved_at, begun)) as recorder,
        contextlib.closing(
            ledger.ledger(config, recorder, progress, interval, _judge(config, workdir, saved_at))
        ) as rows,
        watchdog.watching() as watch,
        saving.finished(saver),
    ):
        for warning in warnings:
            progress.message(f"warning: {warning}")
        timer, since = timing.timer(saved_at, rates), list[Any]()
        step, stops = saved_at, False
        guard.placed("state", state)
        while step < last and not stops:
            watch.begins(step)
            count, batch = timer.waiting(lambda: next(calls))
            worker.beat(step + count, count)
            watch.calls(count)
            state, metrics = update(state, batch, key)
            step += count
            since.append(ledger.Steps(step - count, *metrics) if form.records else metrics)  # type: ignore[arg-type]
            limit(metrics)
            if step - count == saved_at:
                jax.block_until_ready(metrics)
                guard.placed("state", state)
                guard.arm("update")
                timer.first(step)

            # Asked once a step: a stop that is seen is one that is saved.
            stops = stopped()
            evaluates = step % config.eval_every == 0 or step == last
            saves = step % config.checkpoint_every == 0 or step == last or stops
            if not (evaluates or saves or form.records or step % config.log_every == 0):
                continue
            if evaluates or saves:
                # The calls under way are training, and timed as such.
                jax.block_until_ready(metrics)
            speed = timer.speed(step)
            if evaluates or saves:
                worker.rest()
                watch.rests()
            with timer.pause() if evaluates or saves else contextlib.nullcontext():
                found = evaluate(state) if evaluates else {}
                rows.add(step, since, fold(state.params), found, speed, keep=0 if saves else 1)
                since = []
                if saves:
                    stopping.check(state.params, step, config)
                    recorder.sync()
                    saved = {"state": state, "interval": rows.interval()}
                    saver.save(step, saved, recorder.noted())
        jax.block_until_ready(state)
        worker.rest()
        with timer.pause():
            saver.wait()
        evaluations = rows.evaluations
        if saved_at == last:
            # Killed between the last checkpoint and the report: the record has the row, the report is to come.
            if jax.process_index() == 0:
                checkpoints.clear(workdir / directory.CHECKPOINTS, last)
            evaluations = {
                split: ledger.summed([ledger.on_host(part) for part in parts])
                for split, parts in evaluate(state).items()
            }
        spent = {**timer.read(step), "saving": saver.stalled()}
        return Outcome(together.whole(state), step, evaluations, timer.first_at(), spent)


def _restore(
    recipe: Recipe, plan: Plan, workdir: Path, warn: Callable[[str], None]
) -> tuple[int, dict[str, Any] | None]:
    """The step of the newest checkpoint and what is in it: the state, the metrics of the interval; (0, None)."""
    abstract = {"state": plan.state, "interval": ledger.no_metrics(plan)}
    shardings = recipe.layout.shardings
    split = {"state": shardings(plan.state)} if shardings is not None and jax.process_count() > 1 else None
    try:
        saved = checkpoints.restore(workdir / directory.CHECKPOINTS, abstract, warn, split)
    except UsageError:
        raise
    except ValueError as error:
        text = str(error).splitlines()[0]
        raise UsageError(
            f"{text}; was the code changed, or the config in what makes the state? Take that of the run, or start"
            " afresh with another --workdir=DIR"
        ) from error
    return (0, None) if saved is None else saved


def begin(
    recipe: Recipe,
    config: Any,
    plan: Plan,
    saved: dict[str, Any] | None,
    *,
    meanwhile: Callable[[], None] = lambda: None,
) -> tuple[State, Key, Metrics]:
    """What to go on from: the state and the updates' key, on the devices; the metrics of the interval.

    `meanwhile` is done while the program that makes them is compiled: that one is the sooner lowered, and another
    core has work while the update is.
    """
    put_state, shardings = recipe.layout.put_state, recipe.layout.shardings
    key_of = lambda seed, name: random.named(jax.random.key(seed), name)
    # One program for all of it: op by op it takes longer than compiling the update.
    state_of = lambda seed: recipe.init(key_of(seed, "init")) if saved is None else None
    start = lambda seed: (state_of(seed), key_of(seed, "update"))
    seed = np.uint32(config.seed)
    # Made where it belongs: no device need hold all of it, and no memory is anybody else's.
    placed = tuple(map(shardings, jax.eval_shape(start, seed))) if shardings is not None else None
    lowered = jax.jit(start, out_shardings=placed).lower(seed)
    program = process.in_background(lowered.compile)
    try:
        meanwhile()
    finally:
        made = program()  # whatever happens: Python cannot leave while XLA compiles
    state, key = made(seed)
    if saved is None:
        return state, key, ledger.no_metrics(plan)
    # Many processes have read each its part, and put it where it belongs.
    there = isinstance(saved["state"].step, jax.Array)
    return saved["state"] if there else put_state(saved["state"]), key, saved["interval"]


def _compile(update: Any, layout: Layout, state: State, call: tuple[int, Any] | None) -> None:
    """Compiles the update before there is a state; the first call finds the program."""
    # What is no jit of its own (pmap), or is compiled by several processes at once, the first call compiles.
    if call is None or not hasattr(update, "lower") or jax.process_count() > 1:
        return
    arguments = (state, jax.eval_shape(lambda: jax.random.key(0)))
    if layout.shardings is not None:
        place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        arguments = tuple(jax.tree.map(place, tree, layout.shardings(tree)) for tree in arguments)
    update.lower(arguments[0], call[1], arguments[1]).compile()


def _judge(config: Any, workdir: Path, saved_at: int) -> Callable[[Any, bool], str | None]:
    """What judges the losses; a spike is one beside those before it, so a resumed run reads them again."""
    looks_back = stopping.rules(config)["spike"] is not None and saved_at > 0
    rows = record.read(workdir / directory.METRICS) if looks_back else []
    return stopping.judge(config, [row["loss"] for row in rows if "loss" in row and row["step"] <= saved_at])


def _begun(workdir: Path, saved_at: int) -> record.Beginning | None:
    """The rows up to the checkpoint, which must be those that it has noted; None where another process writes."""
    if jax.process_index() != 0:
        return None
    noted = checkpoints.manifest(workdir / directory.CHECKPOINTS, saved_at)
    return record.beginning(workdir / directory.METRICS, after=saved_at, noted=noted)


def _recorder(workdir: Path, saved_at: int, begun: record.Beginning | None) -> record.Recorder:
    """The record, to go on after the checkpoint."""
    if begun is None:
        return record.nowhere()
    return record.recorder(workdir / directory.METRICS, after=saved_at, begun=begun)
