"""Sampling: exact supports and frequencies on a distribution made by hand, and a decoder read step by step."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import models, sampling
from jaxkit.types import Decoder

PROBABILITIES = np.array([0.08, 0.4, 0.02, 0.3, 0.2])


def chain(table, *, max_length=64):
    """A decoder that knows only the last token: `table[token]` are the probabilities of the next one."""
    logits = jnp.log(jnp.asarray(table, jnp.float32))
    traced = []

    def extend(params, tokens, cache, *, lengths=None, last=False):
        traced.append(tokens.shape)
        if last:
            tokens = jnp.take_along_axis(tokens, lengths[:, None] - 1, axis=1)
        return logits[tokens], cache

    cache = lambda batch, length, dtype=jnp.float32: jnp.zeros(batch)
    return Decoder(None, None, cache, extend, len(table), max_length), traced


FIVE, _ = chain([PROBABILITIES] * 5)


def draw(decoder, batch, *, seed=0, num_tokens=1, **arguments):
    prompts, lengths = np.zeros((batch, 1), int), np.ones(batch, int)
    key = jax.random.key(seed)
    return np.asarray(sampling.generate(decoder, {}, prompts, lengths, key, num_tokens=num_tokens, **arguments))


# What is left of the five, by hand; in order: 0.4 (1), 0.3 (3), 0.2 (4), 0.08 (0), 0.02 (2).
SUPPORTS = [
    ({}, {0, 1, 2, 3, 4}),
    ({"top_k": 1}, {1}),
    ({"top_k": 3}, {1, 3, 4}),
    ({"top_k": 5}, {0, 1, 2, 3, 4}),
    ({"top_p": 0.35}, {1}),  # 0.4 alone is enough
    ({"top_p": 0.45}, {1, 3}),  # 0.4 is not, 0.4 + 0.3 is
    ({"top_p": 0.95}, {0, 1, 3, 4}),
    ({"top_p": 1.0}, {0, 1, 2, 3, 4}),
    ({"top_p": 1e-9}, {1}),  # never nothing
    ({"top_p": 1e-50}, {1}),  # which is 0 in float32
    ({"min_p": 0.6}, {1, 3}),  # at least 0.24
    ({"min_p": 0.1}, {0, 1, 3, 4}),  # at least 0.04
    ({"min_p": 0.0}, {0, 1, 2, 3, 4}),
    ({"min_p": 1.0}, {1}),
    ({"top_k": 3, "top_p": 0.75}, {1, 3}),  # of 0.9 they are 0.78
    ({"top_p": 0.75}, {1, 3, 4}),  # of 1 they are 0.7
    ({"top_p": 0.95, "min_p": 0.4}, {1, 3, 4}),
]


@pytest.mark.parametrize(("arguments", "support"), SUPPORTS, ids=str)
def test_what_is_left_is_exactly_what_the_definitions_say(arguments, support):
    logits = np.log(np.stack([PROBABILITIES, PROBABILITIES[::-1]])).astype(np.float32) + 3
    left = np.asarray(sampling.filtered(jnp.asarray(logits), **arguments))
    assert set(np.flatnonzero(np.isfinite(left[0]))) == support
    assert {4 - token for token in np.flatnonzero(np.isfinite(left[1]))} == support  # each row for itself
    np.testing.assert_array_equal(left[np.isfinite(left)], logits[np.isfinite(left)])


def test_of_equals_the_first_come_first():
    left = lambda **arguments: np.flatnonzero(np.isfinite(sampling.filtered(jnp.zeros((2, 5)), **arguments)[0]))
    assert left(top_k=3).tolist() == [0, 1, 2]
    assert left(top_p=0.5).tolist() == [0, 1, 2]  # of 0.2 each
    assert left(min_p=1.0).tolist() == [0, 1, 2, 3, 4]


def test_a_top_p_of_one_keeps_what_rounding_would_lose():
    # The first has all of the probability that float32 can tell from 1.
    logits = jnp.full((2, 5), -30.0).at[:, 0].set(0.0)
    assert np.all(np.isfinite(sampling.filtered(logits, top_p=1.0)))
    assert np.isfinite(sampling.filtered(logits, top_p=0.99)).sum() == 2


@pytest.mark.parametrize(
    ("temperature", "top_p", "min_p", "wanted"),
    [
        (1.0, 1.0, 0.0, PROBABILITIES),
        (0.5, 1.0, 0.0, PROBABILITIES**2),  # p^(1 / 0.5), over its sum
        # The roots over their sum, 2.05, are 0.31, 0.27, 0.22: so three make 0.78.
        (2.0, 0.78, 0.0, np.sqrt(PROBABILITIES) * [0, 1, 0, 1, 1]),
        (1.0, 1.0, 0.3, PROBABILITIES * [0, 1, 0, 1, 1]),
    ],
    ids=str,
)
def test_tokens_come_as_often_as_they_should(temperature, top_p, min_p, wanted):
    tokens = draw(FIVE, 20_000, temperature=temperature, top_p=top_p, min_p=min_p)
    wanted = wanted / wanted.sum()
    often = np.bincount(tokens[:, 0], minlength=5) / 20_000
    # Four standard deviations of 20,000 draws.
    assert np.all(np.abs(often - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / 20_000))


@pytest.mark.parametrize("temperature", [1e-30, 1e-37, 1.2e-38])
def test_the_smallest_temperatures_take_the_most_probable(temperature):
    # Logits of 8, 9 and 7: divided by the last, all are infinite in float32.
    decoder, _ = chain([np.exp([8.0, 9.0, 7.0])] * 3)
    assert draw(decoder, 2, num_tokens=3, temperature=temperature).tolist() == [[1, 1, 1]] * 2


def test_temperature_zero_takes_the_most_probable():
    # From 0 to 1 to 2 to 0.
    decoder, _ = chain([[0.3, 0.4, 0.3], [0.3, 0.3, 0.4], [0.4, 0.3, 0.3]])
    assert draw(decoder, 2, num_tokens=5, temperature=0.0).tolist() == [[1, 2, 0, 1, 2]] * 2


def test_other_values_run_the_same_program():
    decoder, traced = chain([PROBABILITIES] * 5)
    draw(decoder, 3, num_tokens=4, temperature=1.0, top_p=0.9, min_p=0.01, stop_token=1)
    programs = len(traced)
    assert programs >= 2  # reading the prompt, and one token
    for temperature, top_p, min_p, stop_token in [(0.7, 0.5, 0.02, 2), (0.0, 1.0, 0.0, 3)]:
        values = dict(temperature=temperature, top_p=top_p, min_p=min_p, stop_token=stop_token, pad_token=4)
        draw(decoder, 3, seed=1, num_tokens=4, **values)
    assert len(traced) == programs
    draw(decoder, 3, num_tokens=5)
    assert len(traced) > programs  # so the line above can fail


def test_draws_are_a_function_of_the_key_and_the_row():
    tokens = draw(FIVE, 8, num_tokens=20)
    assert not np.array_equal(tokens, draw(FIVE, 8, num_tokens=20, seed=1))
    assert np.array_equal(tokens[:3], draw(FIVE, 3, num_tokens=20))  # whatever stands beside it
    assert len({row.tobytes() for row in tokens}) == 8
    # Steps draw anew: the probability of a row of one token is the sum of p^20, 1e-8.
    assert all(len(set(row)) > 1 for row in tokens)


def test_a_stop_token_ends_its_row_and_pads_it():
    # Rows count up from their prompt; 3 stops, but not the prompt's own.
    decoder, _ = chain(np.roll(np.eye(6), 1, axis=1))
    prompts, lengths = np.array([[0], [1], [2], [3]]), np.ones(4, int)
    tokens = sampling.generate(
        decoder, {}, prompts, lengths, jax.random.key(0), num_tokens=4, stop_token=3, pad_token=5
    )
    assert tokens.tolist() == [[1, 2, 3, 5], [2, 3, 5, 5], [3, 5, 5, 5], [4, 5, 0, 1]]


DECODER = models.transformer(
    vocabulary_size=13,
    max_length=12,
    num_layers=1,
    num_heads=2,
    features=16,
    positions="rotary",
    num_kv_heads=1,
)


def test_greedy_tokens_are_those_of_full_forwards():
    rng = np.random.default_rng(0)
    shapes, _ = jax.eval_shape(DECODER.init, jax.random.key(0), np.zeros((1, 1), int))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    lengths = np.array([5, 1, 3])
    prompts = rng.integers(0, 13, (3, 5))
    padded = np.where(np.arange(5)[None] < lengths[:, None], prompts, -1)
    # The longest sequence is as long as the decoder can read.
    drawn = sampling.generate(DECODER, params, padded, lengths, jax.random.key(0), num_tokens=7, temperature=0)
    apply = jax.jit(DECODER.apply)
    sequences = np.zeros((3, 12), int)
    sequences[:, :5] = prompts
    for step in range(7):
        logits, _ = apply(params, {}, sequences)
        sequences[np.arange(3), lengths + step] = np.argmax(logits, -1)[np.arange(3), lengths + step - 1]
    assert drawn.tolist() == [sequences[row, n : n + 7].tolist() for row, n in enumerate(lengths)]
    assert len(np.unique(drawn)) > 3  # not one token over and over


def test_generation_can_be_a_part_of_a_larger_program():
    @jax.jit
    def several(prompts, key, temperature):
        return sampling.generate(
            FIVE, {}, prompts, jnp.full(2, 3), key, num_tokens=4, temperature=temperature, top_k=2
        )

    tokens = several(np.zeros((2, 3), int), jax.random.key(0), 0.0)
    assert tokens.tolist() == [[1] * 4] * 2


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (dict(lengths=np.array([2, 0])), ValueError, "lengths: came 0 for prompt 1, wanted 1 to 3"),
        (dict(prompts=np.zeros((2, 0), int)), ValueError, "wanted 1 to 0, the width of prompts; an empty prompt"),
        (dict(lengths=np.array([4, 1])), ValueError, "lengths: came 4 for prompt 0"),
        (dict(lengths=np.array([1.0, 1.0])), TypeError, "lengths: came float64[2], wanted dtype integer"),
        (dict(prompts=np.zeros(3, int)), ValueError, "prompts: came int64[3], wanted shape [batch, length]"),
        (dict(prompts=np.zeros((3, 3), int)), ValueError, "lengths: came int64[2], wanted shape [batch], batch=3"),
        (dict(prompts=np.full((2, 3), 13)), ValueError, "prompts: came token 13, wanted 0 to 12"),
        (dict(prompts=np.full((2, 3), -1)), ValueError, "prompts: came token -1, wanted 0 to 12"),
        (dict(num_tokens=10), ValueError, "num_tokens: came 10, which after a prompt of 3 are more than the"),
        (dict(num_tokens=0), ValueError, "num_tokens: came 0, wanted a number >= 1"),
        (dict(temperature=-0.1), ValueError, "temperature: came -0.1, wanted a finite number >= 0; 0 is greedy"),
        (dict(temperature=float("nan")), ValueError, "temperature: came nan"),
        (dict(temperature=float("inf")), ValueError, "temperature: came inf"),
        (dict(temperature=None), TypeError, "temperature: came NoneType, wanted a finite number"),
        (dict(top_k=0), ValueError, "top_k: came 0, wanted a number >= 1"),
        (dict(top_k=14), ValueError, "top_k: came 14, wanted at most 13, the vocabulary's size"),
        (dict(top_k=2.0), TypeError, "top_k: came 2.0 (float), wanted a whole number"),
        (dict(top_p=0.0), ValueError, "top_p: came 0.0, wanted a number in (0, 1]"),
        (dict(top_p=1.1), ValueError, "top_p: came 1.1"),
        (dict(top_p="0.9"), TypeError, "top_p: came '0.9' (str)"),
        (dict(min_p=-0.1), ValueError, "min_p: came -0.1, wanted a number in [0, 1]"),
        (dict(min_p=np.float32(1.5)), ValueError, "min_p: came 1.5"),
        (dict(stop_token=13), ValueError, "stop_token: came token 13, wanted 0 to 12"),
        (dict(pad_token=-1), ValueError, "pad_token: came token -1"),
        (dict(key=0), TypeError, "key: came 0 (int), wanted one typed key"),
        (dict(decoder=models.mlp(num_classes=2)), TypeError, "decoder: came Model, wanted a Decoder"),
    ],
    # Not of the changes: a model has addresses in its name, others in each worker.
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_refused_in_one_line(changed, error, message):
    given = dict(
        decoder=DECODER,
        params={},
        prompts=np.zeros((2, 3), int),
        lengths=np.array([2, 3]),
        key=jax.random.key(0),
        num_tokens=2,
    )
    with pytest.raises(error, match=re.escape(message)) as caught:
        sampling.generate(**given | changed)
    assert "\n" not in str(caught.value)


def test_a_traced_length_counts_as_the_whole_width():
    decoder, _ = chain([PROBABILITIES] * 5, max_length=4)
    ask = lambda lengths: sampling.generate(
        decoder, {}, np.zeros((1, 3), int), lengths, jax.random.key(0), num_tokens=2
    )
    with pytest.raises(ValueError, match="num_tokens: came 2, which after a prompt of 3"):
        jax.eval_shape(ask, np.array([2]))
    assert jax.eval_shape(lambda: ask(np.array([2]))).shape == (1, 2)
