"""Keras on JAX: compile and fit. The variant is how many steps one execution takes."""

import os
import time

os.environ["KERAS_BACKEND"] = "jax"
began = time.perf_counter()

import keras  # noqa: E402
import numpy as np  # noqa: E402

imports = time.perf_counter() - began

import protocol  # noqa: E402
from protocol import FEATURES, HEADS, LAYERS, LENGTH, VOCABULARY  # noqa: E402


class TiedOutput(keras.layers.Layer):
    """Logits by the kernel of the embedding."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.embedding.embeddings))


class Positions(keras.layers.Layer):
    """Adds an embedding of the places: outside of a layer Keras would take it for a constant."""

    def __init__(self, initializer):
        super().__init__()
        self.table = self.add_weight(shape=(LENGTH, FEATURES), initializer=initializer, name="table")

    def call(self, x):
        return x + self.table


def gpt():
    """A small GPT-2, norms first."""
    layers = keras.layers
    norm = lambda: layers.LayerNormalization(epsilon=1e-5)
    gelu = lambda x: keras.activations.gelu(x, approximate=True)
    normal = keras.initializers.RandomNormal(stddev=0.02)
    embedding = layers.Embedding(VOCABULARY, FEATURES, embeddings_initializer=normal)
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = Positions(normal)(embedding(inputs))
    for _ in range(LAYERS):
        y = norm()(x)
        x = x + layers.MultiHeadAttention(HEADS, FEATURES // HEADS)(y, y, use_causal_mask=True)
        y = layers.Dense(4 * FEATURES, activation=gelu)(norm()(x))
        x = x + layers.Dense(FEATURES)(y)
    return keras.Model(inputs, TiedOutput(embedding)(norm()(x)))


def model_of(case):
    """The model of a case."""
    layers = keras.layers
    if case == "gpt":
        return gpt()
    if case == "mlp":
        hidden = [layers.Flatten(), layers.Dense(256, activation="relu"), layers.Dense(256, activation="relu")]
        return keras.Sequential([keras.Input((8, 8, 1)), *hidden, layers.Dense(10)])
    convolutions = [
        part
        for size in (32, 64)
        for part in (layers.Conv2D(size, 3, padding="same", activation="relu"), layers.MaxPooling2D(2))
    ]
    head = [layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(10)]
    return keras.Sequential([keras.Input((8, 8, 1)), *convolutions, *head])


class Rounds(keras.callbacks.Callback):
    """Tells the driver of every execution, where the next begins: a hook at its end would make Keras wait."""

    def __init__(self, on_step, steps):
        super().__init__()
        self.on_step, self.steps, self.started = on_step, steps, False

    def on_train_batch_begin(self, batch, logs=None):
        if self.started:
            self.on_step(self.loss, self.steps)
        self.started = True

    def loss(self):
        """The mean loss of the epoch so far; waits for the parameters of the newest step."""
        import jax

        state = jax.block_until_ready(self.model._jax_state)
        total, count = state["metrics_variables"][:2]
        return total / count


def main():
    case, variant, arrays = protocol.arguments()
    keras.utils.set_random_seed(0)
    model = model_of(case)
    if case == "gpt":
        optimizer = keras.optimizers.AdamW(protocol.LEARNING_RATE, weight_decay=protocol.WEIGHT_DECAY)
    else:
        optimizer = keras.optimizers.Adam(protocol.LEARNING_RATE, epsilon=1e-8)
        # An epoch of 11 steps would cost it half as much again.
        arrays = tuple(np.concatenate([array] * 100) for array in arrays)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, steps_per_execution=int(variant))
    on_step = protocol.session(
        parameters=model.count_params(),
        dtype=model.trainable_variables[0].dtype,
        imports=imports,
        packages=("keras", "jax"),
    )
    rounds = Rounds(on_step, int(variant))
    model.fit(*arrays, batch_size=protocol.BATCH[case], epochs=1_000_000, verbose=0, callbacks=[rounds])


main()
