"""Metrics from histograms: calibration of probabilities, and the ranking of binary scores.

Neither is a sum over examples; a histogram is. What is lost between two edges is bounded by what lies there,
and the bound is computed from the state, beside the value. `jaxkit.metrics` offers both.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import checks
from jaxkit.means import add, included, numbers, of_classes, ratio, require_examples

# Each bin of confidence is kept as this many narrower ones, between which the adaptive bins are cut: half of
# them spread evenly, half crowded towards the upper edge, since a trained network is sure of most it sees.
FINE = 64


class Calibration(NamedTuple):
    """How well confidence predicts being right; the confidence is the largest probability.

    count, correct, confidence: f32[num_bins, 64], sums over the examples in each narrow bin of confidence
    brier: f32[], the summed squared distance of the probabilities from the one-hot label
    """

    count: Any
    correct: Any
    confidence: Any
    brier: Any

    def __add__(self, other: "Calibration") -> "Calibration":  # type: ignore[override]
        return add(self, other)

    def compute(self) -> dict[str, Any]:
        """The calibration errors and the Brier score.

        Returns:
            ece: mean |confidence - accuracy| over bins of equal width (Guo et al. 2017).
            adaptive_ece: the same over as many bins of equal mass (Nguyen and O'Connor 2015).
            adaptive_ece_error: by how much that can be off, an example being known by its narrow bin only.
            brier: in [0, 2] (Brier 1950), which is twice the number that is usual for two classes.

        Raises:
            ValueError: on the host, nothing was counted.
        """
        module, state = numbers(self)
        total = state.count.sum()
        require_examples(total)
        gap = (state.confidence - state.correct).sum(axis=1)
        adaptive, error = _equal_mass(module, state, total)
        return {
            "ece": abs(gap).sum() / total,
            "adaptive_ece": adaptive,
            "adaptive_ece_error": error,
            "brier": state.brier / total,
        }

    def reliability(self) -> dict[str, np.ndarray]:
        """The reliability diagram, on the host: confidence, accuracy (nan where empty), count of each bin."""
        _, state = numbers(self)
        count, correct, confidence = (state[field].sum(axis=1) for field in range(3))
        return {"confidence": ratio(confidence, count), "accuracy": ratio(correct, count), "count": count}


def calibration(
    logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None, *, num_bins: int = 15
) -> Calibration:
    """Expected calibration error, its equal-mass form, the Brier score and the reliability diagram.

    logits [..., classes], labels int[...], mask bool[...] with as many or fewer axes -> Calibration. A label
    that is no class makes the errors and the Brier score nan.

    Raises:
        ValueError: shapes do not fit each other; num_bins < 1.
        TypeError: the labels are not integers.

    Example:
        >>> state = calibration(jnp.zeros((4, 2)), jnp.array([0, 0, 0, 1]))  # sure to 0.5, right 3 of 4
        >>> float(state.compute()["ece"])
        0.25
    """
    checks.labels(logits, labels)
    checks.sizes(num_bins=num_bins)
    mask, labels = included(mask, labels.shape), jnp.asarray(labels, jnp.int32)
    p = jax.nn.softmax(jnp.asarray(logits, jnp.float32))
    confidence = jnp.max(p, axis=-1)
    correct = of_classes(jnp.argmax(p, axis=-1) == labels, labels, p.shape[-1])
    brier = of_classes(jnp.sum((p - jax.nn.one_hot(labels, p.shape[-1])) ** 2, axis=-1), labels, p.shape[-1])
    bins = _narrow_bins(confidence, num_bins)
    count, right, sure = (
        _histogram(bins, jnp.where(mask, values, 0.0), num_bins * FINE).reshape(num_bins, FINE)
        for values in (1.0, correct, confidence)
    )
    return Calibration(count, right, sure, jnp.sum(jnp.where(mask, brier, 0.0)))


class Ranking(NamedTuple):
    """Binary scores: how many positives and negatives lie in each bin, f32[num_bins], lowest scores first."""

    positives: Any
    negatives: Any

    def __add__(self, other: "Ranking") -> "Ranking":  # type: ignore[override]
        return add(self, other)

    def compute(self) -> dict[str, Any]:
        """The areas auroc and average_precision, each with the largest error that the binning can have made.

        Scores in one bin count as equal. nan where only positives or only negatives were seen.

        Raises:
            ValueError: on the host, nothing was counted.
        """
        module, state = numbers(self)
        require_examples(state.positives.sum() + state.negatives.sum())
        positives, negatives = state.positives[::-1], state.negatives[::-1]
        above, false = module.cumsum(positives), module.cumsum(negatives)
        all_positives, pairs = positives.sum(), positives.sum() * negatives.sum()
        # Of the pairs within a bin half count as right; between none and all of them are.
        within = (positives * negatives).sum() / 2
        auroc = ratio((negatives * (above - positives)).sum() + within, pairs)
        low, value, high = (
            ratio(bound.sum(), all_positives) for bound in _precision(module, positives, negatives)
        )
        value, low, high = (module.where(false[-1] == 0, np.nan, x) for x in (value, low, high))
        return {
            "auroc": auroc,
            "auroc_error": ratio(within, pairs),
            "average_precision": value,
            "average_precision_error": module.maximum(high - value, value - low),
        }


def ranking(
    scores: jax.Array, targets: jax.Array, mask: jax.Array | None = None, *, num_bins: int = 4096
) -> Ranking:
    """The area under the ROC curve and the average precision of binary scores, from binned scores.

    scores [...]: any real numbers, higher is more positive; targets bool or int[...]: positive where > 0;
    mask bool[...] with as many or fewer axes -> Ranking.

    For the logits of two classes, score by their difference. A score of nan makes the result nan.

    Raises:
        ValueError: shapes do not fit each other; num_bins < 1.
        TypeError: the targets are neither bool nor integers.

    Example:
        >>> state = ranking(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1]))
        >>> float(state.compute()["auroc"])  # 3 of 4 pairs are in order
        0.75
    """
    checks.shapes(targets=(targets, " ".join(map(str, checks.shape_of("scores", scores)))))
    if not jnp.issubdtype(jnp.result_type(targets), jnp.bool_):
        checks.dtypes(targets=(targets, jnp.integer))
    checks.sizes(num_bins=num_bins)
    mask = included(mask, targets.shape)
    scores = jnp.asarray(scores, jnp.float32)
    # Squashed to [0, 1], finest around 0, without the saturation of a sigmoid. The order is kept even where
    # float32 rounds, since each step (1 + x, 1 / x, 1 - x) is monotone by itself.
    half = 0.5 / (1 + jnp.abs(scores))
    bins = jnp.floor(jnp.where(scores >= 0, 1 - half, half) * num_bins)
    weight = jnp.where(mask, jnp.where(jnp.isnan(scores), jnp.nan, 1.0), 0.0)
    positive = jnp.asarray(targets) > 0
    return Ranking(
        _histogram(bins, jnp.where(positive, weight, 0.0), num_bins),
        _histogram(bins, jnp.where(positive, 0.0, weight), num_bins),
    )


def _histogram(bins, weights, num_bins: int):
    index = jnp.clip(bins, 0, num_bins - 1).astype(jnp.int32)  # a bin of nan is any bin: its weight tells
    return jnp.zeros(num_bins, jnp.float32).at[index.ravel()].add(weights.ravel())


def _narrow_bins(confidence, num_bins: int):
    """The narrow bin of each confidence; the wide ones are (low, high], as in Guo et al."""
    wide = jnp.clip(jnp.ceil(confidence * num_bins) - 1, 0, num_bins - 1)
    below_edge = jnp.clip((wide + 1) / num_bins - confidence, 0.0) * num_bins  # in [0, 1), finest near 0
    crowded = jnp.minimum(-jnp.log2(below_edge) / 20, 1.0)  # float32 tells no more than 20 octaves apart
    narrow = jnp.ceil(FINE / 2 * (1 - below_edge + crowded)) - 1
    return wide * FINE + jnp.clip(narrow, 0, FINE - 1)


def _equal_mass(module, state: Calibration, total):
    """The adaptive ECE and its largest error.

    Examples are taken to be evenly mixed within a narrow bin, so that a cut takes its share of the bin's
    summed gap, gap = confidence - correct. However they are in truth arranged, the sums on all sides of the
    cuts in one narrow bin are off by at most its sum of |gap - mean gap|: at most 2 a (1 - a) for each
    example from being correct, a the bin's accuracy, and from the confidence half the bin's width, which is
    at most 2 / (num_bins * FINE).
    """
    num_bins = state.count.shape[0]
    count, correct, gap = (x.ravel() for x in (state.count, state.correct, state.confidence - state.correct))
    zero = module.zeros(1)
    edges = module.concatenate([zero, module.cumsum(count)])
    cuts = module.arange(num_bins + 1) * (total / num_bins)
    summed = module.interp(cuts, edges, module.concatenate([zero, module.cumsum(gap)]))
    up_to = module.searchsorted(cuts[1:-1], edges[1:], side="left")
    inside = up_to > module.searchsorted(cuts[1:-1], edges[:-1], side="right")
    accuracy = ratio(correct, count, empty=0.0)
    error = count * (2 * accuracy * (1 - accuracy) + 1 / count.size)
    adaptive = abs(module.diff(summed)).sum() / total
    # Of what is no number it is not known how far it is off.
    return adaptive, module.where(inside, error, 0.0).sum() / total + 0 * adaptive


def _precision(module, positives, negatives):
    """For each bin, highest first, the precision at its positives, summed: least, with all equal, most.

    With T positives and F negatives above a bin of p and n, the i-th positive's precision is least where
    all n come first, (T + i) / (T + i + F + n), and the sum of that over i is at least
    p - m log((T + p + m) / (T + m)), m = F + n. It is most where all p come first, as one tie.
    """
    above, false = module.cumsum(positives), module.cumsum(negatives)
    least = positives - false * module.log(ratio(above + false, above - positives + false, empty=1.0))
    equal = positives * ratio(above, above + false, empty=0.0)
    most = positives * ratio(above, above + false - negatives, empty=0.0)
    return least, equal, most
