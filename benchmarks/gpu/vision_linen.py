"""A ViT in Linen, computed in bfloat16 from float32 parameters."""

import functools

import cases
import jax
import jax.numpy as jnp
from flax import linen as nn

BF16 = jnp.bfloat16


class Block(nn.Module):
    """A layer of the transformer, norms first."""

    heads: int
    attention: str

    @nn.compact
    def __call__(self, x):
        size = x.shape[-1]
        dense = functools.partial(nn.Dense, dtype=BF16)
        norm = functools.partial(nn.LayerNorm, dtype=BF16)
        split = lambda y: y.reshape(*y.shape[:2], self.heads, size // self.heads)
        q, k, v = map(split, jnp.split(dense(3 * size)(norm()(x)), 3, axis=-1))
        y = jax.nn.dot_product_attention(q, k, v, implementation=self.attention)
        x = x + dense(size)(y.reshape(x.shape))
        return x + dense(size)(nn.gelu(dense(4 * size)(norm()(x))))


class ViT(nn.Module):
    """Patches, layers, the mean over the patches."""

    case: cases.Vit
    attention: str

    @nn.compact
    def __call__(self, images, train=False):
        size, patch = self.case.features, (self.case.patch,) * 2
        x = nn.Conv(size, patch, patch, dtype=BF16)(images.astype(BF16))
        x = x.reshape(x.shape[0], -1, size)
        positions = self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], size))
        x = x + positions.astype(BF16)
        for _ in range(self.case.layers):
            x = Block(self.case.heads, self.attention)(x)
        x = nn.LayerNorm(dtype=BF16)(x).mean(axis=1)
        return nn.Dense(cases.CLASSES, dtype=BF16)(x).astype(jnp.float32)
