"""Losses: `(outputs, targets, *, hyperparameters) -> f32[batch]`, per example and unreduced.

Only what optax lacks; its losses are per example already and fit the same contract. All are computed in
float32, whatever comes in. A label that is no class, negative ones included, gives nan, never a neighbour's
loss: leave such examples out by a mask (`means.mean`), under which neither value nor gradient sees them.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxkit import checks, chunks

__all__ = ["chunked_cross_entropy", "contrastive", "cross_entropy", "focal"]


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> jax.Array:
    """The cross entropy of integer labels, in nats.

    logits [..., classes], labels int[...] -> f32[...]; for language models f32[batch, length].

    Args:
        logits: unnormalised log probabilities.
        labels: the right classes.
        label_smoothing: the share of the target that is spread evenly over all classes, in [0, 1)
            (Szegedy et al. 2016, "Rethinking the Inception Architecture").
        z_loss: weight of the squared log normaliser, which keeps logits near 0
            (Chowdhery et al. 2022, "PaLM": 1e-4).

    Raises:
        ValueError: the labels' shape is not that of the logits without classes; a hyperparameter is off.
        TypeError: the labels are not integers.

    Example:
        >>> round(float(cross_entropy(jnp.zeros(4), jnp.array(2))), 3)  # log(4)
        1.386
    """
    checks.labels(logits, labels)
    _check_smoothing(label_smoothing, z_loss)
    return _cross_entropy(logits, labels, label_smoothing, z_loss)


def chunked_cross_entropy(
    outputs: tuple[jax.Array, jax.Array],
    labels: jax.Array,
    *,
    chunk_size: int = 1024,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> jax.Array:
    """The cross entropy of `hidden @ kernel`, without ever holding the logits of all tokens.

    outputs (hidden [..., d], kernel [d, vocabulary]), labels int[...] -> f32[...].

    Logits exist for `chunk_size` tokens at a time, in the backward pass too, which computes them again:
    one more matmul for tokens x vocabulary x 4 bytes less. Any number of tokens will do. What is
    multiplied has the dtype of `hidden`; the logits, and what follows, are float32.

    Raises:
        ValueError: shapes do not fit each other; a hyperparameter is off.
        TypeError: the labels are not integers.

    Example:
        >>> outputs = jnp.ones((2, 3, 8)), jnp.zeros((8, 4))
        >>> chunked_cross_entropy(outputs, jnp.zeros((2, 3), int), chunk_size=4).shape
        (2, 3)
    """
    hidden, kernel = _unpack(outputs, "hidden", "kernel")
    checks.shapes(hidden=(hidden, "... d"), kernel=(kernel, "d vocabulary"))
    checks.labels(hidden, labels)
    checks.sizes(chunk_size=chunk_size)
    _check_smoothing(label_smoothing, z_loss)
    hidden, flat = hidden.reshape(-1, hidden.shape[-1]), jnp.ravel(labels)
    # Outside of the loop, so that the kernel's gradient is summed over chunks in float32 as well; one for each
    # part of a batch, so that devices add theirs up once, and not at each chunk.
    shape = chunks.parts(labels.size), *kernel.shape
    kernels = jnp.broadcast_to(jnp.asarray(kernel, jnp.float32), shape)

    @jax.checkpoint
    def of_chunk(chunk):
        hidden, labels = chunk
        logits = chunks.logits(hidden, kernels)
        return _cross_entropy(logits, labels, label_smoothing, z_loss)

    values = jax.lax.map(of_chunk, (chunks.cut(hidden, chunk_size), chunks.cut(flat, chunk_size)))
    return chunks.joined(values, labels.size).reshape(labels.shape)


def focal(
    logits: jax.Array, labels: jax.Array, *, gamma: float = 2.0, alpha: Sequence[float] | None = None
) -> jax.Array:
    """The focal loss of a softmax: cross entropy times (1 - p)^gamma, p the probability of the label.

    logits [..., classes], labels int[...] -> f32[...]. Lin et al. 2017, "Focal Loss for Dense Object
    Detection".

    Args:
        logits: unnormalised log probabilities.
        labels: the right classes.
        gamma: how much less the easy examples count; 0 is the cross entropy.
        alpha: a weight for each class, [classes]; None: all 1.

    Raises:
        ValueError: shapes do not fit each other; gamma is negative.
        TypeError: the labels are not integers.

    Example:
        >>> round(float(focal(jnp.zeros(4), jnp.array(2), gamma=2.0)), 3)  # (3/4)^2 log(4)
        0.78
    """
    checks.labels(logits, labels)
    checks.at_least(0, gamma=gamma)
    log_p = _pick(jax.nn.log_softmax(jnp.asarray(logits, jnp.float32)), labels)
    # Kept above 0: the slope of x^gamma at 0 is infinite for gamma < 1.
    missing = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(jnp.float32).tiny)
    values = -(missing**gamma) * log_p
    if alpha is None:
        return values
    weights = jnp.asarray(alpha, jnp.float32)
    checks.shapes(alpha=(weights, str(logits.shape[-1])))
    return values * weights[jnp.asarray(labels, jnp.int32)]


def contrastive(outputs: tuple[jax.Array, jax.Array, jax.Array], targets: jax.Array | None = None) -> jax.Array:
    """The symmetric contrastive loss of pairs (a[i], b[i]) against all other pairs in the batch.

    outputs (a [batch, d], b [batch, d], log_scale f32[]), targets int[batch] or None -> f32[batch]:
    the mean of finding b[i] from a[i] and a[i] from b[i]. Radford et al. 2021, "CLIP".

    The negatives are the examples of this call: with microbatches, or split over devices, there are fewer.

    Args:
        outputs: two embeddings, normalised here, and the log of the learned scale (an inverse
            temperature; CLIP starts at log(1 / 0.07)), which is held to a scale of at most 100.
        targets: what each pair shows. Pairs with the same number are not held against each other; a
            negative number is padding, which is held against nobody and has a loss of 0. None: all differ.

    Raises:
        ValueError: shapes do not fit each other.
        TypeError: the targets are not integers.

    Example:
        >>> losses = contrastive((jnp.eye(2), jnp.eye(2), jnp.zeros(())))  # log(e + 1) - 1
        >>> [round(float(loss), 3) for loss in losses]
        [0.313, 0.313]
    """
    a, b, log_scale = _unpack(outputs, "a", "b", "log_scale")
    batch = checks.shapes(a=(a, "batch d"), b=(b, "batch d"), log_scale=(log_scale, ""))["batch"]
    if targets is not None:
        checks.shapes(targets=(targets, str(batch)))
        checks.dtypes(targets=(targets, jnp.integer))
        # Else a nan in the padding would reach the others' gradients, as zero times nan.
        a, b = (jnp.where(jnp.asarray(targets)[:, None] >= 0, x, 0) for x in (a, b))
    scale = jnp.exp(jnp.minimum(jnp.asarray(log_scale, jnp.float32), jnp.log(100.0)))
    # The scale multiplies what a short product rounds off, so this one is not left to the default precision.
    logits = scale * jnp.matmul(_normalised(a), _normalised(b).T, precision="highest")
    if targets is not None:
        rows, columns = jnp.asarray(targets)[:, None], jnp.asarray(targets)[None, :]
        negatives = (rows != columns) & (rows >= 0) & (columns >= 0)
        logits = jnp.where(negatives | jnp.eye(batch, dtype=bool), logits, -jnp.inf)
    to_b, to_a = (jnp.diagonal(jax.nn.log_softmax(logits, axis=axis)) for axis in (1, 0))
    return -(to_b + to_a) / 2


def in_float32(outputs: Any) -> Any:
    """The outputs of a model as losses and metrics take them: floating leaves of fewer bits become float32.

    Example:
        >>> in_float32({"logits": jnp.zeros(3, jnp.bfloat16), "tokens": jnp.zeros(3, int)})["logits"].dtype
        dtype('float32')
    """
    bits = lambda dtype: jnp.finfo(dtype).bits if jnp.issubdtype(dtype, jnp.floating) else 32
    return jax.tree.map(lambda x: x.astype(jnp.float32) if bits(jnp.result_type(x)) < 32 else x, outputs)


def _cross_entropy(logits, labels, label_smoothing: float, z_loss: float):
    logits = jnp.asarray(logits, jnp.float32)
    log_p = jax.nn.log_softmax(logits)
    values = -_pick(log_p, labels)
    # Added only where asked for, so that a class with a logit of -inf is allowed without.
    if label_smoothing:
        values = (1 - label_smoothing) * values - label_smoothing * jnp.mean(log_p, axis=-1)
    if z_loss:
        values = values + z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2
    return values


def _pick(values, labels):
    labels = jnp.asarray(labels, jnp.int32)
    labels = jnp.where(labels < 0, values.shape[-1], labels)  # else -1 would be the last class
    return jnp.take_along_axis(values, labels[..., None], axis=-1, mode="fill")[..., 0]


def _normalised(x):
    x = jnp.asarray(x, jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), 1e-24))


def _unpack(outputs: Any, *names: str) -> tuple:
    if not isinstance(outputs, tuple | list) or len(outputs) != len(names):
        came = f"{len(outputs)} values" if isinstance(outputs, tuple | list) else checks.describe(outputs)
        raise ValueError(f"outputs: came {came}, wanted a tuple ({', '.join(names)})")
    return tuple(map(jnp.asarray, outputs))


def _check_smoothing(label_smoothing: float, z_loss: float) -> None:
    checks.at_least(0, label_smoothing=label_smoothing, z_loss=z_loss)
    if label_smoothing >= 1:
        raise ValueError(f"label_smoothing: came {label_smoothing}, wanted a number in [0, 1)")
