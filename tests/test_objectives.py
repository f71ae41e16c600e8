"""Objectives: what is minimised and what is measured on the way, against numbers derived by hand."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxkit import data, losses, metrics, objectives
from jaxkit.types import Model

LOG2 = np.log(2.0)


def scaled():
    """The inputs times a parameter, and 10 times that in evaluation, so that the two can be told apart."""

    def apply(params, extra, inputs, *, key=None, train=False):
        return inputs * params * (1 if train else 10), {"seen": extra["seen"] + train}

    return Model(lambda key, inputs: (jnp.ones(()), {"seen": 0}), apply)


def value_of(objective, batch, params=1.0):
    """(total and count of the loss, {name: (total, count)}, extra) of one call."""
    loss, (measured, extra) = objective(jnp.float32(params), {"seen": 3}, batch, jax.random.key(0))
    as_numbers = lambda mean: (float(mean.total), float(mean.count))
    return as_numbers(loss), {name: as_numbers(mean) for name, mean in measured.items()}, extra


# p = (1/2, 1/4, 1/4) each: the loss is log 2 where the label is 0, else 2 log 2; the first class is named.
LOGITS = np.log([[0.5, 0.25, 0.25]] * 4).astype(np.float32)
LABELS = np.array([0, 1, 0, 2], np.int32)
MASK = np.array([True, True, False, True])


def classified(**changes):
    return {"num_classes": 3, "metrics": {"accuracy": metrics.accuracy}} | changes


def test_classification_by_hand_with_a_mask():
    objective = objectives.classification(scaled(), losses.cross_entropy, **classified())
    loss, measured, extra = value_of(objective, {"image": LOGITS, "label": LABELS, "mask": MASK})
    # Of the first, second and fourth: log 2 + 2 log 2 + 2 log 2, and one of them is right.
    assert loss == (pytest.approx(5 * LOG2, rel=1e-6), 3)
    assert measured == {"accuracy": (1, 3)}
    assert extra == {"seen": 4}
    loss, measured, _ = value_of(objective, {"image": LOGITS, "label": LABELS})
    assert loss == (pytest.approx(6 * LOG2, rel=1e-6), 4)
    assert measured == {"accuracy": (2, 4)}


def test_classification_takes_its_metrics_and_fields_by_argument():
    second = lambda outputs, targets, mask: metrics.top_k(outputs, targets, mask, k=2)
    objective = objectives.classification(
        scaled(),
        losses.cross_entropy,
        num_classes=3,
        metrics={"a": metrics.accuracy, "b": second},
        inputs="x",
        targets="y",
    )
    # Of equal logits the first counts: class 1 is among the two largest, class 2 is not.
    assert value_of(objective, {"x": LOGITS, "y": LABELS, "mask": MASK})[1] == {"a": (1, 3), "b": (2, 3)}
    without = objectives.classification(scaled(), losses.cross_entropy, num_classes=3)
    assert value_of(without, {"image": LOGITS, "label": LABELS})[1] == {}


def test_an_augmentation_comes_before_the_model_with_a_key_of_its_own():
    keys = []

    def augment(batch, key):
        keys.append(key)
        return batch | {"label": jnp.zeros_like(batch["label"])}

    objective = objectives.classification(scaled(), losses.cross_entropy, **classified(augment=augment))
    # All labels are 0 now: what is measured is what was trained on.
    assert value_of(objective, {"image": LOGITS, "label": LABELS})[1] == {"accuracy": (4, 4)}
    assert not np.array_equal(jax.random.key_data(keys[0]), jax.random.key_data(jax.random.key(0)))


# Two targets each: squared errors (1, 4), (9, 16), (0, 0), (25, 36).
TARGETS = np.array([[1, 2], [3, 4], [0, 0], [5, 6]], np.float32)
ERRORS = {"error": metrics.squared_error, "absolute": metrics.absolute_error}


def test_regression_on_several_targets_by_hand_with_a_mask():
    objective = objectives.regression(scaled(), optax.losses.squared_error, metrics=ERRORS)
    batch = {"inputs": np.zeros((4, 2), np.float32), "targets": TARGETS}
    loss, measured, extra = value_of(objective, batch | {"mask": MASK})
    # The mean over the two of each example, so one example counts once: 2.5 + 12.5 + 30.5 over three.
    assert loss == (45.5, 3)
    mean = lambda name: measured[name][0] / measured[name][1]
    assert mean("error") == pytest.approx((1 + 4 + 9 + 16 + 25 + 36) / 6)
    assert mean("absolute") == pytest.approx((1 + 2 + 3 + 4 + 5 + 6) / 6)
    assert extra == {"seen": 4}
    assert value_of(objective, batch)[0] == (45.5, 4)


def test_the_gradient_of_a_regression_is_that_of_its_mean():
    objective = objectives.regression(scaled(), optax.losses.squared_error)
    batch = {"inputs": TARGETS, "targets": np.zeros_like(TARGETS), "mask": MASK}
    total = lambda params: objective(params, {"seen": 3}, batch, jax.random.key(0))[0].total
    # The total is 45.5 params^2, so its slope at 3 is 2 * 3 * 45.5.
    assert float(jax.grad(total)(3.0)) == pytest.approx(273)


@pytest.mark.parametrize("field", ["inputs", "targets"])
def test_a_masked_nan_reaches_no_gradient(field):
    """A target that is missing is written as nan, and masked."""
    objective = objectives.regression(scaled(), optax.losses.squared_error)
    batch = {"inputs": TARGETS.copy(), "targets": np.zeros_like(TARGETS), "mask": MASK}
    batch[field][~MASK] = np.nan
    total = lambda params: objective(params, {"seen": 3}, batch, jax.random.key(0))[0].total
    assert float(jax.grad(total)(3.0)) == pytest.approx(273)


def test_a_loss_of_each_output_beside_each_target_is_refused():
    # As jax broadcasts by default.
    squares = lambda outputs, targets: (outputs - targets[None]) ** 2
    evaluate = objectives.evaluation(scaled(), squares, inputs="inputs", targets="targets")
    batch = {"inputs": TARGETS[:, :1], "targets": TARGETS[:, 0]}
    with pytest.raises(
        ValueError, match=r"loss: came float32\[4,4\] for float32\[4,1\] and float32\[4\], wanted as"
    ):
        evaluate(jnp.ones(()), {"seen": 3}, batch)
    # One of each class is one, whatever shape the targets have.
    by_class = lambda logits, labels: optax.sigmoid_binary_cross_entropy(logits, jax.nn.one_hot(labels, 3))
    evaluate = objectives.evaluation(scaled(), by_class)
    assert float(evaluate(jnp.ones(()), {"seen": 3}, {"image": LOGITS, "label": LABELS})["loss"].compute()) > 0


def test_evaluation_measures_the_model_as_it_is_served():
    evaluate = objectives.evaluation(
        scaled(), optax.losses.squared_error, metrics=ERRORS, inputs="inputs", targets="targets"
    )
    batch = {"inputs": TARGETS, "targets": np.zeros_like(TARGETS), "mask": MASK}
    found = evaluate(jnp.ones(()), {"seen": 3}, batch)
    assert set(found) == {"loss", "error", "absolute"}
    # Ten times the outputs of training: a hundred times the squares.
    assert float(found["loss"].compute()) == pytest.approx(4550 / 3)
    assert float(found["error"].compute()) == pytest.approx(9100 / 6)


# Labels, changes of the arguments -> what is said.
WRONG = {
    "more classes than are named": (
        LABELS,
        {"num_classes": 5},
        ValueError,
        r"logits: came float32\[4,3\], wanted shape \[batch, 5\].*; are the classes of config.model those of",
    ),
    "a column of labels": (LABELS[:, None], {}, ValueError, r"labels: came int32\[4,1\], wanted shape \[batch\]"),
    "fewer labels": (
        LABELS[:3],
        {},
        ValueError,
        r"logits: came float32\[4,3\], wanted shape \[batch, 3\], batch=3",
    ),
    "labels that are no integers": (
        LABELS.astype(np.float32),
        {},
        TypeError,
        r"labels: came float32\[4\], wanted dtype integer",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_classification_refuses_what_does_not_fit(name):
    labels, changes, error, message = WRONG[name]
    # A loss that takes anything: the check is the objective's own.
    anything = lambda logits, labels: jnp.zeros(len(logits))
    objective = objectives.classification(scaled(), anything, **({"num_classes": 3} | changes))
    with pytest.raises(error, match=message):
        value_of(objective, {"image": LOGITS, "label": labels})


@pytest.mark.parametrize("shape", [(4,), (4, 1), (3, 2)])
def test_regression_refuses_targets_of_another_shape(shape):
    # Without the check a column would be broadcast against a row, and the loss be of all pairs.
    objective = objectives.regression(scaled(), optax.losses.squared_error)
    batch = {"inputs": np.zeros((4, 2), np.float32), "targets": np.zeros(shape, np.float32)}
    wanted = r"outputs: came float32\[4,2\], wanted the targets' shape \(" + str(shape[0])
    with pytest.raises(ValueError, match=wanted):
        value_of(objective, batch)
    if shape == (4,):
        with pytest.raises(ValueError, match=r"shape \(4,\); targets\[:, None\] in the data gives them that axis"):
            value_of(objective, {**batch, "inputs": np.zeros((4, 1), np.float32)})


def test_a_loss_that_is_not_per_example_is_refused():
    objective = objectives.regression(scaled(), lambda outputs, targets: jnp.mean(outputs - targets))
    batch = {"inputs": TARGETS, "targets": TARGETS}
    with pytest.raises(ValueError, match=r"loss: came float32\[\], wanted shape \[4\]"):
        value_of(objective, batch)


MAKERS = {
    "classification": lambda **more: objectives.classification(
        scaled(), losses.cross_entropy, num_classes=3, **more
    ),
    "regression": lambda **more: objectives.regression(scaled(), optax.losses.squared_error, **more),
    "evaluation": lambda **more: objectives.evaluation(scaled(), losses.cross_entropy, **more),
}


@pytest.mark.parametrize("name", MAKERS)
def test_no_metric_may_take_the_name_of_the_loss(name):
    with pytest.raises(ValueError, match="metrics: came one called 'loss', which is measured anyway"):
        MAKERS[name](metrics={"loss": metrics.accuracy})


@pytest.mark.parametrize(
    "given", [[metrics.accuracy], metrics.accuracy, {"accuracy": "accuracy"}, {3: metrics.accuracy}]
)
@pytest.mark.parametrize("name", MAKERS)
def test_metrics_are_functions_by_name(name, given):
    with pytest.raises(TypeError, match=r"metrics: came \w+, wanted {name: function}"):
        MAKERS[name](metrics=given)


@pytest.mark.parametrize("name", MAKERS)
def test_a_metric_takes_the_mask_too(name):
    message = r"metrics: 'error' cannot be called with \(outputs, targets, mask\): too many positional arguments"
    with pytest.raises(TypeError, match=message):
        MAKERS[name](metrics={"error": lambda outputs, targets: None})
    with pytest.raises(TypeError, match=r"'top_k' .* missing a required .*argument: 'k'; .* functools\.partial"):
        MAKERS[name](metrics={"top_k": metrics.top_k})


def test_a_linen_module_is_no_model_yet():
    with pytest.raises(TypeError, match=r"model: came Dense, wanted a Model; .*from_linen\(module\) makes one"):
        objectives.evaluation(nn.Dense(3), losses.cross_entropy)
    with pytest.raises(TypeError, match="model: came function, wanted a Model, such as"):
        objectives.regression(lambda inputs: inputs, optax.losses.squared_error)


def test_a_model_that_returns_its_outputs_alone_is_named():
    # Two examples: unpacked, the first would be the outputs.
    model = scaled()._replace(apply=lambda params, extra, inputs, *, key=None, train=False: inputs)
    evaluate = objectives.evaluation(model, losses.cross_entropy)
    with pytest.raises(TypeError, match=r"model.apply: came float32\[2,3\], wanted \(outputs, extra\)"):
        evaluate(jnp.ones(()), {}, {"image": LOGITS[:2], "label": LABELS[:2]})


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda outputs, targets: 1.0, "loss: came 1.0 (float), wanted shape [4]"),
        (lambda outputs, targets: None, "loss: came NoneType, wanted an array"),
        # Its gradient is zero, in silence.
        (lambda outputs, targets: jnp.argmax(outputs, axis=-1), "loss: came int32[4], wanted dtype floating"),
    ],
)
def test_a_loss_gives_a_float_for_each_example(loss, message):
    objective = objectives.classification(scaled(), loss, num_classes=3)
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        value_of(objective, {"image": LOGITS, "label": LABELS})


def test_a_field_that_a_batch_lacks_is_named():
    objective = objectives.classification(scaled(), losses.cross_entropy, num_classes=3)
    with pytest.raises(ValueError, match=r"batch: came fields \['image', 'y'\], wanted 'label' among them"):
        value_of(objective, {"image": LOGITS, "y": LABELS})


def test_data_that_does_not_say_its_classes_is_told_how():
    source = data.arrays({"image": LOGITS, "label": LABELS})
    with pytest.raises(
        TypeError, match=r"num_classes: came None, .*: data\.arrays\(\.\.\., num_classes={'label': 10}\)"
    ):
        objectives.classification(scaled(), losses.cross_entropy, num_classes=source.schema["label"].num_classes)


def test_a_classification_has_a_class():
    with pytest.raises(ValueError, match="num_classes: came 0, wanted a number >= 1"):
        objectives.classification(scaled(), losses.cross_entropy, num_classes=0)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (lambda batch, key: None, "augment: came NoneType, wanted a batch"),
        (lambda batch, key: {"image": batch["image"]}, r"augment: came the fields \['image'\] without 'label'"),
        (
            lambda batch, key: {name: batch[name] for name in ("image", "label")},
            "augment: came the fields .* without 'mask'",
        ),
        (
            lambda batch, key: {**batch, "image": batch["image"][::2]},
            r"augment: image: came float32\[2,3\], wanted 4 examples",
        ),
        (lambda batch, key: jax.tree.map(lambda x: x[::2], batch), "wanted 4 examples"),
    ],
)
def test_an_augmentation_gives_the_fields_and_examples_that_it_was_given(augment, message):
    objective = objectives.classification(scaled(), losses.cross_entropy, **classified(augment=augment))
    with pytest.raises((TypeError, ValueError), match=message):
        value_of(
            objective, {"image": jnp.asarray(LOGITS), "label": jnp.asarray(LABELS), "mask": jnp.asarray(MASK)}
        )
