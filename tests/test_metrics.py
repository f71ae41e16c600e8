"""One contract over the table of all metrics, held to scikit-learn, and what is true of each alone."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as reference

from jaxkit import losses, metrics

SIZE, CLASSES, BINS = 48, 4, 5


class Row(NamedTuple):
    """A metric; example arguments; what it should be of numpy arrays; arguments of a wrong shape."""

    metric: Callable[..., Any]
    make: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]
    reference: Callable[[np.ndarray, np.ndarray], Any]
    wrong: tuple[tuple[int, ...], tuple[int, ...], str] = ((3, 4), (3, 1), "labels: came .* wanted shape")


def classified(rng):
    labels = rng.integers(0, CLASSES, SIZE)
    logits = rng.normal(size=(SIZE, CLASSES)) + 1.5 * np.eye(CLASSES)[labels]
    return logits.astype(np.float32), labels.astype(np.int32)


def tokens(rng):
    labels = rng.integers(0, CLASSES, (SIZE, 3))
    return rng.normal(size=(SIZE, 3, CLASSES)).astype(np.float32), labels.astype(np.int32)


def scored(rng):
    positive = rng.integers(0, 2, SIZE)
    # Multiples of 1/4, some of them equal: far enough apart to lie in bins of their own.
    return (np.round(4 * (rng.normal(size=SIZE) + positive)) / 4).astype(np.float32), positive.astype(np.int32)


def measured(rng):
    targets = rng.normal(size=(SIZE, 2))
    return (targets + rng.normal(size=targets.shape)).astype(np.float32), targets.astype(np.float32)


def softmax(logits):
    p = np.exp(logits - logits.max(axis=-1, keepdims=True).astype(np.float64))
    return p / p.sum(axis=-1, keepdims=True)


def nats(logits, labels):
    return -np.log(np.take_along_axis(softmax(logits), labels[..., None], axis=-1))


def calibration_errors(logits, labels):
    """Example by example: sorted by confidence, |summed gap| between cuts, an example on a cut divided."""
    p = softmax(logits)
    confidence, gap = p.max(axis=1), p.max(axis=1) - (p.argmax(axis=1) == labels)
    bins = np.ceil(confidence * BINS).astype(int) - 1
    ece = sum(abs(gap[bins == i].sum()) for i in range(BINS)) / len(labels)
    summed = np.concatenate([[0], np.cumsum(gap[np.argsort(confidence)])])
    cuts = np.linspace(0, len(labels), BINS + 1)
    adaptive = np.abs(np.diff(np.interp(cuts, np.arange(len(labels) + 1), summed))).sum() / len(labels)
    return ece, adaptive


def calibrated(logits, labels):
    brier = np.mean(np.sum((softmax(logits) - np.eye(CLASSES)[labels]) ** 2, axis=1))
    return {"ece": calibration_errors(logits, labels)[0], "brier": brier}


def confused(logits, labels):
    score = partial(reference.precision_recall_fscore_support, labels, logits.argmax(axis=1), zero_division=0)
    names = ("precision", "recall", "f1")
    return {
        **dict(zip([f"{name}_macro" for name in names], score(average="macro")[:3])),
        "f1_micro": score(average="micro")[2],
        "f1_weighted": score(average="weighted")[2],
    }


def ranked(scores, positive):
    return {
        "auroc": reference.roc_auc_score(positive, scores),
        "average_precision": reference.average_precision_score(positive, scores),
    }


TOKEN_BYTES = (1, 2, 0, 4)
DIFFERENT = ((3, 1), (3,), "outputs: came .* wanted shape")

METRICS = {
    "accuracy": Row(metrics.accuracy, classified, lambda x, y: reference.accuracy_score(y, x.argmax(axis=1))),
    "top_k": Row(
        partial(metrics.top_k, k=2),
        classified,
        lambda x, y: reference.top_k_accuracy_score(y, x, k=2, labels=range(CLASSES)),
    ),
    "calibration": Row(partial(metrics.calibration, num_bins=BINS), classified, calibrated),
    "confusion": Row(metrics.confusion, classified, confused),
    "ranking": Row(metrics.ranking, scored, ranked, ((3,), (3, 1), "targets: came .* wanted shape")),
    "perplexity": Row(metrics.perplexity, tokens, lambda x, y: np.exp(nats(x, y).mean())),
    "bits_per_byte": Row(
        partial(metrics.bits_per_byte, token_bytes=TOKEN_BYTES),
        tokens,
        lambda x, y: nats(x, y).sum() / np.log(2) / np.array(TOKEN_BYTES)[y].sum(),
    ),
    "squared_error": Row(
        metrics.squared_error, measured, lambda x, y: reference.mean_squared_error(y, x), DIFFERENT
    ),
    "absolute_error": Row(
        metrics.absolute_error, measured, lambda x, y: reference.mean_absolute_error(y, x), DIFFERENT
    ),
    "r2": Row(metrics.r2, measured, lambda x, y: reference.r2_score(y, x), DIFFERENT),
    "r2, centered": Row(
        partial(metrics.r2, center=0.3), measured, lambda x, y: reference.r2_score(y, x), DIFFERENT
    ),
}

# What some of them return.
STATES = {"R2", "Confusion", "Perplexity"}


def test_every_metric_has_a_row():
    assert {name.partition(",")[0] for name in METRICS} == set(metrics.__all__) - STATES


every = pytest.mark.parametrize("row", METRICS.values(), ids=METRICS)


@functools.cache
def compiled(metric, **hyperparameters):
    """One program, where each operation by itself would be one to compile."""
    return jax.jit(partial(metric, **hyperparameters))


def on_host(state):
    """As the run loop adds them."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state)


