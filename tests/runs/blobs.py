"""A small experiment, for tests that start real processes: --config=tests/runs/blobs_config.py."""

import itertools
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxkit import configs, data, metrics, objectives, runs, updates
from jaxkit.runs import tracking
from jaxkit.types import Examples, Recipe


def sources(*, in_memory: bool):
    """Images of 8 x 8 in which the brighter half is to be named; from memory, or read batch by batch."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(300, 8, 8, 1)).astype(np.float32) * np.float32(os.environ.get("BLOBS_SCALE", 1))
    labels = (images[:, :4].sum(axis=(1, 2, 3)) > images[:, 4:].sum(axis=(1, 2, 3))).astype(np.int32)
    found = {}
    for name, rows in {"train": slice(0, 250), "test": slice(250, None)}.items():
        source = data.arrays(
            {"image": images[rows], "label": labels[rows]}, name="blobs", split=name, num_classes={"label": 2}
        )
        found[name] = source if in_memory else source._replace(open=lambda source=source: on_disk(source.open()))
    return found


def on_disk(examples: Examples) -> Examples:
    """The same, as if it were too large for memory; it notes how many rows are read.

    If asked to it hangs: for ever, or until there is such a file.
    """
    noted, hangs_after = os.environ.get("BLOBS_NOTED"), int(os.environ.get("BLOBS_HANG_AFTER", "-1"))
    count, until = itertools.count(), Path(os.environ.get("BLOBS_HANG_UNTIL", "/nowhere"))

    def read(indices):
        if next(count) == hangs_after:
            while not until.exists():
                time.sleep(0.05)
        if noted:
            with Path(noted).open("a") as file:
                file.write(f"{len(indices)}\n")
        return examples.read(indices)

    return examples._replace(arrays=None, read=read)


def recipe(config) -> Recipe:
    """A classifier with dropout and an average of its parameters."""
    model, layout = configs.build(config.model), configs.build(config.layout)
    loss = optax.softmax_cross_entropy_with_integer_labels
    optimizer = optax.chain(configs.build(config.optimizer), updates.ema(decay=0.9))
    objective = objectives.classification(model, loss, num_classes=2, metrics={"accuracy": metrics.accuracy})
    return Recipe(
        data=sources(in_memory=config.in_memory),
        init=lambda key: updates.init_state(*model.init(key, jnp.zeros((1, 8, 8, 1))), optimizer),
        update=updates.step(layout.across(updates.gradients(objective)), optimizer),
        evaluate=objectives.evaluation(model, loss, metrics={"accuracy": metrics.accuracy}),
        predict=lambda p, e, b: {"probabilities": jax.nn.softmax(model.apply(p, e, b["image"])[0])},
        layout=layout,
        picture=runs.picture.classification,
        steps_per_call=config.steps_per_call,
    )


if __name__ == "__main__":
    tracking.SECONDS_ALONE = float(os.environ.get("BLOBS_ALONE", tracking.SECONDS_ALONE))
    runs.main(recipe)
