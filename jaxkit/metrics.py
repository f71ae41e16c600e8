"""Metrics: `(outputs, targets, mask=None, *, hyperparameters) -> additive state`.

States of disjoint examples are added, over batches, devices and hosts, and computed once: the sum of the
parts is the whole. Where the mask is False an example leaves no trace, whatever is in it; a label that is no
class, negative ones included, makes the result nan, never a mistake of the model, as does an output of nan.
Counts are float32, exact up to 2^24 in one state; the run loop adds states on the host in float64.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import checks, losses
from jaxkit.calibration import calibration as calibration
from jaxkit.calibration import ranking as ranking
from jaxkit.means import Mean, add, included, mean, numbers, of_classes, ratio, require_examples
from jaxkit.regression import R2 as R2
from jaxkit.regression import absolute_error as absolute_error
from jaxkit.regression import r2 as r2
from jaxkit.regression import squared_error as squared_error
from jaxkit.types import Loss

__all__ = [
    "R2",
    "Confusion",
    "Perplexity",
    "absolute_error",
    "accuracy",
    "bits_per_byte",
    "calibration",
    "confusion",
    "perplexity",
    "r2",
    "ranking",
    "squared_error",
    "top_k",
]


def accuracy(logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None) -> Mean:
    """The share of examples whose label has the largest logit; of equal ones the first counts.

    logits [..., classes], labels int[...], mask bool[...] with as many or fewer axes -> Mean. A label that is no
    class makes the result nan.

    Raises:
        ValueError: shapes do not fit each other.
        TypeError: the labels are not integers.

    Example:
        >>> float(accuracy(jnp.eye(4), jnp.array([0, 1, 2, 0])).compute())
        0.75
    """
    checks.labels(logits, labels)
    correct = jnp.argmax(jnp.asarray(logits), axis=-1) == labels
    return mean(_judged(correct, logits, labels), mask)


def top_k(logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None, *, k: int) -> Mean:
    """The share of examples whose label is among the k largest logits; of equal ones the first count.

    logits [..., classes], labels int[...], mask bool[...] with as many or fewer axes -> Mean. A label that is no
    class makes the result nan.

    Raises:
        ValueError: shapes do not fit each other; k is not between 1 and the number of classes.
        TypeError: the labels are not integers.

    Example:
        >>> float(top_k(jnp.array([[0.1, 0.2, 0.3]]), jnp.array([1]), k=2).compute())
        1.0
    """
    checks.labels(logits, labels)
    checks.sizes(k=k)
    if k > logits.shape[-1]:
        raise ValueError(f"k: came {k}, wanted at most the number of classes, {logits.shape[-1]}")
    logits = jnp.asarray(logits)
    # Sorting holds -0.0 to be less than 0.0.
    found = jax.lax.top_k(jnp.where(logits == 0, 0, logits), k)[1] == jnp.asarray(labels)[..., None]
    return mean(_judged(jnp.any(found, axis=-1), logits, labels), mask)


class Confusion(NamedTuple):
    """matrix: f32[classes, classes], how many examples of class i (row) were taken for class j (column)."""

    matrix: Any

    def __add__(self, other: "Confusion") -> "Confusion":  # type: ignore[override]
        return add(self, other)

    def per_class(self) -> dict[str, Any]:
        """The precision, recall, f1 and support of each class, [classes]; 0 for none of none."""
        module, (matrix,) = numbers(self)
        hits, support, predicted = module.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
        return {
            "precision": ratio(hits, predicted, empty=0.0),
            "recall": ratio(hits, support, empty=0.0),
            "f1": ratio(2 * hits, support + predicted, empty=0.0),
            "support": support,
        }

    def compute(self) -> dict[str, Any]:
        """f1, precision and recall: macro over the classes that were seen or predicted, f1 also otherwise.

        With one label each, micro averages are all the accuracy: f1_micro.

        Raises:
            ValueError: on the host, nothing was counted.
        """
        module, (matrix,) = numbers(self)
        require_examples(matrix.sum())
        scores = self.per_class()
        seen = scores["support"] + matrix.sum(axis=0) > 0
        macro = {
            f"{name}_macro": (scores[name] * seen).sum() / seen.sum() for name in ("f1", "precision", "recall")
        }
        return {
            **macro,
            "f1_micro": module.diagonal(matrix).sum() / matrix.sum(),
            "f1_weighted": (scores["f1"] * scores["support"]).sum() / matrix.sum(),
        }


def confusion(logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None) -> Confusion:
    """The confusion matrix, with F1, precision and recall computed from it.

    logits [..., classes], labels int[...], mask bool[...] with as many or fewer axes -> Confusion. A label that is
    no class makes the result nan.

    Raises:
        ValueError: shapes do not fit each other.
        TypeError: the labels are not integers.

    Example:
        >>> confusion(jnp.eye(2), jnp.array([0, 0])).matrix.tolist()
        [[1.0, 1.0], [0.0, 0.0]]
    """
    checks.labels(logits, labels)
    labels, num_classes = jnp.asarray(labels, jnp.int32), logits.shape[-1]
    weights = jnp.where(included(mask, labels.shape), _judged(1.0, logits, labels), 0.0)
    predicted = jnp.argmax(jnp.asarray(logits), axis=-1)
    empty = jnp.zeros((num_classes, num_classes), jnp.float32)
    # Clipped, so that the nan of a label that is no class is added, and not dropped.
    return Confusion(empty.at[jnp.clip(labels, 0, num_classes - 1), predicted].add(weights))


class Perplexity(NamedTuple):
    """nats: f32[], summed over tokens; tokens: f32[], how many."""

    nats: Any
    tokens: Any

    def __add__(self, other: "Perplexity") -> "Perplexity":  # type: ignore[override]
        return add(self, other)

    def compute(self) -> Any:
        """exp(nats / tokens).

        Raises:
            ValueError: on the host, nothing was counted.
        """
        require_examples(self.tokens)
        module, state = numbers(self)
        with np.errstate(over="ignore"):  # infinity says it
            return module.exp(state.nats / state.tokens)


def perplexity(
    outputs: Any, targets: jax.Array, mask: jax.Array | None = None, *, loss: Loss = losses.cross_entropy
) -> Perplexity:
    """The perplexity of a language model: one over the geometric mean of the right tokens' probabilities.

    logits [batch, length, vocabulary], labels int[batch, length], mask bool[batch] or bool[batch, length]
    -> Perplexity. With a `loss` of your own, in nats per token (`losses.chunked_cross_entropy`), outputs and
    targets are whatever it takes.

    Raises:
        ValueError: shapes do not fit each other.
        TypeError: the labels are not integers.

    Example:
        >>> round(float(perplexity(jnp.zeros((2, 3, 5)), jnp.zeros((2, 3), int)).compute()), 5)
        5.0
    """
    return Perplexity(*mean(loss(outputs, targets), mask))


def bits_per_byte(
    outputs: Any,
    targets: jax.Array,
    mask: jax.Array | None = None,
    *,
    token_bytes: int | Sequence[int] | np.ndarray | jax.Array = 1,
    loss: Loss = losses.cross_entropy,
) -> Mean:
    """The bits that a language model needs for a byte of text: comparable between tokenizers.

    Like `perplexity`; token_bytes is int[vocabulary], for how many bytes of text each token stands (0 for
    those that are no text), or int[batch, length], the bytes of each target, or one number for all
    -> Mean(bits, bytes).

    Raises:
        ValueError: shapes do not fit each other; token_bytes is none of these.
        TypeError: the labels are not integers.

    Example:
        >>> labels = jnp.array([[0, 1, 2, 3]])  # 2 bits a token, 5 tokens for 8 bytes
        >>> float(bits_per_byte(jnp.zeros((1, 4, 4)), labels, token_bytes=(1, 1, 2, 4)).compute())
        1.0
    """
    table = jnp.asarray(token_bytes, jnp.float32)
    if table.ndim > 1:
        checks.shapes(token_bytes=(table, " ".join(map(str, checks.shape_of("targets", targets)))))
        per_token = table
    elif table.ndim:
        # nan, not its neighbour's bytes, for a token that the table lacks.
        tokens = jnp.asarray(targets, jnp.int32)
        per_token = of_classes(table[jnp.clip(tokens, 0, table.size - 1)], tokens, table.size)
    else:
        per_token = jnp.full(targets.shape, table)
    nats = mean(loss(outputs, targets), mask)
    return Mean(nats.total / np.log(2.0), mean(per_token, mask).total)


def _judged(values, logits, labels):
    """`of_classes`, and nan where a logit is nan, which argmax takes for the largest."""
    logits = jnp.asarray(logits)
    # One look at the largest costs a third of one at them all; XLA makes the argmax one with the caller's.
    largest = jnp.take_along_axis(logits, jnp.argmax(logits, axis=-1, keepdims=True), axis=-1)[..., 0]
    return jnp.where(jnp.isnan(largest), jnp.nan, of_classes(values, labels, logits.shape[-1]))