def close(computed, wanted, rtol=1e-5, atol=1e-6):
    if isinstance(wanted, dict):
        for name in wanted:
            np.testing.assert_allclose(computed[name], wanted[name], rtol, atol, err_msg=name)
    else:
        np.testing.assert_allclose(computed, wanted, rtol, atol)


@every
@pytest.mark.parametrize("seed", range(3))
def test_parts_add_up_to_the_reference_of_what_is_not_masked(row, seed):
    rng = np.random.default_rng(seed)
    outputs, targets = row.make(rng)
    mask = rng.random(SIZE) < (0.9, 0.5, 0.2)[seed]
    # Random parts, filled up to one size by masked examples, so that one program does for all.
    parts = np.split(rng.permutation(SIZE), np.sort(rng.integers(0, SIZE, 3)))
    metric, total = compiled(row.metric), None
    for part in parts:
        index, inside = np.resize(part if len(part) else 0, SIZE), np.arange(SIZE) < len(part)
        state = on_host(metric(outputs[index], targets[index], mask[index] & inside))
        total = state if total is None else total + state
    close(total.compute(), row.reference(outputs[mask], targets[mask]))
    close(metric(outputs, targets, mask).compute(), total.compute())


@every
def test_masked_is_removed(row):
    outputs, targets = row.make(np.random.default_rng(4))
    mask = np.arange(SIZE) < 37
    without = compiled(row.metric)(outputs[mask], targets[mask])
    # Whatever is under the mask: not a number, and no class.
    if targets.dtype == np.int32:
        targets[~mask] = -7
    else:
        targets[~mask] = np.nan
    outputs[~mask] = np.nan
    masked = compiled(row.metric)(outputs, targets, mask)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), masked, without)


@every
def test_jit_is_eager_and_traced_once(row):
    traces = []

    @jax.jit
    def traced(outputs, targets, mask):
        traces.append(1)
        return row.metric(outputs, targets, mask)

    for seed in (5, 6):
        rng = np.random.default_rng(seed)
        outputs, targets = row.make(rng)
        mask = rng.random(SIZE) < 0.5
        state = row.metric(outputs, targets, mask)
        close(traced(outputs, targets, mask)._asdict(), state._asdict())
    assert len(traces) == 1


@every
def test_compute_in_a_trace_is_compute_on_the_host(row):
    state = compiled(row.metric)(*row.make(np.random.default_rng(7)), np.ones(SIZE, bool))
    close(jax.jit(lambda state: state.compute())(state), state.compute(), rtol=1e-4, atol=1e-5)


