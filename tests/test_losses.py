"""One contract over the table of all losses, and what is true of each alone."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxkit import losses
from jaxkit.means import mean

BATCH, CLASSES = 6, 5


class Row(NamedTuple):
    """A loss; example arguments; arguments and values known by hand; arguments of a wrong shape."""

    loss: Callable[..., jax.Array]
    make: Callable[[np.random.Generator], tuple[Any, Any]]  # batch axis first, in every leaf of "each"
    known: tuple[Any, Any, Any]
    wrong: tuple[Any, Any, str]
    each: Callable[[Any, Any, int], tuple[Any, Any]] | None  # the i-th example as a batch of one


def classified(rng):
    return rng.normal(size=(BATCH, CLASSES)).astype(np.float32), rng.integers(0, CLASSES, BATCH)


def hidden(rng):
    kernel = rng.normal(size=(4, CLASSES)).astype(np.float32)
    return (rng.normal(size=(BATCH, 4)).astype(np.float32), kernel), rng.integers(0, CLASSES, BATCH)


def pairs(rng):
    a, b = rng.normal(size=(2, BATCH, 4)).astype(np.float32)
    return (a, b, np.float32(0.5)), np.array([0, 1, 2, 2, 3, 4])


def one(outputs, targets, i):
    return outputs[i : i + 1], targets[i : i + 1]


def one_hidden(outputs, targets, i):
    return (outputs[0][i : i + 1], outputs[1]), targets[i : i + 1]


# p = (1/2, 1/4, 1/8, 1/8): the logits are whole multiples of log 2.
LOGITS, LABELS = np.log([[0.5, 0.25, 0.125, 0.125]] * 2), np.array([0, 2])
LOG2 = np.log(2.0)
TOO_MANY = (np.zeros((2, 4)), np.zeros((2, 1), int), r"labels: came int64\[2,1\], wanted shape \[2\]")

LOSSES = {
    # -log p = log 2 and 3 log 2
    "cross_entropy": Row(losses.cross_entropy, classified, (LOGITS, LABELS, [LOG2, 3 * LOG2]), TOO_MANY, one),
    # mean over classes of -log p = (1 + 2 + 3 + 3) / 4 log 2 = 9/4 log 2; with a share of 0.4:
    # 0.6 * (1, 3) + 0.4 * 9/4 = (1.5, 2.7). The normaliser of log p is log 1 = 0, so 3 more in each logit
    # adds 0.1 * 3^2 = 0.9.
    "cross_entropy, smoothed": Row(
        partial(losses.cross_entropy, label_smoothing=0.4, z_loss=0.1),
        classified,
        (LOGITS + 3, LABELS, [1.5 * LOG2 + 0.9, 2.7 * LOG2 + 0.9]),
        TOO_MANY,
        one,
    ),
    "chunked_cross_entropy": Row(
        partial(losses.chunked_cross_entropy, chunk_size=4, label_smoothing=0.4, z_loss=0.1),
        hidden,
        ((LOGITS + 3, np.eye(4)), LABELS, [1.5 * LOG2 + 0.9, 2.7 * LOG2 + 0.9]),
        ((np.zeros((2, 3)), np.zeros((4, 5))), LABELS, r"kernel: came .*\[4,5\], wanted shape \[d, vocab"),
        one_hidden,
    ),
    # (1 - 1/2)^2 log 2 = 1/4 log 2; (7/8)^2 * 3 log 2 = 147/64 log 2
    "focal": Row(losses.focal, classified, (LOGITS, LABELS, [LOG2 / 4, LOG2 * 147 / 64]), TOO_MANY, one),
    # sqrt(1/2) * log 2 * 2; sqrt(7/8) * 3 log 2 * 0.5
    "focal, weighted": Row(
        partial(losses.focal, gamma=0.5, alpha=(2.0, 1.0, 0.5, 1.0, 1.0)),
        classified,
        (
            np.concatenate([LOGITS, np.full((2, 1), -np.inf)], axis=1),
            LABELS,
            [2 * 0.5**0.5 * LOG2, 1.5 * 0.875**0.5 * LOG2],
        ),
        (np.zeros((2, 3)), LABELS, r"alpha: came float32\[5\], wanted shape \[3\]"),
        one,
    ),
    # Lengths drop out: similarities [[1, 1], [0, 0]], with a scale of e^log 2 = 2. By rows both find their
    # partner with p = 1/2; by columns the first with e^2 / (e^2 + 1), the second with 1 / (e^2 + 1).
    "contrastive": Row(
        losses.contrastive,
        pairs,
        (
            (3 * np.eye(2), np.array([[5.0, 0.0], [0.1, 0.0]]), LOG2),
            None,
            [(LOG2 + np.log(np.e**2 + 1) - 2) / 2, (LOG2 + np.log(np.e**2 + 1)) / 2],
        ),
        ((np.eye(3), np.eye(2), 0.0), None, r"b: came .*\[2,2\], wanted shape \[batch, d\], batch=3"),
        None,
    ),
}


def test_every_loss_has_a_row():
    assert {name.partition(",")[0] for name in LOSSES} == set(losses.__all__)


@functools.cache
def compiled(loss):
    """One program, where each operation by itself would be one to compile."""
    return jax.jit(loss)


every = pytest.mark.parametrize("row", LOSSES.values(), ids=LOSSES)


@every
def test_known_values(row):
    outputs, targets, values = row.known
    np.testing.assert_allclose(compiled(row.loss)(outputs, targets), values, rtol=1e-6)


@every
def test_gradients(row):
    outputs, targets = row.make(np.random.default_rng(0))
    # Central differences with a step of 1e-2 are off by some 1e-4.
    loss = jax.jit(lambda outputs: row.loss(outputs, targets))
    check_grads(loss, (outputs,), order=1, modes=["rev"], eps=1e-2, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("row", [row for row in LOSSES.values() if row.each])
def test_batch_is_the_stack_of_its_examples(row):
    outputs, targets = row.make(np.random.default_rng(1))
    loss = compiled(row.loss)
    single = [loss(*row.each(outputs, targets, i)) for i in range(BATCH)]
    np.testing.assert_allclose(loss(outputs, targets), np.concatenate(single), rtol=1e-6)


@every
def test_float32_whatever_comes_in(row):
    outputs, targets = row.make(np.random.default_rng(2))
    short = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), outputs)
    long = jax.tree.map(lambda x: x.astype(jnp.float32), short)
    values = compiled(row.loss)(short, targets)
    assert values.dtype == jnp.float32
    assert values.shape == (BATCH,)
    # The same numbers, held longer: not a bfloat16 has been rounded on the way (they are 4e-3 apart).
    np.testing.assert_allclose(values, compiled(row.loss)(long, targets), rtol=1e-6)


@every
def test_jit_is_eager_and_traced_once(row):
    traces = []

    @jax.jit
    def traced(outputs, targets):
        traces.append(1)
        return row.loss(outputs, targets)

    for seed in (3, 4):
        outputs, targets = row.make(np.random.default_rng(seed))
        np.testing.assert_allclose(traced(outputs, targets), row.loss(outputs, targets), rtol=2e-6)
    assert len(traces) == 1


@every
def test_wrong_shape_names_the_argument(row):
    outputs, targets, message = row.wrong
    with pytest.raises(ValueError, match=message):
        row.loss(outputs, targets)


@every
def test_large_outputs_stay_finite(row):
    outputs, targets = row.make(np.random.default_rng(5))
    outputs = jax.tree.map(lambda x: x * 1e4, outputs)
    value, gradients = jax.jit(jax.value_and_grad(lambda x: jnp.sum(row.loss(x, targets))))(outputs)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((value, gradients)))


@pytest.mark.parametrize("name", ["cross_entropy", "chunked_cross_entropy", "focal"])
def test_no_class_is_nan_and_a_mask_removes_it(name):
    row = LOSSES[name]
    outputs, targets = row.make(np.random.default_rng(6))
    mask = np.arange(BATCH) >= 3
    loss = compiled(row.loss)
    rest = np.sum(loss(outputs, targets)[3:])
    targets[:3] = -1, -100, CLASSES
    assert np.array_equal(np.isnan(loss(outputs, targets)), ~mask)

    @jax.jit
    @jax.value_and_grad
    def total(outputs):
        return mean(row.loss(outputs, targets), jnp.asarray(mask)).total

    value, gradient = total(outputs)
    np.testing.assert_allclose(value, rest, rtol=1e-5)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradient))


def test_labels_of_few_bits():
    # 255 + 1 classes do not fit into the labels' own uint8.
    value = losses.cross_entropy(jnp.zeros((1, 300)), np.array([255], np.uint8))
    np.testing.assert_allclose(value, np.log(300), rtol=1e-6)
    focal = losses.focal(jnp.zeros((1, 300)), np.array([127], np.int8), gamma=0.0, alpha=np.arange(300.0))
    np.testing.assert_allclose(focal, 127 * np.log(300), rtol=1e-6)


def test_cross_entropy_at_1e4():
    logits = jnp.array([[1e4, -1e4, 1e4 - 1]])
    # The other is e^1 less likely: log(1 + e^-1); the last one 1 more; -1e4 is 2e4 behind.
    for label, value in enumerate([np.log1p(np.exp(-1)), 2e4 + np.log1p(np.exp(-1)), 1 + np.log1p(np.exp(-1))]):
        np.testing.assert_allclose(losses.cross_entropy(logits, jnp.array([label])), [value], rtol=1e-6)


def test_language_model_keeps_its_length():
    logits = np.random.default_rng(0).normal(size=(2, 3, CLASSES)).astype(np.float32)
    labels = np.array([[0, 1, 2], [2, 3, 4]])
    loss = compiled(losses.cross_entropy)
    flat = loss(logits.reshape(6, CLASSES), labels.ravel())
    np.testing.assert_allclose(loss(logits, labels), flat.reshape(2, 3), rtol=1e-6)


def test_focal_without_gamma_is_cross_entropy():
    logits, labels = classified(np.random.default_rng(0))
    np.testing.assert_allclose(
        losses.focal(logits, labels, gamma=0.0), losses.cross_entropy(logits, labels), rtol=1e-6
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_of_a_certain_example_has_no_gradient(gamma):
    # p rounds to 1, where the slope of (1 - p)^0.5 is infinite.
    gradient = jax.jit(jax.grad(lambda x: losses.focal(x, jnp.array(0), gamma=gamma)))
    np.testing.assert_array_equal(gradient(jnp.array([200.0, 0.0])), 0.0)


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (losses.cross_entropy, {"label_smoothing": 1.0}, ValueError, r"label_smoothing: came 1.0, wanted"),
        (losses.cross_entropy, {"z_loss": -0.1}, ValueError, "z_loss: came -0.1"),
        (losses.focal, {"gamma": -1.0}, ValueError, "gamma: came -1.0"),
        (losses.focal, {"gamma": "2"}, TypeError, "gamma: came '2'"),
    ],
)
def test_hyperparameters_are_checked(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(jnp.zeros((2, 3)), jnp.zeros(2, int), **arguments)


def test_types_are_checked():
    with pytest.raises(TypeError, match=r"labels: came float32\[2\], wanted dtype integer"):
        losses.cross_entropy(jnp.zeros((2, 3)), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"outputs: came float32\[2,3\], wanted a tuple \(hidden, kernel\)"):
        losses.chunked_cross_entropy(jnp.zeros((2, 3)), jnp.zeros(2, int))
    with pytest.raises(ValueError, match=r"outputs: came 2 values, wanted a tuple \(a, b, log_scale\)"):
        losses.contrastive((jnp.zeros((2, 3)), jnp.zeros((2, 3))))


# 26 tokens in chunks of 8 at most: four of 7, two rows of them zeros. No other array is near 26 * 64 elements.
TOKENS, WIDTH, VOCABULARY = (2, 13), 4, 64


def language_model():
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(*TOKENS, WIDTH)), rng.normal(size=(WIDTH, VOCABULARY))
    return jax.tree.map(jnp.float32, outputs), rng.integers(0, VOCABULARY, TOKENS), rng.normal(size=TOKENS)


def unchunked(outputs, labels, **hyperparameters):
    return losses.cross_entropy(outputs[0] @ outputs[1], labels, **hyperparameters)


@pytest.mark.parametrize(
    ("chunk_size", "hyperparameters"),
    [(8, {}), *((size, {"label_smoothing": 0.1, "z_loss": 1e-2}) for size in (1, 8, 13, 1024))],
)
def test_chunked_is_unchunked(chunk_size, hyperparameters):
    outputs, labels, weights = language_model()

    def value(loss, **more):
        def total(outputs):
            return jnp.sum(weights * loss(outputs, labels, **hyperparameters, **more))

        return jax.jit(jax.value_and_grad(total))(outputs)

    chunked = value(losses.chunked_cross_entropy, chunk_size=chunk_size)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), chunked, value(unchunked))


def equations(jaxpr):
    """Every equation of a jaxpr, inner jaxprs included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def largest(loss):
    outputs, labels, weights = language_model()
    function = jax.value_and_grad(lambda x: jnp.sum(weights * loss(x, labels)))
    found = equations(jax.make_jaxpr(function)(outputs).jaxpr)
    return max(variable.aval.size for equation in found for variable in equation.outvars)


