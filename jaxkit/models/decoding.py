"""Decoding: what a decoder keeps of the tokens it has read, and how it goes on from there."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkit import checks
from jaxkit.models import blocks
from jaxkit.models.blocks import Form


class Memory(NamedTuple):
    """The keys and values of the tokens that a block has read: 2 x [batch, places, num_kv_heads, head_size]."""

    keys: jax.Array
    values: jax.Array


class Cache(NamedTuple):
    """What decoding keeps of the tokens read so far.

    memories: {name of the block: Memory}; under `scan` one Memory of all "blocks", with an axis of blocks in front
    lengths:  i32[batch], how many tokens each row has read
    """

    memories: dict[str, Memory]
    lengths: jax.Array


def empty(form: Form, batch: int, length: int, dtype: Any = jnp.float32) -> Cache:
    """A Decoder's `cache`: nothing read, with `length` places in each of `batch` rows.

    Raises:
        ValueError: a size below 1, or more places than the model has positions.
    """
    checks.sizes(batch=batch, length=length)
    if length > form.max_length:
        raise ValueError(f"length: came {length}, wanted at most max_length={form.max_length}")
    layers = (form.num_layers,) if form.scan else ()
    shape = (*layers, batch, length, form.num_kv_heads, form.head_size)
    memories = {name: Memory(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for name in form.blocks}
    return Cache(memories, jnp.zeros(batch, jnp.int32))


def extend(form: Form, params: Any, tokens: Any, cache: Cache, *, lengths: Any = None, last: bool = False):
    """A Decoder's `extend`: reads the tokens after those in the cache.

    tokens int[batch, n], cache -> (logits f32[batch, n, vocabulary_size], cache)

    A row that is given more tokens than it has places for, or a length that is not 0 to n, gets nan from then on.

    Args:
        form: of the model.
        params: of the model.
        tokens: the next n in each row.
        cache: from `cache`, or from the last call.
        lengths: i32[batch], how many of the n are real, from the left; None: all.
        last: only the logits after each row's last real token, f32[batch, 1, vocabulary_size].

    Raises:
        ValueError: the tokens are not [batch, n], or n is more than the places; shapes do not fit each other.
        TypeError: tokens or lengths are not integers.
    """
    places = cache.memories[form.blocks[0]].keys.shape[-3]
    blocks.check_tokens(tokens=tokens, longest=places)
    blocks.check_params(form, params)
    number = tokens.shape[1]
    lengths = jnp.full(tokens.shape[0], number) if lengths is None else jnp.asarray(lengths)
    checks.dtypes(lengths=(lengths, jnp.integer))
    checks.shapes(tokens=(tokens, "batch n"), lengths=(lengths, "batch"), cache=(cache.lengths, "batch"))
    # Padding must not be nan, which it would be outside the vocabulary: a masked nan makes nan of a sum.
    tokens = jnp.where(jnp.arange(number)[None, :] < lengths[:, None], tokens, 0)
    positions = cache.lengths[:, None] + jnp.arange(number)[None, :]

    def one(x, memory, layer, number):
        attend = functools.partial(remember, memory, (number,) if form.scan else (), positions)
        return blocks.block(form, layer, x, blocks.turned(form, positions, attend), None, 0.0)

    x = blocks.start(form, params, tokens, positions)
    x, memories = blocks.through(form, params, x, cache.memories, one)
    if last:
        x = jnp.take_along_axis(x, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)
    given = (lengths >= 0) & (lengths <= number)
    read = jnp.where(given, cache.lengths + lengths.astype(jnp.int32), places + 1)
    # Too many, now or before: there is no right answer, and in a trace no error.
    x = jnp.where((read <= places)[:, None, None], x, jnp.nan)
    return blocks.logits(form, params, x), Cache(memories, read)


def remember(memory: Memory, layer: tuple, positions: jax.Array, q_BxTxNxH, k_BxTxKxH, v_BxTxKxH):
    """Attention of T new tokens to themselves and all before them, and the memory with them in it.

    Args:
        memory: of one block, or of all with an axis of blocks in front.
        layer: the index of the block on that axis, `(i,)`; `()` where there is no such axis.
        positions: i32[batch, T], where each new token stands; one beyond the last place is not kept.
        q_BxTxNxH: queries.
        k_BxTxKxH: keys.
        v_BxTxKxH: values.

    Example:
        >>> memory = Memory(jnp.zeros((1, 4, 1, 2)), jnp.zeros((1, 4, 1, 2)))
        >>> x = jnp.ones((1, 1, 1, 2))
        >>> attended, memory = remember(memory, (), jnp.array([[2]]), x, x, 3 * x)
        >>> memory.keys[0, :, 0, 0].tolist(), attended.shape
        ([0.0, 0.0, 1.0, 0.0], (1, 1, 1, 2))
    """
    rows = jnp.arange(positions.shape[0])[:, None]

    def store(kept, new):
        return kept.at[(*layer, rows, positions)].set(new.astype(kept.dtype), mode="drop")

    memory = Memory(store(memory.keys, k_BxTxKxH), store(memory.values, v_BxTxKxH))
    k_BxSxKxH, v_BxSxKxH = (kept[layer].astype(q_BxTxNxH.dtype) for kept in memory)
    seen_BxTxS = jnp.arange(k_BxSxKxH.shape[1])[None, None, :] <= positions[:, :, None]
    # By XLA, because of the mask: cuDNN would take it as a bias of full size.
    attended = jax.nn.dot_product_attention(
        q_BxTxNxH, k_BxSxKxH, v_BxSxKxH, mask=seen_BxTxS[:, None], implementation="xla"
    )
    return attended, memory
