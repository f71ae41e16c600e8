"""What is averaged travels as a sum: totals and counts are added, and divided once.

Examples, microbatches, devices and hosts are all summed over with the same `+`, so padding, uneven
batches, accumulation and every layout give the same number.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import checks


def add(a: Any, b: Any) -> Any:
    """Adds two additive states (or any two pytrees) leaf by leaf.

    Example:
        >>> add({"x": 1}, {"x": 2})
        {'x': 3}
    """
    return jax.tree.map(lambda x, y: x + y, a, b)


class Whole(NamedTuple):
    """A whole number as quotient and remainder of a division, whose sums fit where the number's own do not."""

    quotient: Any
    remainder: Any


def portion(part: Any, parts: int) -> Any:
    """What one of `parts` equal parts adds to the sum that `share` divides.

    Example:
        >>> total = add(portion(jnp.uint8(200), 2), portion(jnp.uint8(200), 2))  # uint8 ends at 255
        >>> int(share(total, 2))
        200
    """

    def added(path, x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            where = jax.tree_util.keystr(path, simple=True, separator=".")
            raise TypeError(
                f"extra: {where or 'it'} is a PRNG key, of which parts of a batch have no average; keep none:"
                " a model is given a key at each step"
            )
        if not jnp.issubdtype(x.dtype, jnp.integer):
            return x
        wide = x.astype(jnp.int32) if x.dtype.itemsize < 4 else x  # `parts` itself may not fit into less
        return Whole((wide // parts).astype(x.dtype), (wide % parts).astype(jnp.int32))

    return jax.tree_util.tree_map_with_path(added, part)


def share(total: Any, parts: int) -> Any:
    """The average of equal parts, from the sum of the `portion` of each.

    Whole numbers are rounded down, so that a counter, the same in each, stays what it is; a flag is that of any.

    Example:
        >>> one = portion({"mean": jnp.float32(0.5), "steps": jnp.int32(4)}, 2)
        >>> share(add(one, one), 2)
        {'mean': Array(0.5, dtype=float32), 'steps': Array(4, dtype=int32)}
    """

    def shared(x):
        if isinstance(x, Whole):
            return x.quotient + (x.remainder // parts).astype(x.quotient.dtype)
        return x / parts if jnp.issubdtype(x.dtype, jnp.inexact) else x  # a sum of flags is their "or"

    return jax.tree.map(shared, total, is_leaf=lambda x: isinstance(x, Whole))


class NothingCounted(ValueError):
    """A mean of nothing: every example was masked, or there was none."""


def require_examples(count: Any) -> None:
    """Raises on the host where nothing was counted; says nothing in a trace, where nan will tell.

    Raises:
        NothingCounted: the count is zero; of several (one for each class) all are.
    """
    if isinstance(count, jax.core.Tracer):
        return
    if not (count if isinstance(count, float) else np.any(np.asarray(count))):
        raise NothingCounted(
            "mean of nothing: no example was counted; is every example masked, or the split empty?"
        )


def numbers(state: Any) -> tuple[Any, Any]:
    """(module, state) to compute with: numpy and float64 on the host, jax.numpy as it is in a trace.

    Example:
        >>> module, (total,) = numbers((jnp.ones(3),))
        >>> module.__name__, total.dtype
        ('numpy', dtype('float64'))
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(state)):
        return jnp, state
    return np, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state)


def ratio(total: Any, count: Any, empty: float = np.nan) -> Any:
    """`total / count`, without a warning, and `empty` where the count is 0.

    Example:
        >>> ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0])).tolist()
        [0.5, nan]
    """
    module, (total, count) = numbers((total, count))
    return module.where(count == 0, empty, total / module.where(count == 0, 1, count))


class Mean(NamedTuple):
    """A sum and the number of what was summed: `a + b` adds both, `compute()` divides.

    total: a pytree of f32[...]
    count: f32[], the number (or summed weight) of the examples in `total`; or of the shape of `total`, as of a
           metric with a value for each class: nan is that of a class without an example

    Example:
        >>> (Mean(6.0, 2.0) + Mean(0.0, 1.0)).compute()
        2.0
    """

    total: Any
    count: Any

    def __add__(self, other: "Mean") -> "Mean":  # type: ignore[override]  # a sum, not a concatenation
        return add(self, other)

    def compute(self) -> Any:
        """The average, `total / count`.

        Raises:
            ValueError: on the host, nothing was counted.
        """
        require_examples(self.count)
        if isinstance(self.total, float):  # of each recorded step: a tree of one leaf takes three times as long
            return self.total / self.count
        with np.errstate(divide="ignore", invalid="ignore"):
            return jax.tree.map(lambda total: total / self.count, self.total)


def included(mask: jax.Array | None, shape: tuple[int, ...]) -> jax.Array:
    """Which values are counted, bool[shape]: the mask repeated along the axes that it lacks; None: all.

    Raises:
        ValueError: the mask's shape is not the beginning of the values' shape.

    Example:
        >>> included(jnp.array([True, False]), (2, 3)).sum(axis=1).tolist()
        [3, 0]
    """
    if mask is None:
        return jnp.ones(shape, bool)
    checks.dtypes(mask=(mask, jnp.bool_))
    if shape[: mask.ndim] != mask.shape:
        raise ValueError(f"mask: came {checks.describe(mask)}, wanted the beginning of the values' shape {shape}")
    return jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)


def of_classes(values: Any, labels: jax.Array, num_classes: int) -> jax.Array:
    """The values, f32[...], and nan where a label is none of 0 to num_classes - 1: a wrong number is worse.

    Example:
        >>> of_classes(1.0, jnp.array([0, 2, 3, -1]), 3).tolist()
        [1.0, 1.0, nan, nan]
    """
    labels = jnp.asarray(labels, jnp.int32)  # num_classes may be more than labels of 8 bits can be
    return jnp.where((labels >= 0) & (labels < num_classes), jnp.asarray(values, jnp.float32), jnp.nan)


def mean(values: jax.Array, mask: jax.Array | None = None) -> Mean:
    """The `Mean` of per-example values, without those that the mask leaves out.

    values [batch, ...], mask bool[batch, ...] with as many or fewer axes -> Mean of f32[], f32[].

    A masked value is replaced before the sum, so a masked nan or infinity does no harm.

    Raises:
        ValueError: the mask's shape is not the beginning of the values' shape.

    Example:
        >>> float(mean(jnp.array([1.0, 3.0, 99.0]), jnp.array([True, True, False])).compute())
        2.0
    """
    values = jnp.asarray(values, jnp.float32)
    if mask is None:
        return Mean(jnp.sum(values), jnp.asarray(values.size, jnp.float32))
    mask = included(mask, values.shape)
    return Mean(jnp.sum(jnp.where(mask, values, 0.0)), jnp.sum(mask, dtype=jnp.float32))
