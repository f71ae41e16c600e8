"""Language modelling: the mean is over tokens, masks leave no trace, bits per byte are right for any tokenizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import checks, costs, data, losses, metrics, objectives, parallel, recipe, updates
from jaxkit.means import add
from jaxkit.types import Field, Model, Recipe, Source

VOCABULARY, FEATURES = 5, 3


def bigrams(output="logits", vocabulary=VOCABULARY):
    """The next token from the last one, through `FEATURES` numbers: to be checked by hand."""

    def init(key, inputs):
        a, b = jax.random.split(key)
        table = jax.random.normal(a, (vocabulary, FEATURES))
        return {"embedding": table, "kernel": jax.random.normal(b, (FEATURES, vocabulary))}, {}

    def apply(params, extra, inputs, *, key=None, train=False):
        hidden = params["embedding"][inputs]
        outputs = (hidden, params["kernel"])
        return (outputs if output == "hidden" else hidden @ params["kernel"]), extra

    return Model(init, apply)


@pytest.fixture
def batch():
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (4, 8)).astype(np.int32)
    token_mask = np.ones((4, 8), bool)
    token_mask[3, 5:] = False
    sizes = np.array([1, 2, 3, 4, 0], np.uint8)[tokens]
    # Never a target, so never counted.
    sizes[:, 0] = 9
    return {"tokens": tokens, "token_mask": token_mask, "token_bytes": sizes}


@pytest.fixture
def params():
    return bigrams().init(jax.random.key(0), jnp.zeros((1, 7), jnp.int32))[0]


def by_hand(params, batch):
    """Nats, bytes and hits of each counted target, one after the other, in float64."""
    table = np.asarray(params["embedding"], np.float64) @ np.asarray(params["kernel"], np.float64)
    nats, sizes, hits = [], [], []
    for window, row in enumerate(batch["tokens"]):
        if not batch.get("mask", np.ones(len(batch["tokens"]), bool))[window]:
            continue
        for place in range(1, len(row)):
            if batch["token_mask"][window, place]:
                logits = table[row[place - 1]]
                nats.append(np.log(np.exp(logits).sum()) - logits[row[place]])
                sizes.append(int(batch["token_bytes"][window, place]))
                hits.append(logits.argmax() == row[place])
    return np.array(nats), np.array(sizes), np.array(hits)


LOSSES = {"logits": losses.cross_entropy, "hidden": losses.chunked_cross_entropy}


@pytest.mark.parametrize("output", LOSSES)
def test_the_loss_is_a_mean_over_tokens(batch, params, output):
    objective = objectives.language_modelling(bigrams(output), LOSSES[output], vocabulary_size=VOCABULARY)
    loss, (measured, extra) = objective(params, {}, batch, jax.random.key(0))
    nats, _, _ = by_hand(params, batch)
    # 4 windows of 7 targets, without the last three of one.
    assert float(loss.count) == len(nats) == 25
    np.testing.assert_allclose(float(loss.compute()), nats.mean(), rtol=1e-5)
    assert (measured, extra) == ({}, {})


def test_tokens_of_few_bits_are_tokens():
    # As bytes they are the whole of uint8: 256 of them do not fit into it.
    tokens = np.array([[250, 251, 252]], np.uint8)
    inputs, targets, _ = objectives.next_tokens({"tokens": tokens})
    assert (inputs.dtype, targets.dtype, targets.tolist()) == (jnp.int32, jnp.int32, [[251, 252]])
    follows = Model(
        jnp.zeros, lambda params, extra, inputs, *, key=None, train=False: (10 * params[inputs], extra)
    )
    evaluate = objectives.language_evaluation(follows, vocabulary_size=256, metrics={"accuracy": metrics.accuracy})
    assert evaluate(jnp.eye(256)[jnp.arange(1, 257) % 256], {}, {"tokens": tokens})["accuracy"].compute() == 1


@pytest.mark.parametrize("output", LOSSES)
def test_evaluation_is_what_it_is_by_hand(batch, params, output):
    batch = batch | {"mask": np.array([True, False, True, True])}
    evaluate = objectives.language_evaluation(
        bigrams(output), vocabulary_size=VOCABULARY, metrics={"accuracy": metrics.accuracy}
    )
    found = {name: float(state.compute()) for name, state in jax.jit(evaluate)(params, {}, batch).items()}
    nats, sizes, hits = by_hand(params, batch)
    assert found == pytest.approx(
        {
            "loss": nats.mean(),
            "perplexity": np.exp(nats.mean()),
            "bits_per_byte": nats.sum() / np.log(2) / sizes.sum(),
            "accuracy": hits.mean(),
        },
        rel=1e-5,
    )


def test_metrics_in_chunks_are_those_of_all_logits(batch, params, monkeypatch):
    # 28 targets in chunks of 5: the last one is padded.
    monkeypatch.setattr("jaxkit.language._CHUNK", 5)
    counted = {"top": lambda *args: metrics.top_k(*args, k=2), "confusion": metrics.confusion}
    found = []
    for output in LOSSES:
        evaluate = objectives.language_evaluation(bigrams(output), vocabulary_size=VOCABULARY, metrics=counted)
        found.append(jax.jit(evaluate)(params, {}, batch))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *found)
    assert float(found[1]["confusion"].matrix.sum()) == 25


def test_an_evaluation_makes_its_logits_once(batch, params):
    # 4 x 7 tokens of 3 numbers times 3 x 5: the loss and the metrics need the same. `plan` counts on it.
    counted = {"accuracy": metrics.accuracy, "confusion": metrics.confusion}
    for output in LOSSES:
        evaluate = objectives.language_evaluation(bigrams(output), vocabulary_size=VOCABULARY, metrics=counted)
        assert costs.flops(jax.make_jaxpr(evaluate)(params, {}, batch)) == 2 * 28 * FEATURES * VOCABULARY


def test_the_gradient_is_the_same_for_logits_and_for_hidden(batch, params):
    found = []
    for output in LOSSES:
        objective = objectives.language_modelling(bigrams(output), LOSSES[output], vocabulary_size=VOCABULARY)
        gradients = jax.jit(updates.gradients(objective))
        found.append(gradients(params, {}, batch, jax.random.key(0))[0].compute())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *found)


def test_what_is_masked_leaves_no_trace_and_halves_are_added(batch, params):
    evaluate = jax.jit(objectives.language_evaluation(bigrams(), vocabulary_size=VOCABULARY))
    whole = evaluate(params, {}, batch)
    half = lambda rows: evaluate(params, {}, {name: array[rows] for name, array in batch.items()})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), whole, add(half([0, 1]), half([2, 3])))
    # Whatever is in a place that is not counted: inputs after the last counted target too.
    tokens, sizes = batch["tokens"].copy(), batch["token_bytes"].copy()
    tokens[3, 5:], sizes[3, 5:] = 4, 9
    other = evaluate(params, {}, batch | {"tokens": tokens, "token_bytes": sizes})
    jax.tree.map(np.testing.assert_array_equal, whole, other)


def test_bits_per_byte_do_not_depend_on_how_the_text_is_cut(params):
    # Two tokenizers of one text of 8 bytes, both sure of it to 8 bits: 8 tokens of a byte, or 4 tokens of two.
    even = Model(
        bigrams().init, lambda params, extra, x, **_: (jnp.zeros((*x.shape, 2 if x.shape[1] == 8 else 4)), {})
    )
    for length in (8, 4):
        batch = {
            "tokens": jnp.zeros((1, length + 1), jnp.int32),
            "token_bytes": jnp.full((1, length + 1), 8 // length, jnp.uint8),
        }
        found = objectives.language_evaluation(even, vocabulary_size=2)(params, {}, batch)
        assert float(found["bits_per_byte"].compute()) == pytest.approx(1.0)


def test_without_bytes_there_are_no_bits_per_byte(params):
    evaluate = objectives.language_evaluation(bigrams(), vocabulary_size=VOCABULARY)
    assert set(evaluate(params, {}, {"tokens": jnp.zeros((1, 3), jnp.int32)})) == {"loss", "perplexity"}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tokens": np.zeros((4, 1), np.int32)}, ValueError, "length >= 1"),
        ({"tokens": np.zeros((4, 8), np.float32)}, TypeError, "tokens: came float32"),
        ({"tokens": np.zeros(8, np.int32)}, ValueError, r"tokens: came int32\[8\]"),
        ({"token_mask": np.ones((4, 7), bool)}, ValueError, r"token_mask: came bool\[4,7\]"),
        ({"token_mask": np.ones((4, 8), np.int32)}, TypeError, "mask: came int32"),
    ],
)
def test_batches_are_checked(batch, params, change, error, message):
    objective = objectives.language_modelling(bigrams(), losses.cross_entropy, vocabulary_size=VOCABULARY)
    with pytest.raises(error, match=message):
        objective(params, {}, batch | change, jax.random.key(0))


def test_a_loss_of_an_example_is_no_loss_of_tokens(batch, params):
    objective = objectives.language_modelling(
        bigrams(), lambda outputs, targets: jnp.zeros(len(targets)), vocabulary_size=VOCABULARY
    )
    with pytest.raises(ValueError, match=r"loss: came float32\[4\], wanted shape \[4, 7\]"):
        objective(params, {}, batch, jax.random.key(0))


def test_names_that_are_taken():
    with pytest.raises(ValueError, match="'perplexity'"):
        objectives.language_evaluation(bigrams(), vocabulary_size=5, metrics={"perplexity": metrics.accuracy})
    with pytest.raises(ValueError, match="'loss'"):
        objectives.language_modelling(
            bigrams(), losses.cross_entropy, vocabulary_size=5, metrics={"loss": metrics.accuracy}
        )


@pytest.mark.parametrize("output", LOSSES)
def test_plan_sees_a_vocabulary_that_the_model_lacks(output):
    source = data.synthetic_tokens(vocabulary_size=6, length=8, size=4, seed=0)
    sources = {"train": source._replace(open=lambda: pytest.fail("was opened")), "test": source}
    model, layout, optimizer = bigrams(output), parallel.jit(), updates.ema(decay=0.9)
    size = objectives.vocabulary_of(sources)
    objective = objectives.language_modelling(model, LOSSES[output], vocabulary_size=size)
    made = Recipe(
        data=sources,
        init=lambda key: updates.init_state(*model.init(key, None), optimizer),
        update=updates.step(layout.across(updates.gradients(objective)), optimizer),
        evaluate=objectives.language_evaluation(model, vocabulary_size=size),
        predict=lambda params, extra, batch: {},
        layout=layout,
    )
    with pytest.raises(checks.UsageError, match=r"update: vocabulary: came a model of 5 tokens for data of 6"):
        recipe.plan(made, batch_size=2)


def test_splits_have_one_vocabulary():
    def source(vocabulary):
        return Source("mine", {"tokens": Field((9,), np.int32, vocabulary)}, lambda: None)

    assert objectives.vocabulary_of({"train": source(7), "test": source(7)}) == 7
    with pytest.raises(checks.UsageError, match="one tokenizer for all splits"):
        objectives.vocabulary_of({"train": source(7), "test": source(8)})
    with pytest.raises(checks.UsageError, match=r"config\.data\.train: .*wanted 'tokens' of a known vocabulary"):
        objectives.vocabulary_of({"train": source(None)})