def test_chunked_never_holds_all_logits():
    logits = 26 * VOCABULARY
    assert largest(unchunked) == logits  # the walk sees them where they are
    assert largest(partial(losses.chunked_cross_entropy, chunk_size=8)) == 7 * VOCABULARY
    assert largest(partial(losses.chunked_cross_entropy, chunk_size=26)) == logits  # one chunk is all of them


def test_chunked_multiplies_in_the_dtype_of_hidden():
    (hidden, kernel), labels, weights = language_model()
    loss = lambda outputs: jnp.sum(weights * losses.chunked_cross_entropy(outputs, labels, chunk_size=8))
    found = equations(jax.make_jaxpr(jax.grad(loss))((hidden.astype(jnp.bfloat16), kernel)).jaxpr)
    products = [equation for equation in found if equation.primitive.name == "dot_general"]
    assert {variable.aval.dtype for product in products for variable in product.invars} == {jnp.bfloat16.dtype}


def test_chunked_sums_the_gradient_of_a_short_kernel_in_float32():
    # 512 tokens give the same gradient, 1/512 of 1.0 each: a bfloat16 sum, with 8 bits, stops growing at
    # 256 of them. Both classes are equally likely, so the kernel's gradient is (p - 1) * hidden = -1/2.
    hidden, kernel = jnp.ones((512, 1), jnp.bfloat16), jnp.zeros((1, 2), jnp.bfloat16)
    labels = jnp.zeros(512, int)

    @jax.jit
    @jax.grad
    def gradient(kernel):
        return jnp.mean(losses.chunked_cross_entropy((hidden, kernel), labels, chunk_size=1))

    np.testing.assert_array_equal(gradient(kernel).astype(jnp.float32), [[-0.5, 0.5]])


