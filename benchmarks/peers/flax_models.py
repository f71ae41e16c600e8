"""The three models in Linen, as its examples write them."""

import jax.numpy as jnp
from flax import linen as nn
from protocol import FEATURES, HEADS, LAYERS, LENGTH, VOCABULARY


class MLP(nn.Module):
    """64-256-256-10."""

    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(256)(x))
        return nn.Dense(10)(x)


class CNN(nn.Module):
    """Two convolutions with pooling, a hidden layer."""

    @nn.compact
    def __call__(self, x):
        for size in (32, 64):
            x = nn.max_pool(nn.relu(nn.Conv(size, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(128)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(x)


class GPT(nn.Module):
    """A small GPT-2: learned positions, tied embeddings, norms first."""

    @nn.compact
    def __call__(self, tokens):
        normal = nn.initializers.normal(0.02)
        embedding = nn.Embed(VOCABULARY, FEATURES, embedding_init=normal)
        positions = nn.Embed(LENGTH, FEATURES, embedding_init=normal)
        x = embedding(tokens) + positions(jnp.arange(LENGTH)[None])
        mask = nn.make_causal_mask(tokens)
        for _ in range(LAYERS):
            x = x + nn.MultiHeadDotProductAttention(HEADS)(nn.LayerNorm()(x), mask=mask)
            y = nn.gelu(nn.Dense(4 * FEATURES)(nn.LayerNorm()(x)))
            x = x + nn.Dense(FEATURES)(y)
        return embedding.attend(nn.LayerNorm()(x))


MODELS = {"mlp": MLP, "cnn": CNN, "gpt": GPT}
