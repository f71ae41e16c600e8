"""Digests: what a run saw, in a few bytes, so that two runs can be compared step by step."""

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


def fold(tree: Any) -> jax.Array:
    """An integer that depends on every bit of every array of the tree, computed where the arrays are.

    Returns:
        u32[]; a changed bit, or two values that change places, change it.

    Example:
        >>> fold({"w": jnp.array([1.0, 2.0])}) == fold({"w": jnp.array([2.0, 1.0])})
        Array(False, dtype=bool)
    """
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(tree):
        bits = _whole(leaf)
        bits = jax.lax.bitcast_convert_type(bits, _UNSIGNED[bits.dtype.itemsize]).astype(jnp.uint32)
        mixed = _mixed(_gathered(jnp.atleast_1d(bits)))
        total = total * jnp.uint32(16777619) + jnp.sum(mixed, dtype=jnp.uint32)
    return total


def _gathered(bits: jax.Array) -> jax.Array:
    """Rows summed in groups, each turned by other bits than its neighbours, so that few numbers are left to mix.

    What is mixed, XLA writes to memory before it is summed; an axis of so few it sums while it reads. No axis is
    merged with another, which would move what is split over devices.
    """
    if bits.ndim == 1:
        return bits
    *before, rows, last = bits.shape
    count = max(number for number in range(1, 32) if rows % number == 0)
    groups = bits.reshape(*before, rows // count, count, last)
    place = jax.lax.broadcasted_iota(jnp.uint32, (*[1] * len(before), 1, count, 1), groups.ndim - 2)
    # Zeros and ones throughout stay what they are, however they are turned.
    groups ^= place * jnp.uint32(2654435761)
    turn = 1 + place * jnp.uint32(32 // count if count > 1 else 0)
    return jnp.sum((groups << turn) | (groups >> (32 - turn)), axis=-2, dtype=jnp.uint32)


def _mixed(bits: jax.Array) -> jax.Array:
    """Each number mixed with its place, and in itself: a plain weighted sum is blind to some exchanges."""
    place, stride = jnp.uint32(0), 1
    for axis in reversed(range(bits.ndim)):
        place += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    mixed = bits ^ (place * jnp.uint32(2654435761))
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(2246822507)
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(3266489909)
    return mixed ^ (mixed >> 16)


def _whole(leaf: jax.Array) -> jax.Array:
    """The same numbers, each of whole bytes and of one part."""
    if jnp.iscomplexobj(leaf):
        return jnp.stack([leaf.real, leaf.imag])
    few = leaf.dtype == jnp.bool_ or (jnp.issubdtype(leaf.dtype, jnp.integer) and jnp.iinfo(leaf.dtype).bits < 8)
    return leaf.astype(jnp.uint8) if few else leaf


def chain(previous: str, step: int, values: Mapping[str, Any], parameters: int) -> str:
    """The next link: a digest of the one before, the step, the values and the fold of the parameters.

    Example:
        >>> chain("", 1, {"loss": 0.5}, 7) == chain("", 1, {"loss": 0.25}, 7)
        False
    """
    # As JSON, written out: where every step is recorded, the general encoder takes twice as long.
    parts = [
        f'{quoted(name)}: "{value.hex()}"' if isinstance(value, float) else f"{quoted(name)}: {json.dumps(value)}"
        for name, value in sorted(values.items())
    ]
    text = f'["{previous}", {step}, {{{", ".join(parts)}}}, {parameters}]'
    return hashlib.sha256(text.encode()).hexdigest()[:32]


# The names of metrics, as JSON.
quoted = functools.cache(json.dumps)


def sha256(tree: Any) -> str:
    """SHA-256 over the paths, dtypes, shapes and bytes of every array of the tree.

    Example:
        >>> sha256({"w": np.zeros(3)}) == sha256({"w": np.zeros(3)})
        True
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}|{array.dtype}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
