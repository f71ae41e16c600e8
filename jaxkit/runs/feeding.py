"""What the loop feeds on: how many steps a call takes, the batches of each call, and those of an evaluation."""

import collections
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import data, updates
from jaxkit.errors import UsageError
from jaxkit.recipe import Plan, nbytes
from jaxkit.runs import digest, retraces, together
from jaxkit.runs.rows import BESIDE
from jaxkit.types import Examples, Indexed, Metrics, Recipe, State

# A call of several steps takes at most about this many floating point operations: some 0.1 s of a CPU core.
MAX_FLOPS_PER_CALL = 1e10
MAX_STEPS_PER_CALL = 200
# So many where they are no loop but unrolled: each makes the program longer, and its compilation.
MAX_STEPS_UNROLLED = 10
# Steps are recorded within calls where calls that end with each recorded step would be so many times shorter.
SHORTER_THAN_IT_COULD_BE = 10
MAX_BYTES_OF_METRICS = 2**24
# Data in memory up to this size is put on the devices whole; of more, each batch is.
MAX_BYTES_ON_DEVICES = 2**30
# A CPU with several pretended devices deadlocks when some thirty calls are under way.
MAX_CALLS_UNDER_WAY = 8


class Form(NamedTuple):
    """How many steps one call takes, and why; `records`: whether steps within a call are recorded."""

    steps_per_call: int
    reason: str
    records: bool = False


def check(recipe: Recipe, plan: Plan) -> None:
    """Checks what a recipe asks of the loop, before anything is written.

    Raises:
        UsageError: `steps_per_call` is no number of steps; the layout asks for what its devices cannot do; a split
            or a metric has a name under which it cannot be written.
    """
    recipe.layout.check()
    for split in recipe.data:
        # Its evaluation goes into evaluation/SPLIT.json.
        if not isinstance(split, str) or not split.isprintable() or not split or Path(split).name != split:
            raise UsageError(f"config.data: came a split called {split!r}, wanted a name that a file can have")
    evaluated = {f"{split}/{name}" for split in plan.metrics if split != "train" for name in plan.metrics[split]}
    for name in plan.metrics["train"]:
        if name in BESIDE | evaluated:
            raise UsageError(
                f"update: metric {name!r}: a row of the record has that already; give it another name"
            )
    asked = recipe.steps_per_call
    if asked is not None and (not isinstance(asked, int) or asked < 1):
        raise UsageError(f"config.steps_per_call: came {asked!r}, wanted an int >= 1, or None to choose")