def contrastive_gradient(outputs, targets, size):
    def total(outputs):
        return jnp.sum(losses.contrastive(outputs, targets)[:size])

    return jax.jit(jax.value_and_grad(total))(outputs)


def test_contrastive_padding_is_as_good_as_removed():
    (a, b, scale), _ = pairs(np.random.default_rng(0))
    value, (da, db, dscale) = contrastive_gradient((a[:4], b[:4], scale), None, 4)
    targets = np.array([0, 1, 2, 3, -1, -1])
    a[4], b[5] = np.nan, np.inf
    padded, (da_, db_, dscale_) = contrastive_gradient((a, b, scale), targets, 6)
    np.testing.assert_allclose(padded, value, rtol=1e-6)
    np.testing.assert_allclose(dscale_, dscale, rtol=1e-5)
    for gradient, wanted in ((da_, da), (db_, db)):
        np.testing.assert_allclose(gradient[:4], wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(gradient[4:], 0.0)


def test_contrastive_spares_pairs_of_one_thing():
    # All embeddings are equal: each is found among as many as it is held against, log(4), or, where two of
    # the four pairs show the same thing, one less for those two.
    outputs, loss = (np.ones((4, 2)), np.ones((4, 2)), np.zeros(())), compiled(losses.contrastive)
    np.testing.assert_allclose(loss(outputs), np.log([4, 4, 4, 4]), rtol=1e-6)
    np.testing.assert_allclose(loss(outputs, np.array([7, 7, 0, 1])), np.log([3, 3, 4, 4]), rtol=1e-6)


def test_contrastive_scale_is_learned_up_to_100():
    # Unit vectors whose similarities are x with the partner and x - 0.02 with the other. With a scale of e^t:
    # log(1 + exp(-0.02 e^t)), whose slope in t is -0.02 e^t / (1 + exp(0.02 e^t)).
    x = 0.01 + np.sqrt(0.5 - 0.01**2)
    a, b = jnp.eye(2), jnp.array([[x, x - 0.02], [x - 0.02, x]])

    @jax.jit
    @jax.value_and_grad
    def loss(log_scale):
        return jnp.mean(losses.contrastive((a, b, log_scale)))

    np.testing.assert_allclose(loss(0.0)[1], -0.02 / (1 + np.exp(0.02)), rtol=1e-4)
    np.testing.assert_allclose(loss(50.0)[0], np.log1p(np.exp(-2.0)), rtol=1e-4)
    assert loss(50.0)[1] == 0
