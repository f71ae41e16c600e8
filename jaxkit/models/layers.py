"""What every block of a transformer is made of: a projection, a normalisation, an embedding, the logits."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxkit import backends, chunks
from jaxkit.parallel import constrain
from jaxkit.types import Key

EPSILON = 1e-5


def normal(key: Key, shape: tuple[int, ...], *, std: float) -> jax.Array:
    """Draws f32[shape] from a normal distribution of mean 0.

    Example:
        >>> normal(jax.random.key(0), (3, 4), std=0.02).shape
        (3, 4)
    """
    # Drawn flat, which compiles faster.
    return std * jax.random.normal(key, (math.prod(shape),), jnp.float32).reshape(shape)


def dense_params(key: Key, shape: tuple[int, int], *, std: float, bias: bool) -> dict[str, jax.Array]:
    """The parameters of `dense`: a `kernel` [in, out] of deviation `std`, and a `bias` of zeros.

    Example:
        >>> jax.tree.map(jnp.shape, dense_params(jax.random.key(0), (3, 4), std=0.02, bias=True))
        {'bias': (4,), 'kernel': (3, 4)}
    """
    params = {"kernel": normal(key, shape, std=std)}
    return {**params, "bias": jnp.zeros(shape[1:], jnp.float32)} if bias else params


def dense(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """A projection of the last axis: [..., in] -> [..., out], in the dtype of the parameters.

    Example:
        >>> dense({"kernel": jnp.ones((3, 4))}, jnp.ones((2, 5, 3))).shape
        (2, 5, 4)
    """
    # Flat, because XLA on a CPU takes nearly twice as long for the same product with three axes.
    y = x.reshape(-1, x.shape[-1]) @ params["kernel"]
    if "bias" in params:
        y = y + params["bias"][None, :]
    return y.reshape(*x.shape[:-1], y.shape[-1])


def normalize_params(features: int, *, norm: str, bias: bool) -> dict[str, jax.Array]:
    """The parameters of `normalize`: a `scale` of ones, and for a layer norm a `bias` of zeros.

    Example:
        >>> jax.tree.map(jnp.shape, normalize_params(4, norm="rms", bias=True))
        {'scale': (4,)}
    """
    params = {"scale": jnp.ones(features, jnp.float32)}
    return {**params, "bias": jnp.zeros(features, jnp.float32)} if bias and norm == "layer" else params


def normalize(params: dict[str, jax.Array], x: jax.Array, *, norm: str) -> jax.Array:
    """Each vector x[..., features] to length one by feature, computed in float32 and returned in x's dtype.

    Args:
        params: a scale, and a bias or none.
        x: float[..., features].
        norm: "layer" takes the mean away first, "rms" does not.

    Source:
        Ba et al. 2016, arXiv 1607.06450; Zhang and Sennrich 2019, arXiv 1910.07467.

    Example:
        >>> normalize({"scale": jnp.ones(2)}, jnp.array([[3.0, 1.0]]), norm="layer").round(3).tolist()
        [[1.0, -1.0]]
    """
    y = _unit(x.astype(jnp.float32), norm == "layer")
    along = (1,) * (x.ndim - 1) + (-1,)
    y = y * params["scale"].astype(jnp.float32).reshape(along)
    if "bias" in params:
        y = y + params["bias"].astype(jnp.float32).reshape(along)
    return y.astype(x.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _unit(x: jax.Array, centered: bool) -> jax.Array:
    return _unit_and_inverse(x, centered)[0]


@_unit.defjvp
def _unit_jvp(centered, primals, tangents):
    # What jax would derive, with the two sums side by side.
    (x,), (change,) = primals, tangents
    y, inverse = _unit_and_inverse(x, centered)
    along = y * jnp.mean(y * change, axis=-1, keepdims=True)
    if centered:
        along = along + jnp.mean(change, axis=-1, keepdims=True)
    return y, inverse * (change - along)


def _unit_and_inverse(x: jax.Array, centered: bool) -> tuple[jax.Array, jax.Array]:
    y = x - jnp.mean(x, axis=-1, keepdims=True) if centered else x
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + EPSILON)
    return y * inverse, inverse


def embed(embedding: jax.Array, tokens: jax.Array) -> jax.Array:
    """The rows of an embedding [vocabulary, features] for int[...]; nan for a token outside the vocabulary.

    Example:
        >>> embed(jnp.eye(2), jnp.array([1, -1])).tolist()
        [[0.0, 1.0], [nan, nan]]
    """
    tokens = jnp.asarray(tokens, jnp.int32)
    # Without this, -1 would be the last row.
    tokens = jnp.where(tokens < 0, embedding.shape[0], tokens)
    return jnp.asarray(embedding).at[tokens].get(mode="fill", fill_value=jnp.nan)


def project(x: jax.Array, kernel: jax.Array, *, transposed: bool) -> jax.Array:
    """Logits in float32: x [..., features] times kernel [features, vocabulary] -> f32[..., vocabulary].

    Numbers of 16 bits are multiplied as they are and summed in float32, and the logits are never rounded to
    16 bits; in the backward pass their gradient is, as that of every other product.

    Args:
        x: hidden states.
        kernel: with `transposed` [vocabulary, features], as embeddings are stored.
        transposed: see there.

    Example:
        >>> logits = project(jnp.ones((2, 3), jnp.bfloat16), jnp.ones((7, 3), jnp.bfloat16), transposed=True)
        >>> logits.shape, logits.dtype.name
        ((2, 7), 'float32')
    """
    flat = x.reshape(-1, x.shape[-1])
    logits = chunks.logits(flat, kernel.T if transposed else kernel)
    return logits.reshape(*x.shape[:-1], logits.shape[-1])


def size_of_mlp(features: int, activation: str) -> int:
    """The width of an MLP where none is given: 4 times the features, for SwiGLU two thirds of that.

    Rounded up to a multiple of 64. Three matrices of two thirds have the size of two whole ones
    (Shazeer 2020, arXiv 2002.05202).

    Example:
        >>> size_of_mlp(768, "gelu"), size_of_mlp(768, "swiglu")
        (3072, 2048)
    """
    return 4 * features if activation == "gelu" else 64 * math.ceil(8 * features / 3 / 64)


def mlp(params: dict[str, Any], x: jax.Array, *, activation: str) -> jax.Array:
    """The MLP of a block: [batch, length, features], or [batch, features], -> the same.

    Args:
        params: `up` and `down`; for SwiGLU also `gate`.
        x: float[batch, length, features] or [batch, features].
        activation: "gelu" (in the form with tanh, as in GPT-2) or "swiglu".

    Source:
        Hendrycks and Gimpel 2016, arXiv 1606.08415; Shazeer 2020, arXiv 2002.05202.

    Example:
        >>> one = {"kernel": jnp.ones((1, 1))}
        >>> round(float(mlp({"up": one, "down": one}, jnp.ones((1, 1)), activation="gelu")[0, 0]), 4)
        0.8412
    """
    params = _off_the_page(params, rows=x.size // x.shape[-1])
    up = dense(params["up"], x)
    if activation == "gelu":
        hidden = jax.nn.gelu(up, approximate=True)
    else:
        hidden = jax.nn.silu(dense(params["gate"], x)) * up
    return dense(params["down"], constrain(hidden, *("batch", "length")[: x.ndim - 1], "hidden"))


def _off_the_page(params: dict[str, Any], rows: int) -> dict[str, Any]:
    # Rows a whole number of pages apart put a column into one set of a CPU's cache: a product into 1,024 columns
    # of float32 ran at two thirds of the speed of one into 1,040. So 16 inner features of zeros are added, which
    # the activations leave at zero. With few rows, as in decoding, copying the kernels would cost more.
    kernel = params["down"]["kernel"]
    on_the_page = kernel.shape[0] * kernel.dtype.itemsize % 4096 == 0
    if backends.platform() != "cpu" or not on_the_page or rows < kernel.shape[1]:
        return params
    padded = {
        name: jax.tree.map(lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 16)]), layer)
        for name, layer in params.items()
    }
    return {**padded, "down": {**params["down"], "kernel": jnp.pad(kernel, ((0, 16), (0, 0)))}}
