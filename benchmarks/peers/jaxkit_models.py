"""The three models of jaxkit and their optimizers."""

import optax
from protocol import FEATURES, HEADS, LAYERS, LEARNING_RATE, LENGTH, VOCABULARY, WEIGHT_DECAY

from jaxkit import models
from jaxkit.types import Model


def model(case: str) -> Model:
    """The model of a case."""
    if case == "mlp":
        return models.mlp(num_classes=10, features=(256, 256))
    if case == "cnn":
        return models.cnn(num_classes=10, features=(32, 64))
    return models.transformer(
        vocabulary_size=VOCABULARY, max_length=LENGTH, num_layers=LAYERS, num_heads=HEADS, features=FEATURES
    )


def optimizer(case: str) -> optax.GradientTransformation:
    """Adam, or for the GPT AdamW."""
    if case == "gpt":
        return optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    return optax.adam(LEARNING_RATE)