@every
def test_compute_gives_numbers(row):
    values = compiled(row.metric)(*row.make(np.random.default_rng(8)), np.ones(SIZE, bool)).compute()
    for value in values.values() if isinstance(values, dict) else [values]:
        assert np.isfinite(float(value))


@every
def test_empty_raises_on_the_host_and_is_nan_in_a_trace(row):
    outputs, targets = row.make(np.random.default_rng(9))
    state = compiled(row.metric)(outputs, targets, np.zeros(SIZE, bool))
    for empty in (state, on_host(state)):
        with pytest.raises(ValueError, match="no example was counted"):
            empty.compute()
    traced = jax.jit(lambda state: state.compute())(state)
    first = next(iter(traced.values())) if isinstance(traced, dict) else traced
    assert np.isnan(first)


@every
def test_four_devices_are_one(row):
    rng = np.random.default_rng(10)
    outputs, targets = row.make(rng)
    mask = rng.random(SIZE) < 0.5
    whole = compiled(row.metric)(outputs, targets, mask)

    def summed(*shard):
        return jax.lax.psum(row.metric(*shard), "devices")

    shards = (x.reshape(4, SIZE // 4, *x.shape[1:]) for x in (outputs, targets, mask))
    spread = jax.pmap(summed, axis_name="devices", out_axes=None)(*shards)
    assert type(spread) is type(whole)
    close(spread._asdict(), whole._asdict())


@every
def test_short_floats_are_computed_in_float32(row):
    outputs, targets = row.make(np.random.default_rng(11))
    short = jnp.asarray(outputs, jnp.bfloat16)
    mask = np.ones(SIZE, bool)
    metric = compiled(row.metric)
    state, long = metric(short, targets, mask), metric(short.astype(jnp.float32), targets, mask)
    assert {leaf.dtype for leaf in state} == {np.dtype(np.float32)}
    close(state._asdict(), long._asdict())


@every
def test_wrong_shapes_name_the_argument(row):
    outputs, targets, message = row.wrong
    targets = np.zeros(targets, row.make(np.random.default_rng(0))[1].dtype)
    with pytest.raises(ValueError, match=message):
        row.metric(np.zeros(outputs), targets)
    outputs, targets = row.make(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"mask: came bool\[1\], wanted the beginning"):
        row.metric(outputs, targets, np.ones(1, bool))


@pytest.mark.parametrize("name", ["top_k", "calibration", "perplexity"])
def test_a_mask_may_choose_tokens(name):
    outputs, labels = tokens(np.random.default_rng(0))
    mask = np.random.default_rng(1).random(labels.shape) < 0.5
    metric = compiled(METRICS[name].metric)
    close(metric(outputs, labels, mask).compute(), metric(outputs[mask], labels[mask]).compute())


def test_constant_logits_are_not_always_right():
    # All are equal: the first class is taken, and the first two.
    logits, labels = jnp.zeros((4, 4)), jnp.arange(4)
    assert compiled(metrics.accuracy)(logits, labels).compute() == 0.25
    assert compiled(metrics.top_k, k=2)(logits, labels).compute() == 0.5
    # So too are the zeros of both signs, which sorting tells apart.
    assert compiled(metrics.top_k, k=1)(jnp.array([[-0.0, 0.0]]), jnp.array([0])).compute() == 1.0


def test_hyperparameters_are_checked():
    logits, labels = jnp.zeros((2, 3)), jnp.zeros(2, int)
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"k: came {k}, wanted"):
            metrics.top_k(logits, labels, k=k)
    with pytest.raises(ValueError, match="num_bins: came 0"):
        metrics.calibration(logits, labels, num_bins=0)
    with pytest.raises(ValueError, match="token_bytes: came"):
        metrics.bits_per_byte(logits, labels, token_bytes=np.ones((3, 1)))
    with pytest.raises(TypeError, match=r"labels: came float32\[2\], wanted dtype integer"):
        metrics.accuracy(logits, jnp.zeros(2))
    with pytest.raises(TypeError, match=r"targets: came float32\[2\], wanted dtype integer"):
        metrics.ranking(jnp.zeros(2), jnp.zeros(2))


def probabilities(*confidence):
    """Logits of two classes, of which the first has this probability."""
    p = np.array(confidence)
    return np.log(np.stack([p, 1 - p], axis=1)).astype(np.float32)


def test_calibration_of_nan_is_nan_in_each_of_its_numbers():
    found = metrics.calibration(jnp.full((4, 3), jnp.nan), jnp.zeros(4, jnp.int32)).compute()
    assert all(np.isnan(value) for value in found.values()), found


def test_calibration_by_hand():
    # Bins of a half: all lie in (1/2, 1]. Sure to 0.6, 0.7, 0.8, 0.9, right in the first and the last:
    # ECE = |3.0 - 2| / 4. Two bins of two each: |1.3 - 1| + |1.7 - 1| = 1.0, again 1.0 / 4. Brier: twice
    # 0.4^2, 0.7^2, 0.8^2, 0.1^2, which is 0.16 + 0.49 + 0.64 + 0.01 = 1.3, so 2.6 / 4.
    metric = compiled(metrics.calibration, num_bins=2)
    state = metric(probabilities(0.6, 0.7, 0.8, 0.9), np.array([0, 1, 1, 0]))
    close(state.compute(), {"ece": 0.25, "adaptive_ece": 0.25, "adaptive_ece_error": 0.0, "brier": 0.65})
    diagram = state.reliability()
    close(diagram, {"confidence": [np.nan, 0.75], "accuracy": [np.nan, 0.5], "count": [0, 4]})
    # The other way round within the bins of two: |1.3 - 1| + |1.7 - 1| is now |1.3 - 0| + |1.7 - 2|.
    state = metric(probabilities(0.6, 0.7, 0.8, 0.9), np.array([1, 1, 0, 0]))
    close(state.compute(), {"ece": 0.25, "adaptive_ece": 1.6 / 4})


def test_brier_is_twice_that_of_two_classes():
    logits, labels = probabilities(0.6, 0.7, 0.8, 0.3), np.array([1, 0, 0, 1])
    wanted = 2 * reference.brier_score_loss(labels, softmax(logits)[:, 1])
    close(compiled(metrics.calibration)(logits, labels).compute()["brier"], wanted)


@pytest.mark.parametrize(("scale", "limit"), [(0.3, 0.2), (1.0, 0.2), (5.0, 0.2), (30.0, 0.5)])
def test_adaptive_ece_is_within_its_error(scale, limit):
    # From unsure to so sure that float32 makes most of them 1, where none can tell them apart.
    for seed in range(4):
        logits, labels = classified(np.random.default_rng(seed))
        state = compiled(METRICS["calibration"].metric)(scale * logits, labels, np.ones(SIZE, bool))
        result, exact = state.compute(), calibration_errors(scale * logits, labels)[1]
        assert abs(result["adaptive_ece"] - exact) <= result["adaptive_ece_error"] + 1e-6
        assert result["adaptive_ece_error"] < limit


def test_adaptive_error_is_small_where_it_matters():
    # 10,000 examples: one narrow bin holds few of them.
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(10_000, CLASSES)), rng.integers(0, CLASSES, 10_000)
    result = compiled(metrics.calibration, num_bins=BINS)(logits, labels).compute()
    assert result["adaptive_ece_error"] < 0.02
    assert abs(result["adaptive_ece"] - calibration_errors(logits, labels)[1]) < 0.002


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_counted_for_none(label):
    logits, labels = np.eye(3, dtype=np.float32), np.array([0, 1, label])
    mask, confusion = np.array([True, True, False]), compiled(metrics.confusion)
    assert np.isnan(on_host(confusion(logits, labels)).compute()["f1_macro"])
    masked = confusion(logits, labels, mask)
    np.testing.assert_array_equal(masked.matrix, np.diag([1.0, 1.0, 0.0]))
    calibration = metrics.calibration(logits, labels).compute()
    assert all(np.isnan(calibration[name]) for name in ("ece", "adaptive_ece", "brier"))
    assert metrics.calibration(logits, labels, mask).compute()["brier"] > 0
    for metric in (metrics.accuracy, partial(metrics.top_k, k=2), metrics.perplexity, metrics.bits_per_byte):
        assert np.isnan(metric(logits, labels).compute())
        assert np.isfinite(metric(logits, labels, mask).compute())


