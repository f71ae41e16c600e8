"""From an objective to summed gradients."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxkit import backends, checks, contracts, random
from jaxkit.means import Mean, add, portion, share
from jaxkit.types import Gradients, Objective
from jaxkit.updates.looping import loop


def gradients(objective: Objective) -> Gradients:
    """The gradients of an objective's total, as a sum with its count.

    Returns:
        (params, extra, batch, key) -> (Mean of params, {"loss": Mean, name: additive}, extra).

    Raises:
        TypeError: when traced: the objective does not return (Mean, (metrics, extra)).
        UsageError: likewise: one of its metrics is no additive state.

    Example:
        >>> def objective(params, extra, batch, key):
        ...     return Mean(jnp.sum(params * batch["x"]), batch["x"].size), ({}, extra)
        >>> summed, metrics, extra = gradients(objective)(
        ...     jnp.array(3.0), {}, {"x": jnp.array([1.0, 5.0])}, jax.random.key(0))
        >>> float(summed.total), float(summed.compute())
        (6.0, 3.0)
    """

    def total(params, extra, batch, key):
        returned = objective(params, extra, batch, key)
        try:
            loss, (metrics, new_extra) = returned
        except (TypeError, ValueError):
            raise TypeError(
                f"objective: came {type(returned).__name__}, wanted (Mean, ({{name: additive}}, extra))"
            ) from None
        if not (hasattr(loss, "total") and hasattr(loss, "count")):
            raise TypeError(
                f"objective: its loss: came {checks.describe(loss)}, wanted a Mean: means.mean(losses, mask)"
                " of one number for each example"
            )
        contracts.measured("objective", metrics)
        return loss.total, jax.tree.map(jnp.asarray, (loss, metrics, new_extra))

    def summed(params, extra, batch, key):
        (_, (loss, metrics, extra)), grads = jax.value_and_grad(total, has_aux=True)(params, extra, batch, key)
        contracts.unmeasured("loss", metrics)
        return Mean(grads, loss.count), {"loss": loss, **metrics}, extra

    return summed


def sums(returned: Any) -> tuple[Mean, Any, Any]:
    """What a function of type Gradients returned: (sum with its count, metrics, extra).

    Raises:
        TypeError: it is something else, such as what an objective returns.

    Example:
        >>> sums((Mean(6.0, 2.0), {}, {}))[0].compute()
        3.0
    """
    if not isinstance(returned, tuple) or len(returned) != 3:
        raise TypeError(
            f"gradients: came {checks.describe(returned)}, wanted (Mean of params, {{name: additive}}, extra);"
            " updates.gradients(objective) makes it of an objective"
        )
    return returned


def accumulate(gradients: Gradients, *, microbatches: int, unroll: bool | None = None) -> Gradients:
    """Sums the gradients of `microbatches` equal parts of the batch, one after the other, to save memory.

    Every part starts from the same `extra`, and what they make of it is averaged, as over devices; each part has
    a key of its own. With `unroll` None the parts are a loop in the program, except where a loop is slow: on a
    CPU with convolutions in it.

    Raises:
        ValueError: `microbatches` is below 1; when traced: the batch that each device is given does not divide.

    Example:
        >>> def objective(params, extra, batch, key):
        ...     return Mean(jnp.sum(params * batch["x"]), batch["x"].size), ({}, extra)
        >>> halves = accumulate(gradients(objective), microbatches=2)
        >>> summed, _, _ = halves(jnp.array(3.0), {}, {"x": jnp.array([1.0, 5.0])}, jax.random.key(0))
        >>> float(summed.compute())
        3.0
    """
    checks.sizes(microbatches=microbatches)
    if microbatches == 1:
        return gradients
    gradients = jax.jit(gradients)  # used for its shapes and in the loop, and traced once

    def split(array):
        # Of a microbatch that a mesh cannot deal out, each device would compute all.
        parts = backends.parts_of_a_batch()
        if array.shape[0] % (microbatches * parts):
            raise ValueError(
                f"microbatches: {microbatches} do not divide the batch of {array.shape[0] // parts}"
                " that each device is given; change config.batch_size, or config.microbatches where the recipe"
                " has them from there"
            )
        return array.reshape(microbatches, array.shape[0] // microbatches, *array.shape[1:])

    def summed(params, extra, batch, key):
        def part(number, batch):
            grads, metrics, after = sums(gradients(params, extra, batch, random.at(key, number)))
            return grads, metrics, portion(after, microbatches)

        xs = (jnp.arange(microbatches), jax.tree.map(split, batch))
        shapes = jax.eval_shape(part, *jax.tree.map(lambda x: x[0], xs))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (grads, metrics, total), _ = loop(
            lambda so_far, xs: (add(so_far, part(*xs)), None), zeros, xs, unroll=unroll
        )
        return grads, metrics, share(total, microbatches)

    return summed
