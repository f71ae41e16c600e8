"""Sampling from a decoder: greedy, temperature, top-k, top-p and min-p, for prompts of different lengths."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import checks, random
from jaxkit.types import Decoder, Key


def generate(
    decoder: Decoder,
    params: Any,
    prompts: Any,
    lengths: Any,
    key: Key,
    *,
    num_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    stop_token: int | None = None,
    pad_token: int = 0,
) -> jax.Array:
    """Goes on with each prompt, token by token.

    prompts int[batch, length], lengths int[batch] -> i32[batch, num_tokens]

    Compiled once for a decoder, the shapes, `num_tokens`, `top_k` and which arguments are None; other values of
    the rest, a temperature of 0 included, run the same program. A row draws with a key of its own number, so
    what stands beside it changes nothing.

    Args:
        decoder: such as `models.transformer`; make it once, for the program is kept with it.
        params: of the decoder.
        prompts: tokens, padded on the right with any tokens.
        lengths: how many of each row are real, from 1 on.
        key: consumed.
        num_tokens: how many new tokens in each row.
        temperature: the logits are divided by it; 0 takes the most probable token.
        top_k: draw among the k most probable tokens.
        top_p: draw among the fewest most probable tokens that together have this probability, in (0, 1].
        min_p: draw among tokens at least this fraction as probable as the most probable one, in [0, 1].
        stop_token: ends a row, whose later tokens are `pad_token`; None: no row ends early.
        pad_token: see `stop_token`.

    The temperature comes first, then top-k, top-p and min-p, each on what the one before it left.

    Raises:
        ValueError: an empty prompt, a token outside the vocabulary, more tokens than the decoder's max_length;
            an argument outside its range. What is traced cannot be looked at, and is not.
        TypeError: an argument of another type.

    Source:
        top-k: Fan et al. 2018, arXiv 1805.04833; top-p: Holtzman et al. 2020, arXiv 1904.09751;
        min-p: Nguyen et al. 2024, arXiv 2407.01082.

    Example:
        >>> from jaxkit import models
        >>> decoder = models.transformer(vocabulary_size=8, max_length=6, num_layers=1, num_heads=1, features=4)
        >>> params, _ = decoder.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
        >>> prompts = np.array([[3, 1, 2], [5, 0, 0]])
        >>> generate(decoder, params, prompts, np.array([3, 1]), jax.random.key(1), num_tokens=3, top_p=0.9).shape
        (2, 3)
    """
    checks.key(key)
    checks.sizes(num_tokens=num_tokens)
    _check_filters(decoder, temperature, top_k, top_p, min_p)
    _check_prompts(decoder, prompts, lengths, num_tokens)
    _check_vocabulary(decoder, stop_token=stop_token, pad_token=pad_token)
    as_float = lambda value: None if value is None else jnp.asarray(value, jnp.float32)
    return _generate(
        params,
        jnp.asarray(prompts, jnp.int32),
        jnp.asarray(lengths, jnp.int32),
        key,
        (as_float(temperature), as_float(top_p), as_float(min_p)),
        (stop_token, pad_token),
        decoder=decoder,
        num_tokens=int(num_tokens),
        top_k=None if top_k is None else int(top_k),
    )


def filtered(
    logits: jax.Array,
    *,
    top_k: int | None = None,
    top_p: float | jax.Array | None = None,
    min_p: float | jax.Array | None = None,
) -> jax.Array:
    """The logits f32[batch, vocabulary], at -inf where a token may not be drawn.

    Of equally probable tokens the one with the smaller number comes first.

    Args:
        logits: divided by the temperature already.
        top_k: as in `generate`, as are the others.
        top_p: see there.
        min_p: see there.

    Example:
        >>> logits = jnp.log(jnp.array([[0.1, 0.5, 0.25, 0.15]]))
        >>> jnp.isfinite(filtered(logits, top_p=0.7)).tolist()
        [[False, True, True, False]]
    """
    if top_k is not None or top_p is not None:
        # By rank, not by a threshold, under which equals of the last one would pass too.
        values, tokens = jax.lax.top_k(logits, logits.shape[-1] if top_k is None else top_k)
        if top_p is not None:
            probabilities = jax.nn.softmax(values, axis=-1)
            # Before the first less than any top_p, also one that float32 takes for 0.
            before = jnp.pad(jnp.cumsum(probabilities, axis=-1)[:, :-1], ((0, 0), (1, 0)), constant_values=-1.0)
            # A sum of many may round to 1 before the last of them.
            values = jnp.where((before < top_p) | (jnp.asarray(top_p) >= 1), values, -jnp.inf)
        rows = jnp.arange(logits.shape[0])[:, None]
        logits = jnp.full_like(logits, -jnp.inf).at[rows, tokens].set(values)
    if min_p is not None:
        least = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(min_p)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    return logits


@functools.partial(jax.jit, static_argnames=("decoder", "num_tokens", "top_k"))
def _generate(params, prompts, lengths, key, filters, ends, *, decoder, num_tokens, top_k):
    temperature, top_p, min_p = filters
    stop_token, pad_token = ends
    batch, length = prompts.shape
    rows = jax.vmap(random.at, (None, 0))(random.named(key, "sampling"), jnp.arange(batch))

    def draw(logits, number):
        greedy = jnp.argmax(logits, axis=-1)
        # From the largest: however small the temperature is, what is divided by it does not overflow there.
        warm = (logits - jnp.max(logits, axis=-1, keepdims=True)) / jnp.where(temperature > 0, temperature, 1.0)
        warm = filtered(warm, top_k=top_k, top_p=top_p, min_p=min_p)
        keys = jax.vmap(random.at, (0, None))(rows, number)
        return jnp.where(temperature > 0, jax.vmap(jax.random.categorical)(keys, warm), greedy)

    def going(carry):
        number, done, *_ = carry
        return (number < num_tokens) & ~jnp.all(done)

    def step(carry):
        number, done, logits, cache, drawn = carry
        tokens = jnp.where(done, pad_token, draw(logits[:, 0], number)).astype(jnp.int32)
        drawn = drawn.at[:, number].set(tokens)
        if stop_token is not None:
            done = done | (tokens == stop_token)
        logits, cache = decoder.extend(params, tokens[:, None], cache)
        return number + 1, done, logits, cache, drawn

    cache = decoder.cache(batch, min(length + num_tokens, decoder.max_length))
    logits, cache = decoder.extend(params, prompts, cache, lengths=lengths, last=True)
    drawn = jnp.full((batch, num_tokens), pad_token, jnp.int32)
    return jax.lax.while_loop(going, step, (0, jnp.zeros(batch, bool), logits, cache, drawn))[-1]


def _check_filters(decoder: Decoder, temperature, top_k, top_p, min_p) -> None:
    if not isinstance(decoder, Decoder):
        raise TypeError(f"decoder: came {checks.describe(decoder)}, wanted a Decoder, such as models.transformer")
    ranges = {
        "temperature": (temperature, lambda x: 0 <= x < float("inf"), "a finite number >= 0; 0 is greedy"),
        "top_p": (top_p, lambda x: 0 < x <= 1, "a number in (0, 1]"),
        "min_p": (min_p, lambda x: 0 <= x <= 1, "a number in [0, 1]"),
    }
    for name, (value, within, wanted) in ranges.items():
        if (value is None and name != "temperature") or isinstance(value, jax.core.Tracer):
            continue
        if value is None or isinstance(value, bool | str) or np.ndim(value):
            raise TypeError(f"{name}: came {checks.describe(value)}, wanted {wanted}")
        if not within(float(value)):
            raise ValueError(f"{name}: came {value}, wanted {wanted}")
    if top_k is not None:
        checks.sizes(top_k=top_k)
        if top_k > decoder.vocabulary_size:
            raise ValueError(
                f"top_k: came {top_k}, wanted at most {decoder.vocabulary_size}, the vocabulary's size"
            )


def _check_prompts(decoder: Decoder, prompts, lengths, num_tokens: int) -> None:
    checks.shapes(prompts=(prompts, "batch length"), lengths=(lengths, "batch"))
    checks.dtypes(prompts=(prompts, jnp.integer), lengths=(lengths, jnp.integer))
    longest = jnp.shape(prompts)[1]
    if not isinstance(lengths, jax.core.Tracer):
        lengths = np.asarray(lengths)
        wrong = np.flatnonzero((lengths < 1) | (lengths > longest))
        if wrong.size:
            row = int(wrong[0])
            raise ValueError(
                f"lengths: came {lengths[row]} for prompt {row}, wanted 1 to {longest}, the width of prompts;"
                " an empty prompt has nothing to go on from: begin it with a token"
            )
        longest = int(lengths.max(initial=0))
        if not isinstance(prompts, jax.core.Tracer):
            real = np.arange(np.shape(prompts)[1])[None] < lengths[:, None]
            _check_vocabulary(decoder, prompts=np.asarray(prompts)[real])
    if longest + num_tokens > decoder.max_length:
        raise ValueError(
            f"num_tokens: came {num_tokens}, which after a prompt of {longest} are more than the decoder's"
            f" {decoder.max_length} positions (max_length); ask for fewer, or cut the prompt on the left"
        )


def _check_vocabulary(decoder: Decoder, **tokens: Any) -> None:
    for name, values in tokens.items():
        if values is None:
            continue
        checks.dtypes(**{name: (values, jnp.integer)})
        outside = np.ravel(values)[(np.ravel(values) < 0) | (np.ravel(values) >= decoder.vocabulary_size)]
        if outside.size:
            raise ValueError(
                f"{name}: came token {outside[0]}, wanted 0 to {decoder.vocabulary_size - 1}, the decoder's"
                " vocabulary; is the tokenizer the one it was trained with?"
            )
