"""Metrics of numbers: squared and absolute error, and the share of the variance that is explained.

As in `metrics`, which has them too: additive states, and where the mask is False an example leaves no trace.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkit import checks
from jaxkit.means import Mean, add, included, mean, numbers, ratio, require_examples


def squared_error(outputs: jax.Array, targets: jax.Array, mask: jax.Array | None = None) -> Mean:
    """The mean squared error: outputs [batch, ...], targets [batch, ...], mask bool[batch] -> Mean.

    Raises:
        ValueError: shapes do not fit each other.

    Example:
        >>> float(squared_error(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).compute())
        2.0
    """
    return mean(_difference(outputs, targets) ** 2, mask)


def absolute_error(outputs: jax.Array, targets: jax.Array, mask: jax.Array | None = None) -> Mean:
    """The mean absolute error: outputs [batch, ...], targets [batch, ...], mask bool[batch] -> Mean.

    Raises:
        ValueError: shapes do not fit each other.

    Example:
        >>> float(absolute_error(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).compute())
        1.0
    """
    return mean(jnp.abs(_difference(outputs, targets)), mask)


class R2(NamedTuple):
    """Sums over examples, f32[...] like one target: residual squared, target, target squared; count f32[]."""

    residual: Any
    target: Any
    squared: Any
    count: Any

    def __add__(self, other: "R2") -> "R2":  # type: ignore[override]
        return add(self, other)

    def compute(self) -> Any:
        """1 - residual / variation of each target, averaged over targets; nan where a target does not vary.

        Nor does one whose variation float32 cannot tell: targets 700 standard deviations away from the center.

        Raises:
            ValueError: on the host, nothing was counted.
        """
        require_examples(self.count)
        module, state = numbers(self)
        variation = state.squared - state.target**2 / state.count
        # Of equal targets the sums' rounding is left, up to 1.4e-6 of them, and would be divided by.
        varies = variation > 2e-6 * state.squared
        return module.mean(1 - ratio(state.residual, module.where(varies, variation, 0)))


def r2(outputs: jax.Array, targets: jax.Array, mask: jax.Array | None = None, *, center: float = 0.0) -> R2:
    """The coefficient of determination, averaged evenly over the targets of an example.

    outputs [batch, ...], targets [batch, ...], mask bool[batch] -> R2.

    Args:
        outputs: the predictions.
        targets: what they are held to.
        mask: False for the examples to leave out.
        center: near the targets' mean. It drops out, but float32 sums of squares lose the variation of
            targets that lie far from it: at 100 standard deviations, 1e-3 of it.

    Raises:
        ValueError: shapes do not fit each other.

    Example:
        >>> float(r2(jnp.array([1.0, 2.0, 4.0]), jnp.array([1.0, 2.0, 3.0])).compute())
        0.5
    """
    residual = _difference(outputs, targets)
    centered = jnp.asarray(targets, jnp.float32) - center
    mask = included(mask, residual.shape[:1])
    each = included(mask, residual.shape)
    squares, target, squared = (
        jnp.sum(jnp.where(each, x, 0.0), axis=0) for x in (residual**2, centered, centered**2)
    )
    return R2(squares, target, squared, jnp.sum(mask, dtype=jnp.float32))


def _difference(outputs, targets):
    checks.shapes(outputs=(outputs, " ".join(map(str, checks.shape_of("targets", targets)))))
    return jnp.asarray(outputs, jnp.float32) - jnp.asarray(targets, jnp.float32)
