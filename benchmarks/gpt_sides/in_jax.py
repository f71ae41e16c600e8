"""The small GPT in JAX, for benchmarks/gpt.py: `in_jax.py naive`, `library`, `options`, `by_hand` or `roof`."""

import os
import sys

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import common
import jax
import jax.numpy as jnp
import optax

from jaxkit import means, models, parallel, updates
from jaxkit.runs import memory

# What XLA on a CPU takes for a product that stands alone: Eigen, not YNNPACK.
OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def naive(params, tokens):
    """As one writes it: products over three axes, the whole square of the attention, what jax derives."""

    def norm(p, x):
        x = x - x.mean(-1, keepdims=True)
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]

    dense = lambda p, x: x @ p["kernel"] + p["bias"]
    x = params["embedding"][tokens] + params["positions"]
    for i in range(common.LAYERS):
        block = params[f"block_{i}"]
        y = norm(block["attention_norm"], x)
        q, k, v = (
            dense(block["attention"][name], y).reshape(*y.shape[:2], common.HEADS, -1)
            for name in ("query", "key", "value")
        )
        scores = jnp.einsum("bqnh,bknh->bnqk", q, k) / q.shape[-1] ** 0.5
        seen = jnp.tril(jnp.ones((common.LENGTH, common.LENGTH), bool))
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
        y = jnp.einsum("bnqk,bknh->bqnh", weights, v).reshape(x.shape)
        x = x + dense(block["attention"]["output"], y)
        y = dense(block["mlp"]["up"], norm(block["mlp_norm"], x))
        x = x + dense(block["mlp"]["down"], jax.nn.gelu(y))
    return norm(params["norm"], x) @ params["embedding"].T


def made(compiler_options=None):
    """The library's model, objective, update and layout: the compiled update, and what it is called with."""
    model = models.transformer(
        vocabulary_size=common.VOCABULARY,
        max_length=common.LENGTH,
        num_layers=common.LAYERS,
        num_heads=common.HEADS,
        features=common.FEATURES,
    )

    def objective(params, extra, batch, key):
        logits, extra = model.apply(params, extra, batch["tokens"][:, :-1], key=key, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["tokens"][:, 1:])
        return means.mean(losses.mean(axis=1)), ({}, extra)

    layout, tuned = parallel.jit(compiler_options=compiler_options), optimizer()
    update = layout.compile(updates.step(updates.gradients(objective), tuned))
    state = layout.put_state(updates.init_state(jax.tree.map(jnp.asarray, common.parameters()), {}, tuned))
    return update, state, {"tokens": common.tokens()}, jax.random.key(0)


def library(compiler_options=None):
    """A step of it."""
    update, state, batch, key = made(compiler_options)

    def step():
        nonlocal state
        state, metrics = update(state, batch, key)
        return metrics["loss"].compute()

    return step


def optimizer():
    """AdamW as in PyTorch."""
    b1, b2 = common.BETAS
    return optax.adamw(common.LEARNING_RATE, b1=b1, b2=b2, eps=common.EPSILON, weight_decay=common.WEIGHT_DECAY)


def plain(apply, compiler_options=None):
    """A donated jit call a step of a forward pass."""
    tuned = optimizer()

    def loss(params, tokens):
        logits = apply(params, tokens[:, :-1])
        labels = tokens[:, 1:].reshape(logits.shape[:-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def one(params, opt_state, tokens):
        value, grads = jax.value_and_grad(loss)(params, tokens)
        changes, opt_state = tuned.update(grads, opt_state, params)
        return optax.apply_updates(params, changes), opt_state, value

    call = jax.jit(one, donate_argnums=(0, 1), compiler_options=compiler_options)
    params = jax.tree.map(jnp.asarray, common.parameters())
    opt_state, tokens = tuned.init(params), jnp.asarray(common.tokens())

    def step():
        nonlocal params, opt_state
        params, opt_state, value = call(params, opt_state, tokens)
        return value

    return step


def roof(size: int = 1040):
    """One product of square matrices of a size at which no cache set is fought over, as the roof."""
    x = jnp.ones((size, size))
    call = jax.jit(jnp.matmul, compiler_options=OPTIONS)
    return lambda: call(x, x)[0, 0]


def main(side: str) -> None:
    """Answers until stdin ends."""
    if side != "naive":
        memory.keep_freed()
    if side == "by_hand":
        import by_hand

        common.answer(plain(by_hand.apply, OPTIONS))
    sides = {"naive": lambda: plain(naive), "library": library, "options": lambda: library(OPTIONS), "roof": roof}
    common.answer(sides[side]())


if __name__ == "__main__":
    main(sys.argv[1])
