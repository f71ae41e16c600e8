"""Attention over heads: which implementation computes it, and rotary positions."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkit import backends, notes


class Choice(NamedTuple):
    """Which implementation of attention is used, "xla" or "cudnn", and why, in words."""

    implementation: str
    reason: str


def choose(attention: str, query: Any, keys: Any) -> Choice:
    """Which implementation computes causal attention of these shapes, on the default backend.

    Args:
        attention: "auto" takes cuDNN where it can; "xla" and "cudnn" are taken at their word.
        query: an array or `jax.ShapeDtypeStruct` [batch, length, num_heads, head_size].
        keys: likewise, [batch, length, num_kv_heads, head_size].

    Example:
        >>> query = jax.ShapeDtypeStruct((8, 1024, 12, 64), jnp.bfloat16)
        >>> choose("auto", query, query)
        Choice(implementation='xla', reason='the backend is cpu: cuDNN needs a GPU')
    """
    if attention != "auto":
        return Choice(attention, "asked for by name")
    if backends.platform() != "gpu":
        return Choice("xla", f"the backend is {backends.platform()}: cuDNN needs a GPU")
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        return Choice("xla", f"cuDNN takes bfloat16 and float16, not {query.dtype}")
    if query.shape[-1] > 128:
        return Choice("xla", f"heads of {query.shape[-1]}: cuDNN's gradient takes up to 128 on every GPU")
    cudnn = functools.partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn")
    try:
        # jax knows what this GPU and this cuDNN can do, and complains while tracing.
        jax.eval_shape(cudnn, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (query, keys, keys)))
    except (NotImplementedError, RuntimeError, ValueError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        return Choice("xla", f"cuDNN cannot: {line}")
    return Choice("cudnn", "a GPU, and cuDNN takes the dtype, the head size and the shape")


def causal(q_BxLxNxH: jax.Array, k_BxLxKxH: jax.Array, v_BxLxKxH: jax.Array, *, attention: str) -> jax.Array:
    """Each position attends to itself and to those before it; the softmax is in float32.

    N query heads share K heads of keys and values: head n reads head n // (N / K).

    Source:
        Vaswani et al. 2017, arXiv 1706.03762; grouped queries: Ainslie et al. 2023, arXiv 2305.13245.

    Example:
        >>> x = jnp.ones((2, 5, 4, 8))
        >>> causal(x, x[:, :, :2], x[:, :, :2], attention="auto").shape
        (2, 5, 4, 8)
    """
    chosen = choose(attention, q_BxLxNxH, k_BxLxKxH)
    notes.note(f"attention by {chosen.implementation}: {chosen.reason}")
    if chosen.implementation == "xla":
        return _plain(q_BxLxNxH, k_BxLxKxH, v_BxLxKxH)
    return jax.nn.dot_product_attention(q_BxLxNxH, k_BxLxKxH, v_BxLxKxH, is_causal=True, implementation="cudnn")


def _plain(q_BxLxNxH: jax.Array, k_BxLxKxH: jax.Array, v_BxLxKxH: jax.Array) -> jax.Array:
    batch, length, num_heads, size = q_BxLxNxH.shape
    num_kv_heads = k_BxLxKxH.shape[2]
    q_BxLxKxGxH = (q_BxLxNxH / size**0.5).reshape(batch, length, num_kv_heads, num_heads // num_kv_heads, size)

    def rows(begin: int, end: int) -> jax.Array:
        """What the queries of these positions attend to: nothing that comes after the last of them."""
        q = q_BxLxKxGxH[:, begin:end].transpose(0, 2, 3, 1, 4)
        k, v = (x[:, :end].transpose(0, 2, 1, 3) for x in (k_BxLxKxH, v_BxLxKxH))
        # All queries of a head of keys are rows of one matrix. With an axis more, XLA on a CPU copies and turns
        # what it multiplies, a sixteenth of a small GPT's step.
        flat = q.reshape(batch, num_kv_heads, -1, size)
        scores = jnp.einsum("bkrh,bkmh->bkrm", flat, k, preferred_element_type=jnp.float32)
        seen = jnp.arange(begin, end)[:, None] >= jnp.arange(end)[None, :]
        unseen = jnp.broadcast_to(jnp.where(seen, jnp.float32(0), -jnp.inf), (q.shape[2], *seen.shape)).reshape(
            -1, end
        )
        return _attend(scores + unseen[None, None], v).reshape(q.shape).transpose(0, 3, 1, 2, 4)

    # On a CPU in two halves: the earlier one never meets the later keys, which spares a quarter of the products
    # and of the softmax. More parts would spare more, but smaller products are slower, and nothing is won.
    halved = backends.platform() == "cpu" and length > 1
    cuts = (0, length // 2, length) if halved else (0, length)
    attended = jnp.concatenate([rows(begin, end) for begin, end in itertools.pairwise(cuts)], axis=1)
    return attended.reshape(q_BxLxNxH.shape)


@jax.custom_jvp
def _attend(scores_BxKxRxM: jax.Array, v_BxKxMxH: jax.Array) -> jax.Array:
    """The softmax of R rows of scores times the values."""
    weights, inverse = _weights(scores_BxKxRxM)
    # After the product there is less to divide.
    return (_weighted(weights, v_BxKxMxH) * inverse).astype(v_BxKxMxH.dtype)


@_attend.defjvp
def _attend_jvp(primals, tangents):
    # What jax would derive, but that the last term is summed behind the product: in the backward pass that is a
    # sum over a head's features, and not over all positions.
    scores, v = primals
    weights, inverse = _weights(scores)
    attended = (_weighted(weights, v) * inverse).astype(v.dtype)
    changed = weights * tangents[0]
    shared = attended.astype(jnp.float32) * jnp.sum(changed, axis=-1, keepdims=True)
    tangent = (_weighted(changed, v) + _weighted(weights, tangents[1]) - shared) * inverse
    return attended, tangent.astype(v.dtype)


def _weights(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """exp(scores), scaled so that the largest is one, and the reciprocals of their sums."""
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    # Times the reciprocal, as it is written: a division XLA may turn into that, or not, by what stands around it,
    # and then the numbers would depend on the number of devices (`parallel.exact`).
    return weights, 1 / jnp.sum(weights, axis=-1, keepdims=True)


def _weighted(weights: jax.Array, v: jax.Array) -> jax.Array:
    return jnp.einsum("bkrm,bkmh->bkrh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)


def angles(positions: jax.Array, *, head_size: int, base: float) -> tuple[jax.Array, jax.Array]:
    """The cosines and sines of rotary positions: int[batch or 1, length] -> 2 x f32[..., length, head_size / 2].

    Pair j of a head turns by position / base^(2 j / head_size).

    Example:
        >>> cosines, sines = angles(jnp.arange(3)[None], head_size=4, base=100.0)
        >>> sines.round(3).tolist()  # of 0, 1, 2 and of 0, 0.1, 0.2
        [[[0.0, 0.0], [0.841..., 0.1...], [0.909..., 0.199...]]]
    """
    frequencies = base ** -(jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size)
    turned = positions.astype(jnp.float32)[:, :, None] * frequencies[None, None, :]
    return jnp.cos(turned), jnp.sin(turned)


def rotate(x_BxLxNxH: jax.Array, turned: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Queries or keys turned by their positions, in float32, returned in their dtype.

    Feature j is paired with feature j + H / 2, as in the published weights of Llama in Transformers' form
    (RoFormer's own form pairs neighbours: the same up to an order of the features).

    Source:
        Su et al. 2021, arXiv 2104.09864.

    Example:
        >>> x = jnp.array([3.0, 4.0]).reshape(1, 1, 1, 2)
        >>> turned = angles(jnp.array([[1]]), head_size=2, base=10_000.0)
        >>> round(float(jnp.linalg.norm(rotate(x, turned))), 5)
        5.0
    """
    cosines, sines = (part[:, :, None, :] for part in turned)
    a, b = jnp.split(x_BxLxNxH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cosines - b * sines, b * cosines + a * sines], axis=-1).astype(x_BxLxNxH.dtype)
