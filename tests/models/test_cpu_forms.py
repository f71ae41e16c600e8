"""The forms that a transformer takes on a CPU to be fast give the numbers of the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit.models import attention


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("length", [1, 2, 7, 10])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_in_halves_is_attention(length, kv_heads):
    """Odd lengths, one token and shared heads, with their gradients, against jax's own."""
    heads = draw(2, length, 4, 8), draw(2, length, kv_heads, 8), draw(3, length, kv_heads, 8)[:2]

    def plain(*heads):
        return jax.nn.dot_product_attention(*heads, is_causal=True, implementation="xla")

    def total(attend):
        return lambda *heads: jnp.sum(jnp.sin(attend(*heads)))

    np.testing.assert_allclose(attention._in_halves(*heads), plain(*heads), atol=1e-6)
    found = jax.grad(total(attention._in_halves), (0, 1, 2))(*heads)
    for one, other in zip(found, jax.grad(total(plain), (0, 1, 2))(*heads)):
        np.testing.assert_allclose(one, other, atol=2e-6)