def test_logits_of_nan_choose_no_class():
    # argmax takes the nan for the largest: a model that has diverged would be right wherever that is the label.
    logits, labels = np.eye(3, dtype=np.float32), np.array([0, 1, 2])
    logits[1, 1], logits[2, 0] = np.nan, -np.nan
    for metric in (metrics.accuracy, partial(metrics.top_k, k=1), metrics.confusion):
        for row, finite in ((0, True), (1, False), (2, False)):
            state = metric(logits, labels, np.arange(3) == row)
            assert np.all([np.isfinite(x) for x in jax.tree.leaves(on_host(state).compute())]) == finite


@pytest.mark.parametrize(
    ("dtype", "classes"), [(np.uint8, 256), (np.uint8, 300), (np.int8, 128), (np.uint16, 2**16)]
)
def test_labels_of_few_bits_are_their_classes(dtype, classes):
    # The number of classes does not fit into the labels' own dtype, though each label does.
    labels = np.array([45, 127], dtype)
    logits = np.asarray(labels[:, None] == np.arange(classes), np.float32)
    assert metrics.accuracy(logits, labels).compute() == metrics.top_k(logits, labels, k=1).compute() == 1
    wanted = metrics.calibration(logits, labels.astype(np.int32)).compute()["brier"]
    assert metrics.calibration(logits, labels).compute()["brier"] == wanted < 2
    assert metrics.bits_per_byte(logits, labels, token_bytes=np.arange(classes)).count == 45 + 127
    if classes < 2**16:
        assert metrics.confusion(logits, labels).matrix[45, 45] == 1


