"""Batch normalisation whose numbers do not depend on how a batch is split over microbatches and devices."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkit import checks

MOMENTUM, EPSILON = 0.9, 1e-5


class Statistics(NamedTuple):
    """Running statistics of each channel, f32[channels]."""

    mean: jax.Array
    var: jax.Array


def batch_norm(
    x: jax.Array, running: Statistics, *, train: bool, group_size: int | None = None
) -> tuple[jax.Array, Statistics]:
    """Normalises each channel by the statistics of a group of examples; in evaluation by the running ones.

    x float[batch, ..., channels] -> the same shape and dtype; statistics are computed in float32.

    In training, every `group_size` examples in a row are a group with statistics of its own (Hoffer et al. 2017,
    "ghost batch normalisation"). The running statistics move by a tenth towards the average over groups. So
    where every part of a batch is whole groups, `jit`, microbatches, `pmap` and meshes give the same numbers,
    for an average over equal parts is the average over all. Masked examples count: pad in evaluation only.

    Args:
        x: what is normalised.
        running: `extra` of the layer.
        train: whether to use, and to learn from, the statistics of the batch.
        group_size: examples in a group; None: all that one call sees, and then the numbers depend on the split.

    Raises:
        ValueError: the groups do not divide the batch.

    Source:
        Ioffe and Szegedy 2015, arXiv 1502.03167; the groups: Hoffer et al. 2017, arXiv 1705.08741.

    Example:
        >>> running = Statistics(jnp.zeros(1), jnp.ones(1))
        >>> y, running = batch_norm(jnp.array([[1.0], [3.0]]), running, train=True)
        >>> y[:, 0].round(3).tolist(), running.mean.tolist()  # the mean is 2, the deviation 1
        ([-1.0, 1.0], [0.20000000298023224])
    """
    if not train:
        return _scale(x[None], running.mean[None], running.var[None])[0], running
    size = group_size or x.shape[0]
    if x.shape[0] % size:
        raise ValueError(
            f"group_size: groups of {size} do not divide the {x.shape[0]} examples that one call is given"
            " (of a microbatch, on one device); choose a divisor of that"
        )
    groups = x.reshape(x.shape[0] // size, size, *x.shape[1:])
    axes = tuple(range(1, groups.ndim - 1))
    in_float32 = groups.astype(jnp.float32)
    mean, var = jnp.mean(in_float32, axes), jnp.var(in_float32, axes)
    y = _scale(groups, mean, var).reshape(x.shape)
    move = lambda old, new: MOMENTUM * old + (1 - MOMENTUM) * jnp.mean(new, axis=0)
    return y, Statistics(move(running.mean, mean), move(running.var, var))


def _scale(groups: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
    along = lambda s: s.reshape(s.shape[0], *[1] * (groups.ndim - 2), s.shape[1])
    y = (groups.astype(jnp.float32) - along(mean)) * along(jax.lax.rsqrt(var + EPSILON))
    return y.astype(groups.dtype)


def check_group_size(group_size: Any) -> None:
    """Checks the size of a group: None, or a whole number from 1 on.

    Raises:
        TypeError: not a whole number.
        ValueError: below 1.

    Example:
        >>> check_group_size(None)
    """
    if group_size is not None:
        checks.sizes(group_size=group_size)
