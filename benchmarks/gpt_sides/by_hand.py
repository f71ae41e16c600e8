"""The forward pass that was fastest on a CPU, written for this one size; its gradients are partly its own."""

import math

import common
import jax
import jax.numpy as jnp
import numpy as np

HEAD = common.FEATURES // common.HEADS
SCALE = math.sqrt(2 / math.pi)
CUTS = ((0, common.LENGTH // 2), (common.LENGTH // 2, common.LENGTH))
UNSEEN = np.where(np.tril(np.ones((common.LENGTH, common.LENGTH), bool)), 0, -1e9).astype(np.float32)
# Keeps XLA from computing the sum of all layers before anew wherever it is read.
apart = jax.lax.optimization_barrier


@jax.custom_vjp
def norm(x, scale, bias):
    """A layer norm whose backward pass has its sums side by side."""
    return _norm_forward(x, scale, bias)[0]


def _norm_forward(x, scale, bias):
    mean = x.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + 1e-5)
    return (x - mean) * inverse * scale + bias, (x, mean, inverse, scale)


def _norm_backward(saved, gradient):
    x, mean, inverse, scale = saved
    y = (x - mean) * inverse
    to_y = gradient * scale
    shared = to_y.mean(-1, keepdims=True) + y * (to_y * y).mean(-1, keepdims=True)
    return inverse * (to_y - shared), (gradient * y).sum(0), gradient.sum(0)


norm.defvjp(_norm_forward, _norm_backward)


@jax.custom_vjp
def gelu(x):
    """The form with tanh, which is computed again in the backward pass rather than kept."""
    return 0.5 * x * (1 + jnp.tanh(SCALE * (x + 0.044715 * x * x * x)))


def _gelu_backward(x, gradient):
    t = jnp.tanh(SCALE * (x + 0.044715 * x * x * x))
    return (gradient * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * SCALE * (1 + 3 * 0.044715 * x * x)),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


@jax.custom_vjp
def attend(q, k, v):
    """Causal attention of [batch x heads, length, head], q scaled, in two halves of the queries."""
    return _attend_forward(q, k, v)[0]


def _attend_forward(q, k, v):
    kept, outputs = [], []
    for begin, end in CUTS:
        scores = jnp.einsum("bqh,bkh->bqk", q[:, begin:end], k[:, :end]) + UNSEEN[begin:end, :end]
        weights = jnp.exp(scores - scores.max(-1, keepdims=True))
        inverse = 1 / weights.sum(-1, keepdims=True)
        outputs.append(jnp.einsum("bqk,bkh->bqh", weights, v[:, :end]) * inverse)
        kept.append((weights, inverse))
    output = jnp.concatenate(outputs, axis=1)
    return output, (q, k, v, output, kept)


def _attend_backward(saved, gradient):
    q, k, v, output, kept = saved
    to_q, to_k, to_v = [], jnp.zeros_like(k), jnp.zeros_like(v)
    for (begin, end), (weights, inverse) in zip(CUTS, kept):
        scaled = gradient[:, begin:end] * inverse
        shared = (scaled * output[:, begin:end]).sum(-1, keepdims=True)
        to_scores = weights * (jnp.einsum("bqh,bkh->bqk", scaled, v[:, :end]) - shared)
        to_q.append(jnp.einsum("bqk,bkh->bqh", to_scores, k[:, :end]))
        rest = ((0, 0), (0, common.LENGTH - end), (0, 0))
        to_v += jnp.pad(jnp.einsum("bqk,bqh->bkh", weights, scaled), rest)
        to_k += jnp.pad(jnp.einsum("bqk,bqh->bkh", to_scores, q[:, begin:end]), rest)
    return jnp.concatenate(to_q, axis=1), to_k, to_v


attend.defvjp(_attend_forward, _attend_backward)


def apply(params, tokens):
    """Logits [batch x length, vocabulary]: every product is one of two axes."""
    dense = lambda p, x: x @ p["kernel"] + p["bias"]
    x = params["embedding"][tokens] + params["positions"]
    x = apart(x.reshape(-1, common.FEATURES))
    for i in range(common.LAYERS):
        block = params[f"block_{i}"]
        x = apart(x + _attention(block["attention"], norm(x, **block["attention_norm"])))
        # 16 inner features of zeros: rows of 4,096 bytes would all fall on one set of the cache.
        up = jax.tree.map(lambda w: jnp.pad(w, [(0, 0)] * (w.ndim - 1) + [(0, 16)]), block["mlp"]["up"])
        down = {**block["mlp"]["down"], "kernel": jnp.pad(block["mlp"]["down"]["kernel"], ((0, 16), (0, 0)))}
        x = apart(x + dense(down, gelu(dense(up, norm(x, **block["mlp_norm"])))))
    return norm(x, **params["norm"]) @ params["embedding"].T


def _attention(params, x):
    # The three projections as one product.
    join = lambda part: jnp.concatenate([params[name][part] for name in ("query", "key", "value")], axis=-1)
    heads = (x @ join("kernel") + join("bias")).reshape(common.BATCH, common.LENGTH, 3, common.HEADS, HEAD)
    q, k, v = heads.transpose(2, 0, 3, 1, 4).reshape(3, -1, common.LENGTH, HEAD)
    y = attend(apart(q / math.sqrt(HEAD)), apart(k), apart(v))
    y = y.reshape(common.BATCH, common.HEADS, common.LENGTH, HEAD).transpose(0, 2, 1, 3).reshape(x.shape)
    return y @ params["output"]["kernel"] + params["output"]["bias"]