def test_a_token_that_the_table_lacks_has_no_bytes():
    for token in (-1, 2):
        state = metrics.bits_per_byte(
            None, np.array([0, token]), token_bytes=(1, 9), loss=lambda outputs, labels: np.ones(2, np.float32)
        )
        assert np.isnan(state.compute())


def test_confusion_is_the_references():
    logits, labels = classified(np.random.default_rng(0))
    labels[labels == 2] = 1  # a class that does not occur
    state, predicted = on_host(compiled(metrics.confusion)(logits, labels)), logits.argmax(axis=1)
    np.testing.assert_array_equal(
        state.matrix, reference.confusion_matrix(labels, predicted, labels=range(CLASSES))
    )
    scores = reference.precision_recall_fscore_support(labels, predicted, labels=range(CLASSES), zero_division=0)
    close(state.per_class(), dict(zip(("precision", "recall", "f1", "support"), scores)))


def test_macro_leaves_out_classes_that_nobody_saw():
    # Of three classes one is neither there nor predicted: both others are perfect.
    state = on_host(compiled(metrics.confusion)(10 * np.eye(3)[:2], np.array([0, 1])))
    close(state.compute(), {"f1_macro": 1.0, "recall_macro": 1.0, "f1_weighted": 1.0})


@pytest.mark.parametrize(("num_bins", "limit"), [(1, 1.0), (7, 0.6), (64, 0.2), (4096, 0.02)])
def test_ranking_is_within_its_error(num_bins, limit):
    metric = compiled(metrics.ranking, num_bins=num_bins)
    for seed, (scale, share) in enumerate([(1, 0.5), (1, 0.03), (30, 0.5), (0.1, 0.9)]):
        rng = np.random.default_rng(seed)
        positive = rng.random(300) < share
        scores = (scale * (rng.normal(size=300) + positive)).astype(np.float32)
        result = metric(scores, positive).compute()
        for name, exact in ranked(scores, positive).items():
            assert abs(result[name] - exact) <= result[f"{name}_error"] + 1e-6, (name, seed)
            assert result[f"{name}_error"] < limit, (name, seed)


def test_ranking_error_by_hand():
    # One bin: nothing is known. AUROC 1/2 +- 1/2. All equal, the precision is 1/4; if the only positive were
    # first, 1; the least that is possible is 1/4, which the bound 1 - 3 log(4/3) = 0.137 stays below.
    result = compiled(metrics.ranking, num_bins=1)(np.arange(4.0), np.array([0, 0, 0, 1])).compute()
    close(result, {"auroc": 0.5, "auroc_error": 0.5, "average_precision": 0.25, "average_precision_error": 0.75})