def choose_form(recipe: Recipe, plan: Plan, config: Any) -> Form:
    """How many steps one call takes: a divisor of the run's intervals, so that none is overshot.

    Where recording often would make calls short, they are as long as the other intervals let them be, and give
    the metrics of each of their steps.
    """
    asked, slow = recipe.steps_per_call, "convolutions are slow inside a loop on this backend"
    if asked is None and plan.slow_in_a_loop:
        return Form(1, slow)
    most = min(MAX_STEPS_PER_CALL, int(MAX_FLOPS_PER_CALL // max(plan.flops, 1))) if asked is None else asked
    said = f"a step has about {plan.flops:.1e} FLOPs" if asked is None else f"asked for {asked}"
    if plan.slow_in_a_loop and most > MAX_STEPS_UNROLLED:
        most, said = MAX_STEPS_UNROLLED, f"{said}; {slow}, and at most {MAX_STEPS_UNROLLED} are unrolled"
    between = math.gcd(config.eval_every, config.checkpoint_every)
    common = math.gcd(config.log_every, between)
    short, long = _divisor(common, most), _divisor(between, most)
    if long >= SHORTER_THAN_IT_COULD_BE * short and nbytes(plan.metrics["train"]) * long <= MAX_BYTES_OF_METRICS:
        return Form(long, f"{said}; the intervals of the run divide by {between}, steps are recorded within", True)
    return Form(short, f"{said}; the intervals of the run divide by {common}")


def _divisor(number: int, most: int) -> int:
    # Of few candidates: the number may be as large as "never" is written.
    return max(k for k in range(1, min(number, max(most, 1)) + 1) if number % k == 0)


def feed(
    recipe: Recipe, config: Any, examples: Examples, form: Form, start: int
) -> tuple[Any, Iterator[tuple[int, Any]]]:
    """The update in the form that was chosen, and (number of steps, batch) for each call of it."""
    layout, steps, update = recipe.layout, form.steps_per_call, recipe.update
    rows = together.rows(layout, config.batch_size)
    stream = data.shuffled(examples, batch_size=config.batch_size, seed=config.seed, rows=rows)
    calls = calls_of(start, config.num_steps, steps)
    fused = steps > 1
    arrays = _to_place(examples)
    if arrays is not None:
        update = updates.indexed(update)
        arrays = layout.put_state(arrays)
        indices = (stream.indices(call.start, call.stop if fused else None) for call in calls)
        batches = (Indexed(arrays, found) for found in indices)
    else:
        read = data.prefetch(stream, start, config.num_steps)
        parts = ([next(read) for _ in call] for call in calls)
        batches = (_stacked(part) if fused else part[0] for part in parts)
    put = (together.put(layout, batch, config.batch_size, axis=int(fused)) for batch in batches)
    counts = (len(call) for call in calls_of(start, config.num_steps, steps))
    if form.records:
        zero = lambda state: jnp.uint32(0)
        fold = lambda state: digest.fold(state.params)
        note = lambda state: jax.lax.cond(state.step % config.log_every == 0, fold, zero, state)
        return updates.stack(update, fold if config.log_every == 1 else note), zip(counts, put)
    return (updates.fuse(update) if fused else update), zip(counts, put)


def _to_place(examples: Examples) -> dict[str, np.ndarray] | None:
    """What is put on the devices whole; None where that would be too much, or is not in memory."""
    arrays = examples.arrays
    return dict(arrays) if arrays is not None and nbytes(dict(arrays)) <= MAX_BYTES_ON_DEVICES else None


def calls_of(start: int, stop: int, steps: int) -> Iterator[range]:
    """The steps of each call: as long as the form says, ending on multiples of it.

    Example:
        >>> list(calls_of(2, 9, 4))
        [range(2, 4), range(4, 8), range(8, 9)]
    """
    while start < stop:
        end = min(start - start % steps + steps, stop)
        yield range(start, end)
        start = end


def _stacked(batches: list[Any]) -> Any:
    retraces.alike(batches)
    return jax.tree.map(lambda *x: np.stack(x), *batches)


def limiter() -> Callable[[Any], None]:
    """Makes what is told the result of each call, and waits until few enough are under way.

    Example:
        >>> limit = limiter()
        >>> limit(jnp.ones(()) + 1)
    """
    under_way = collections.deque[Any]()

    def limit(result: Any) -> None:
        under_way.append(result)
        if len(under_way) > MAX_CALLS_UNDER_WAY:
            jax.block_until_ready(under_way.popleft())

    return limit


def evaluator(
    recipe: Recipe,
    config: Any,
    examples: Mapping[str, Examples],
    limit: Callable[[Any], None],
    arm: Callable[[bool], None] = lambda on: None,
) -> Callable[[State], Any]:
    """Makes state -> {split: [metrics of each batch]} over the whole of every held-out split.

    What it returns is not waited for, but for what `limit` waits for after each batch. `arm` is told whether a
    batch should look like one before it: all but the first of each split should.
    """
    layout = recipe.layout
    compiled = layout.compile_evaluate(recipe.evaluate)
    average = jax.jit(updates.averaged)
    splits: dict[str, Callable[[], Iterable[Any]]] = {}
    begun: set[str] = set()

    def batches_of(split: str) -> Callable[[], Iterable[Any]]:
        rows = together.rows(layout, config.batch_size)
        stream = data.padded(examples[split], batch_size=config.batch_size, rows=rows)
        batches = lambda: data.prefetch(stream, 0, len(stream))
        read = lambda: (together.put(layout, batch, config.batch_size) for batch in batches())
        # What fits is put on the devices once; anything else is read anew each time.
        if _to_place(examples[split]) is None:
            return read
        held = list(read()) if rows is not None else jax.device_put(list(read()))
        return lambda: held

    def one(split: str, *arguments: Any) -> Metrics:
        arm(split in begun)
        begun.add(split)
        metrics = compiled(*arguments)
        limit(metrics)
        return metrics

    def evaluate(state: State) -> dict[str, list[Metrics]]:
        params = average(state)
        for split in examples:
            if split != "train" and split not in splits:
                splits[split] = batches_of(split)
        return {
            split: [one(split, params, state.extra, batch) for batch in batches()]
            for split, batches in splits.items()
        }

    return evaluate
