"""Image classification: a model, a loss and an optimizer from the config, on any data of images and labels.

    python experiments/image_classification.py --config=configs/digits.py

Trains with augmentation, keeps an exponential moving average of the parameters, and evaluates the average
on the whole held-out split. Copy this file to start an experiment of your own.
"""

import jax
import jax.numpy as jnp
import optax

from jaxkit import configs, data, metrics, models, objectives, runs, updates
from jaxkit.types import Recipe


def recipe(config) -> Recipe:
    """The experiment, as functions."""
    sources = configs.build(config.data)
    image, label = data.fields(sources, "image", "label")

    model = models.standardized(configs.build(config.model), mean=config.inputs.mean, std=config.inputs.std)
    loss = configs.build(config.loss)
    augment = configs.build(config.augment)
    layout = configs.build(config.layout)
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        configs.build(config.optimizer),
        updates.ema(decay=config.ema_decay),
    )

    objective = objectives.classification(
        model, loss, num_classes=label.num_classes, metrics={"accuracy": metrics.accuracy}, augment=augment
    )
    gradients = updates.gradients(objective)
    gradients = updates.accumulate(gradients, microbatches=config.microbatches)
    gradients = layout.across(gradients)

    def init(key):
        images = jnp.zeros((1, *image.shape), image.dtype)
        params, extra = model.init(key, images)
        return updates.init_state(params, extra, optimizer)

    def predict(params, extra, batch):
        logits, _ = model.apply(params, extra, batch["image"])
        return {"probabilities": jax.nn.softmax(logits)}

    return Recipe(
        data=sources,
        init=init,
        update=updates.step(gradients, optimizer),
        evaluate=objectives.evaluation(
            model,
            optax.softmax_cross_entropy_with_integer_labels,
            metrics={"accuracy": metrics.accuracy, "calibration": metrics.calibration},
        ),
        predict=predict,
        layout=layout,
        picture=runs.picture.classification if config.picture else None,
        steps_per_call=config.steps_per_call,
    )


if __name__ == "__main__":
    runs.main(recipe)
