"""The forms that models take on a CPU to be fast give the numbers of the plain ones."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit.models import attention, feedforward, layers


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


def check_derivatives(function, plain, *arguments):
    """The same values, gradients, and gradients' own directional derivatives: those rules are written by hand."""

    def derivatives(function):
        total = lambda *arguments: jnp.sum(jnp.sin(function(*arguments)))
        each = tuple(range(len(arguments)))
        along = tuple(jnp.flip(x) for x in arguments)
        return jax.jit(lambda *x: (function(*x), *jax.jvp(jax.grad(total, each), x, along)))(*arguments)

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, derivatives(function), derivatives(plain))


@pytest.mark.parametrize(("length", "kv_heads"), [(1, 4), (2, 1), (7, 2)])
def test_attention_in_halves_is_attention(length, kv_heads):
    """Odd lengths, one token and shared heads, against jax's own."""
    heads = draw(2, length, 4, 8), draw(2, length, kv_heads, 8), draw(3, length, kv_heads, 8)[:2]
    plain = lambda *heads: jax.nn.dot_product_attention(*heads, is_causal=True, implementation="xla")
    check_derivatives(attention._plain, plain, *heads)


def test_attention_multiplies_matrices():
    """Rows and columns beside batch and heads, backward too: with an axis more, XLA copies what it multiplies."""
    heads = draw(2, 8, 4, 8), draw(2, 8, 2, 8), draw(2, 8, 2, 8)
    total = lambda *heads: jnp.sum(attention._plain(*heads))
    program = jax.jit(jax.grad(total, (0, 1, 2))).lower(*heads).as_text()
    shapes = re.findall(r"dot_general.*: \(tensor<([0-9x]+)xf32>, tensor<([0-9x]+)xf32>\)", program)
    assert shapes
    assert all(shape.count("x") == 3 for pair in shapes for shape in pair), shapes


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_a_norm_has_the_derivatives_of_what_is_written(norm):
    def plain(x):
        x = x - x.mean(axis=-1, keepdims=True) if norm == "layer" else x
        return x / jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + layers.EPSILON)

    check_derivatives(lambda x: layers.normalize({"scale": jnp.ones(8)}, x, norm=norm), plain, draw(3, 5, 8))


@pytest.mark.parametrize(("activation", "bias"), [("gelu", True), ("swiglu", False)])
def test_inner_features_of_zeros_change_nothing(activation, bias):
    """An MLP of 1,024 inner features is given 16 more; its gradients keep their shapes and numbers."""
    names = ("up", "down") if activation == "gelu" else ("up", "down", "gate")
    shapes = {"up": (3, 1024), "gate": (3, 1024), "down": (1024, 3)}
    # Small, so that the outputs are of the size of one and rounding stays small beside them.
    params = {name: {"kernel": draw(*shapes[name]) / 32} for name in names}
    if bias:
        params = {name: {**layer, "bias": draw(layer["kernel"].shape[1])} for name, layer in params.items()}
    x = draw(4, 3)
    assert layers._off_the_page(params, rows=4)["up"]["kernel"].shape == (3, 1040)
    assert layers._off_the_page(params, rows=2)["up"]["kernel"].shape == (3, 1024)

    @jax.jit
    @jax.value_and_grad
    def total(params, x):
        return jnp.sum(jnp.sin(layers.mlp(params, x, activation=activation)))

    # The plain form is what few rows get: one row at a time.
    found = total(params, x)
    ones = [total(params, row[None]) for row in x]
    summed = jax.tree.map(lambda *parts: sum(parts), *ones)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, summed)


@pytest.mark.parametrize("columns", [1, 3, 20])
def test_a_layer_of_few_columns_is_a_product(columns):
    layer = lambda kernel, x: feedforward._dense({"kernel": kernel, "bias": jnp.ones(columns)}, x)
    plain = lambda kernel, x: x @ kernel + 1
    kernel, x = draw(8, columns), draw(4, 8)
    check_derivatives(layer, plain, kernel, x)
    # Kernels side by side, as an ensemble has them.
    check_derivatives(jax.vmap(layer), jax.vmap(plain), jnp.stack([kernel, 2 * kernel]), jnp.stack([x, -x]))


def test_the_gradient_of_few_columns_is_a_product_into_long_rows():
    """A sum over the batch into [3, 8], turned afterwards: into [8, 3] XLA on a CPU is slow."""
    loss = lambda kernel, x: jnp.sum(jnp.sin(feedforward._dense({"kernel": kernel, "bias": jnp.ones(3)}, x)))
    program = jax.jit(jax.grad(loss)).lower(draw(8, 3), draw(4, 8)).compile().as_text()
    assert re.search(r"f32\[3,8\]\S* dot\(", program), program
    assert not re.search(r"f32\[8,3\]\S* dot\(", program), program
