"""What one call of an update takes: a batch by reference, or many steps at once."""

import jax
import jax.numpy as jnp

from jaxkit.means import add
from jaxkit.types import Indexed, Update
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


def fuse(update: Update, *, unroll: bool = False) -> Update:
    """Many steps in one call: the batch has a leading axis of steps, the metrics are their sum.

    A batch field is [steps, batch, ...]; of an `Indexed` batch only the index has the leading axis.
    Saves what a call costs; only worth it where a step is short.

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
            if isinstance(batches, Indexed):
                batch = Indexed(batches.arrays, batch)
            state, metrics = update(state, batch, key)
            return (state, add(sums, metrics)), None

        stacked = batches.indices if isinstance(batches, Indexed) else batches
        first = jax.tree.map(lambda x: x[0], stacked)
        first = Indexed(batches.arrays, first) if isinstance(batches, Indexed) else first
        _, shapes = jax.eval_shape(update, state, first, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        carry, _ = loop(part, (state, zeros), stacked, unroll=unroll)
        return carry

    return fused
