"""A model and a loss become an objective: what is minimised, and what is measured on the way.

An objective of one's own is a function of the same signature; nothing here is special:

    def objective(params, extra, batch, key):
        outputs, extra = model.apply(params, extra, batch["image"], key=key, train=True)
        losses = loss(outputs, batch["label"])
        return means.mean(losses, batch.get("mask")), ({}, extra)
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxkit import checks, contracts, random
from jaxkit.language import language_evaluation as language_evaluation
from jaxkit.language import language_modelling as language_modelling
from jaxkit.language import next_tokens as next_tokens
from jaxkit.language import token_cross_entropy as token_cross_entropy
from jaxkit.language import vocabulary_of as vocabulary_of
from jaxkit.losses import in_float32
from jaxkit.means import mean
from jaxkit.types import Augmentation, Evaluate, Loss, Metric, Metrics, Model, Objective

__all__ = [
    "classification",
    "evaluation",
    "language_evaluation",
    "language_modelling",
    "next_tokens",
    "regression",
    "token_cross_entropy",
    "vocabulary_of",
]


def classification(
    model: Model,
    loss: Loss,
    *,
    num_classes: int,
    metrics: Mapping[str, Metric] = {},
    augment: Augmentation | None = None,
    inputs: str = "image",
    targets: str = "label",
) -> Objective:
    """The mean loss of a classifier over a batch `{inputs: [batch, ...], targets: i32[batch]}`.

    `metrics` are computed from the training outputs; `augment` is applied first, with a key of its own.

    Raises:
        ValueError: when traced: the logits are not [batch, num_classes], the labels not [batch], a
            metric is called "loss".
        TypeError: when traced: the labels are not integers.

    Example:
        >>> import jax, optax
        >>> from jaxkit import models
        >>> objective = classification(
        ...     models.mlp(num_classes=10), optax.softmax_cross_entropy_with_integer_labels, num_classes=10)
    """
    contracts.model(model)
    contracts.metrics(metrics, "loss")
    if num_classes is None:
        raise TypeError(
            "num_classes: came None, wanted a whole number >= 1; where it is that of the data, say it there:"
            f" data.arrays(..., num_classes={{{targets!r}: 10}})"
        )
    checks.sizes(num_classes=num_classes)

    def objective(params, extra, batch, key):
        checks.fields(batch, inputs, targets)
        outputs, batch, extra = _train(model, params, extra, batch, key, augment, inputs, targets)
        _check_classes(outputs, batch[targets], num_classes)
        value, measured = _measure(outputs, batch, loss, metrics, targets)
        return value, (measured, extra)

    return objective


def regression(
    model: Model,
    loss: Loss,
    *,
    metrics: Mapping[str, Metric] = {},
    augment: Augmentation | None = None,
    inputs: str = "inputs",
    targets: str = "targets",
) -> Objective:
    """The mean loss of a regressor over a batch `{inputs: [batch, ...], targets: f32[batch, ...]}`.

    An elementwise loss (as in optax) is averaged over the axes behind the first.

    Raises:
        ValueError: when traced: outputs and targets differ in shape, a metric is called "loss".

    Example:
        >>> import optax
        >>> from jaxkit import models
        >>> objective = regression(models.mlp(num_classes=1), optax.losses.squared_error)
    """
    contracts.model(model)
    contracts.metrics(metrics, "loss")

    def objective(params, extra, batch, key):
        checks.fields(batch, inputs, targets)
        outputs, batch, extra = _train(model, params, extra, batch, key, augment, inputs, targets)
        _check_same_shape(outputs, batch[targets])
        value, measured = _measure(outputs, batch, loss, metrics, targets)
        return value, (measured, extra)

    return objective


def evaluation(
    model: Model,
    loss: Loss,
    *,
    metrics: Mapping[str, Metric] = {},
    inputs: str = "image",
    targets: str = "label",
) -> Evaluate:
    """The loss and the metrics of a model as it is served: no augmentation, no dropout, nothing learned.

    Returns:
        (params, extra, batch) -> {"loss": Mean, name: additive}.

    Raises:
        ValueError: a metric is called "loss".

    Example:
        >>> import optax
        >>> from jaxkit import metrics, models
        >>> evaluate = evaluation(models.mlp(num_classes=10),
        ...     optax.softmax_cross_entropy_with_integer_labels, metrics={"accuracy": metrics.accuracy})
    """
    contracts.model(model)
    contracts.metrics(metrics, "loss")

    def evaluate(params, extra, batch) -> Metrics:
        checks.fields(batch, inputs, targets)
        outputs, _ = contracts.outputs(model.apply(params, extra, batch[inputs]))
        value, measured = _measure(outputs, batch, loss, metrics, targets)
        return {"loss": value, **measured}

    return evaluate


def _train(model, params, extra, batch, key, augment, inputs, targets):
    if augment is not None:
        given, batch = batch, augment(batch, random.named(key, "augment"))
        _check_augmented(given, batch)
    batch = {**batch, **{name: _unmasked(batch[name], batch.get("mask")) for name in (inputs, targets)}}
    key = random.named(key, "model")
    outputs, extra = contracts.outputs(model.apply(params, extra, batch[inputs], key=key, train=True))
    return outputs, batch, extra


def _unmasked(values: Any, mask: jax.Array | None) -> Any:
    """Numbers of masked examples are 0: no loss sees a nan among them, but each gradient would, as 0 times nan."""
    # What does not fit is for the mean to say.
    if mask is None or jnp.shape(mask) != jnp.shape(values)[:1] or not jnp.issubdtype(values.dtype, jnp.inexact):
        return values
    return jnp.where(jnp.expand_dims(mask, range(1, values.ndim)), values, 0)


def _measure(outputs: Any, batch, loss: Loss, metrics: Mapping[str, Metric], targets: str):
    mask = batch.get("mask")
    # Losses of other libraries compute in the dtype that they are given.
    outputs = in_float32(outputs)
    try:
        values = loss(outputs, batch[targets])
    except (TypeError, ValueError) as error:
        # "Incompatible shapes", says jax, and not of what. Errors with a form of their own stay as they are.
        if type(error) not in (TypeError, ValueError):
            raise
        given = ", ".join(checks.describe(x) for x in (outputs, batch[targets]))
        raise type(error)(f"loss({given}): {error}") from error
    if len(checks.shape_of("loss", values)) > 1:
        # Of outputs [batch, 1] and targets [batch] there would be a value for each of one and each of the other.
        if values.shape not in (jnp.shape(batch[targets]), getattr(outputs, "shape", values.shape)):
            given = " and ".join(checks.describe(x) for x in (outputs, batch[targets]))
            raise ValueError(
                f"loss: came {checks.describe(values)} for {given}, wanted as many values as either has"
            )
        values = jnp.mean(values.reshape(values.shape[0], -1), axis=1)
    contracts.losses(values, batch[targets].shape[:1])
    return mean(values, mask), {name: metric(outputs, batch[targets], mask) for name, metric in metrics.items()}


def _check_augmented(given: Any, batch: Any) -> None:
    """An augmentation gives the fields that it was given, the mask too, each with as many examples."""
    how = "return {**batch, NAME: changed}"
    if not isinstance(batch, Mapping):
        raise TypeError(f"augment: came {checks.describe(batch)}, wanted a batch: {how}")
    for name, values in given.items():
        if name not in batch:
            raise ValueError(f"augment: came the fields {sorted(batch)} without {name!r}: {how}")
        if checks.shape_of(f"augment: {name}", batch[name])[:1] != values.shape[:1]:
            came = checks.describe(batch[name])
            raise ValueError(f"augment: {name}: came {came}, wanted {len(values)} examples, as it was given")


def _check_classes(logits, labels, num_classes: int) -> None:
    checks.shapes(labels=(labels, "batch"))
    try:
        checks.shapes(labels=(labels, "batch"), logits=(logits, f"batch {num_classes}"))
    except ValueError as error:
        raise ValueError(f"{error}; are the classes of config.model those of config.data?") from None
    checks.dtypes(labels=(labels, jnp.integer))


def _check_same_shape(outputs, targets) -> None:
    if outputs.shape != targets.shape:
        alone = outputs.shape == (*targets.shape, 1)
        how = "; targets[:, None] in the data gives them that axis" if alone else ""
        raise ValueError(
            f"outputs: came {checks.describe(outputs)}, wanted the targets' shape {targets.shape}{how}"
        )
