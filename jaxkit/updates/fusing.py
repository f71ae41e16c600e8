"""What one call of an update takes: a batch by reference, or many steps at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxkit.means import add
from jaxkit.types import Indexed, State, Update
from jaxkit.updates.looping import loop


def indexed(update: Update) -> Update:
    """An update that takes its batch by reference (`Indexed`) from data that lives on the devices.

    Example:
        >>> update = indexed(lambda state, batch, key: (state, batch["x"]))
        >>> update(0, Indexed({"x": jnp.arange(5) * 10}, jnp.array([3, 1])), None)[1].tolist()
        [30, 10]
    """

    def gathered(state, batch: Indexed, key):
        # The stream checked the indices; telling XLA so spares it the clamping.
        take = lambda array: array.at[batch.indices].get(mode="promise_in_bounds")
        return update(state, jax.tree.map(take, batch.arrays), key)

    return gathered


def fuse(update: Update, *, unroll: bool | None = None) -> Update:
    """Many steps in one call: the batch has a leading axis of steps, the metrics are their sum.

    A batch field is [steps, batch, ...]; of an `Indexed` batch only the index has the leading axis.
    Saves what a call costs; only worth it where a step is short. `unroll` is that of `accumulate`: None chooses.
    What is unrolled takes longer to compile with each step.

    Example:
        >>> from jaxkit.means import Mean
        >>> update = fuse(lambda total, batch, key: (total + batch["x"], {"x": Mean(batch["x"], 1.0)}))
        >>> total, metrics = update(jnp.array(0.0), {"x": jnp.array([1.0, 2.0, 6.0])}, None)
        >>> float(total), float(metrics["x"].compute())
        (9.0, 3.0)
    """

    update = jax.jit(update)  # used for its shapes and in the loop, and traced once

    def fused(state, batches, key):
        def part(carry, batch):
            state, sums = carry
            state, metrics = update(state, _whole(batches, batch), key)
            return (state, add(sums, metrics)), None

        stacked = _stacked(batches)
        first = _whole(batches, jax.tree.map(lambda x: x[0], stacked))
        _, shapes = jax.eval_shape(update, state, first, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        carry, _ = loop(part, (state, zeros), stacked, unroll=unroll)
        return carry

    return fused


def stack(update: Update, note: Callable[[State], Any], *, unroll: bool | None = None) -> Callable[..., Any]:
    """Many steps in one call, as `fuse`, with the metrics of each and what `note(state)` says after it.

    Returns (state, (metrics, notes)), both with a leading axis of steps.

    Example:
        >>> update = stack(lambda total, batch, key: (total + batch["x"], {"x": batch["x"]}), lambda total: -total)
        >>> total, (metrics, notes) = update(jnp.array(0.0), {"x": jnp.array([1.0, 2.0, 6.0])}, None)
        >>> metrics["x"].tolist(), notes.tolist()
        ([1.0, 2.0, 6.0], [-1.0, -3.0, -9.0])
    """
    update = jax.jit(update)

    def stacking(state, batches, key):
        def part(state, batch):
            state, metrics = update(state, _whole(batches, batch), key)
            return state, (metrics, note(state))

        return loop(part, state, _stacked(batches), unroll=unroll)

    return stacking


def _stacked(batches: Any) -> Any:
    return batches.indices if isinstance(batches, Indexed) else batches


def _whole(batches: Any, part: Any) -> Any:
    return Indexed(batches.arrays, part) if isinstance(batches, Indexed) else part
