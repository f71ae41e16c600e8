"""Logits of a large vocabulary a chunk of tokens at a time, so that those of a whole batch never exist."""

import math

import jax
import jax.numpy as jnp

from jaxkit import backends


def cut(x: jax.Array, size: int) -> jax.Array:
    """Rows [n, ...] as chunks of `size` at most, [chunks, parts, rows, ...], the last filled up with zeros.

    Where a mesh splits the rows, each device has a part of every chunk: of neighbours one device would have all,
    and every device would compute them.

    Example:
        >>> cut(jnp.arange(1, 6), 3).tolist()
        [[[1, 2, 3]], [[4, 5, 0]]]
    """
    count = parts(x.shape[0])
    each = x.shape[0] // count
    chunks = max(1, math.ceil(each / max(1, size // count)))
    rows = math.ceil(each / chunks)
    split = x.reshape(count, each, *x.shape[1:])
    padded = jnp.pad(split, ((0, 0), (0, chunks * rows - each)) + ((0, 0),) * (x.ndim - 1))
    return jnp.moveaxis(padded.reshape(count, chunks, rows, *x.shape[1:]), 1, 0)


def joined(x: jax.Array, n: int) -> jax.Array:
    """What `cut` made of n rows: [chunks, parts, rows, ...] -> [n, ...].

    Example:
        >>> joined(cut(jnp.arange(5), 3), 5).tolist()
        [0, 1, 2, 3, 4]
    """
    chunks, count, rows, *rest = x.shape
    return jnp.moveaxis(x, 0, 1).reshape(count, chunks * rows, *rest)[:, : n // count].reshape(n, *rest)


def parts(n: int) -> int:
    """Of how many parts a chunk of n rows is: one for each that the mesh splits a batch into, where they divide.

    Example:
        >>> parts(6)
        1
    """
    return math.gcd(backends.parts_of_a_batch(), n)


@jax.custom_jvp
def logits(hidden: jax.Array, kernel: jax.Array) -> jax.Array:
    """`hidden @ kernel`, f32[..., rows, vocabulary], multiplied in the dtype of `hidden`, as its gradients are.

    Example:
        >>> logits(jnp.ones((2, 3), jnp.bfloat16), jnp.ones((3, 4))).dtype
        dtype('float32')
    """
    return jnp.matmul(hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)


@logits.defjvp
def _logits_changes(primals, tangents):
    # Left to jax, the backward pass would multiply float32 by bfloat16: on accelerators a fraction of the speed.
    (hidden, kernel), (hidden_change, kernel_change) = primals, tangents
    short = lambda x: x.astype(hidden.dtype)
    change = hidden_change @ short(kernel) + hidden @ short(kernel_change)
    return logits(hidden, kernel), change.astype(jnp.float32)
