"""What a kill could spoil, in one experiment: dropout, batch norm, an average of the parameters, accumulation.

python tests/proofs/crash.py --config=tests/proofs/crash_config.py

An epoch is 8 steps, so checkpoints fall on the edges of epochs and between them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jaxkit import configs, data, metrics, objectives, runs, updates
from jaxkit.types import Recipe


class Mlp(nn.Module):
    """Two layers, the first normalised over the batch."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(16)(x)))
        return nn.Dense(2)(nn.Dropout(0.3, deterministic=not train)(x))


def recipe(config) -> Recipe:
    """A classifier of points: is the sum of the first half larger than that of the second?"""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(320, 8)).astype(np.float32)
    labels = (points[:, :4].sum(axis=1) > points[:, 4:].sum(axis=1)).astype(np.int32)
    sources = {
        name: data.arrays(
            {"image": points[rows], "label": labels[rows]}, name="points", split=name, num_classes={"label": 2}
        )
        for name, rows in {"train": slice(0, 256), "test": slice(256, None)}.items()
    }
    model, layout = configs.build(config.model), configs.build(config.layout)
    loss = configs.build(config.loss)
    optimizer = optax.chain(configs.build(config.optimizer), updates.ema(decay=0.9))
    objective = objectives.classification(model, loss, num_classes=2, metrics={"accuracy": metrics.accuracy})
    gradients = updates.accumulate(updates.gradients(objective), microbatches=config.microbatches)
    return Recipe(
        data=sources,
        init=lambda key: updates.init_state(*model.init(key, jnp.zeros((1, 8))), optimizer),
        update=updates.step(layout.across(gradients), optimizer),
        evaluate=objectives.evaluation(model, loss, metrics={"accuracy": metrics.accuracy}),
        predict=lambda p, e, b: {"probabilities": jax.nn.softmax(model.apply(p, e, b["image"])[0])},
        layout=layout,
        steps_per_call=config.steps_per_call,
    )


if __name__ == "__main__":
    runs.main(recipe)