def test_average_precision_error_by_hand_where_the_truth_is_below():
    # Ten negatives above ten positives, which lie in one bin. As one tie: precision 10/20. In truth the i-th
    # positive has i / (i + 10), on average 1 - (1/11 + ... + 1/20) = 0.331; the bound is 1 - log(20/10).
    scores = np.concatenate([np.arange(1.0, 11.0), -np.arange(1.0, 11.0)])
    result = compiled(metrics.ranking, num_bins=2)(scores, np.arange(20) >= 10).compute()
    error = 0.5 - (1 - np.log(2))
    close(result, {"auroc": 0, "auroc_error": 0, "average_precision": 0.5, "average_precision_error": error})


def test_ranking_of_one_class_is_nan():
    for positive in (True, False):
        result = compiled(metrics.ranking)(np.arange(4.0), np.full(4, positive)).compute()
        assert np.isnan(result["auroc"])
        assert np.isnan(result["average_precision"])


def test_ranking_takes_infinity_and_tells_nan():
    ranking, positive = compiled(metrics.ranking), np.array([False, True, False, True])
    result = ranking(np.array([-np.inf, 1e30, -1e30, np.inf]), positive).compute()
    assert result["auroc"] == 1
    result = ranking(np.array([0.0, np.nan, 1.0, 2.0]), positive).compute()
    assert np.isnan(result["auroc"])


def test_perplexity_of_any_loss():
    rng = np.random.default_rng(0)
    hidden, kernel = rng.normal(size=(2, 5, 3)), rng.normal(size=(3, 7))
    labels, mask = rng.integers(0, 7, (2, 5)), np.array([True, False])
    chunked = partial(losses.chunked_cross_entropy, chunk_size=4)
    close(
        compiled(metrics.perplexity, loss=chunked)((hidden, kernel), labels, mask).compute(),
        compiled(metrics.perplexity)(hidden @ kernel, labels, mask).compute(),
    )


def test_perplexity_overflows_to_infinity():
    # 1e4 nats a token: e^10000.
    assert metrics.perplexity(jnp.array([[0.0, 1e4]]), jnp.array([0])).compute() == np.inf


def test_bits_per_byte_does_not_depend_on_the_tokenizer():
    # The same 8 bytes as 8 tokens of 2 bits, or as 4 tokens of 4 bits which stand for 2 bytes each.
    bytes_ = compiled(metrics.bits_per_byte)(np.zeros((1, 8, 4)), np.zeros((1, 8), int))
    pairs = compiled(metrics.bits_per_byte, token_bytes=2)(np.zeros((1, 4, 16)), np.zeros((1, 4), int))
    close([float(bytes_.compute()), float(pairs.compute())], [2.0, 2.0])
    assert float(bytes_.count) == float(pairs.count) == 8
    beyond = compiled(metrics.bits_per_byte, token_bytes=(1, 1))(np.zeros((1, 4, 16)), np.full((1, 4), 9))
    assert np.isnan(beyond.compute())


def test_r2_far_from_zero_needs_its_center():
    rng = np.random.default_rng(0)
    targets = (1000 + rng.normal(size=1000)).astype(np.float32)
    outputs = targets + rng.normal(size=1000).astype(np.float32) / 2
    wanted = reference.r2_score(targets, outputs)
    close(metrics.r2(outputs, targets, center=1000.0).compute(), wanted, rtol=1e-5)
    assert abs(metrics.r2(outputs, targets, center=800.0).compute() - wanted) > 1e-3  # what the center is for
    assert np.isnan(metrics.r2(outputs, targets).compute())  # at 1000 deviations only rounding is left


@pytest.mark.parametrize("target", [1.0, 0.1, 100.1])
def test_r2_of_constant_targets_is_nan(target):
    # Squares of the latter two are rounded: their sum less the squared sum is not 0.
    for size in (1, 2, 1000):
        targets = np.full(size, target, np.float32)
        state = compiled(metrics.r2)(targets + np.float32(1), targets)
        assert np.isnan(on_host(state).compute())
        assert np.isnan(jax.jit(lambda state: state.compute())(state))
