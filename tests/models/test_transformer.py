"""The decoder: causality, numbers derived by hand, and that every form of it gives the same ones."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import backends, models
from jaxkit.models import attention
from jaxkit.models.layers import project

LENGTH = 10
TINY = dict(vocabulary_size=19, max_length=LENGTH, num_layers=2, num_heads=4, features=32)
FAMILIES = {
    "gpt2": TINY,
    "llama": dict(
        **TINY, positions="rotary", norm="rms", activation="swiglu", bias=False, tied=False, num_kv_heads=2
    ),
}
every_family = pytest.mark.parametrize("family", FAMILIES)
TOKENS = np.random.default_rng(0).integers(0, 19, (3, LENGTH))


@functools.cache
def begin(family):
    """A model, and parameters far enough from their start that every part of it matters."""
    model = models.transformer(**FAMILIES[family])
    shapes, _ = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    rng = np.random.default_rng(1)

    def value(path, leaf):
        one = path[-1].key == "scale"
        return (one + 0.2 * rng.normal(size=leaf.shape)).astype(np.float32)

    return model, jax.tree_util.tree_map_with_path(value, shapes)


@functools.cache
def compiled(family, **form):
    """(apply, extend), compiled once for all tests that give them the same shapes."""
    model = models.transformer(**FAMILIES[family], **form)
    return jax.jit(model.apply), jax.jit(model.extend)


@functools.cache
def full(family):
    return np.asarray(compiled(family)[0](begin(family)[1], {}, TOKENS)[0])


def stack(params):
    """The parameters of `scan=True` from those of `scan=False`."""
    names = [name for name in params if name.startswith("block_")]
    rest = {name: value for name, value in params.items() if name not in names}
    return {**rest, "blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *(params[name] for name in names))}


@every_family
def test_the_gradient_to_later_positions_is_exactly_zero(family):
    # Each position has a token of its own, so a row of the embedding's gradient belongs to a position.
    model = models.transformer(**FAMILIES[family], output="hidden")
    weights = np.random.default_rng(2).normal(size=(32,)).astype(np.float32)

    def each_position(embedding):
        (hidden, _), _ = model.apply({**begin(family)[1], "embedding": embedding}, {}, np.arange(LENGTH)[None])
        return hidden[0] @ weights

    jacobian = jax.jit(jax.jacrev(each_position))(begin(family)[1]["embedding"])
    reach = np.abs(jacobian).max(axis=-1)[:, :LENGTH]  # [position that is read, position that it sees]
    assert np.all(reach[np.triu_indices(LENGTH, 1)] == 0)
    assert np.all(reach[np.tril_indices(LENGTH)] > 1e-4)


def layer_norm(params, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * params["scale"] + params["bias"]


def rms_norm(params, x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * params["scale"]


def attend_by_hand(q, k, v):
    """One head, [length, size] each: position t is the average of v up to t, weighted by exp(q k / sqrt(size))."""
    out = np.zeros_like(q)
    for t in range(len(q)):
        weights = np.exp([q[t] @ k[s] / math.sqrt(q.shape[1]) for s in range(t + 1)])
        out[t] = sum(weight * value for weight, value in zip(weights / weights.sum(), v))
    return out


def turn_by_hand(x, base=10_000.0):
    """[length, size]: the pair (j, j + size / 2) as a complex number turns by position x base^(-2j / size)."""
    half = x.shape[1] // 2
    pairs = x[:, :half] + 1j * x[:, half:]
    turned = [[pairs[p, j] * np.exp(1j * p * base ** (-j / half)) for j in range(half)] for p in range(len(x))]
    return np.concatenate([np.real(turned), np.imag(turned)], axis=1)


def affine(params, x):
    return x @ params["kernel"] + params["bias"]


def gpt2_by_hand(params, tokens):
    x = params["embedding"][tokens] + params["positions"][: len(tokens)]
    for i in range(2):
        block = params[f"block_{i}"]
        heads, dense = block["attention"], block["mlp"]
        y = layer_norm(block["attention_norm"], x)
        q, k, v = (np.split(affine(heads[name], y), 4, axis=1) for name in ("query", "key", "value"))
        x = x + affine(heads["output"], np.hstack([attend_by_hand(*head) for head in zip(q, k, v)]))
        y = affine(dense["up"], layer_norm(block["mlp_norm"], x))
        y = 0.5 * y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + affine(dense["down"], y)
    return layer_norm(params["norm"], x) @ params["embedding"].T


def llama_by_hand(params, tokens):
    x = params["embedding"][tokens]
    for i in range(2):
        block = params[f"block_{i}"]
        heads, dense = block["attention"], block["mlp"]
        y = rms_norm(block["attention_norm"], x)
        q = [turn_by_hand(head) for head in np.split(y @ heads["query"]["kernel"], 4, axis=1)]
        k = [turn_by_hand(head) for head in np.split(y @ heads["key"]["kernel"], 2, axis=1)]
        v = np.split(y @ heads["value"]["kernel"], 2, axis=1)
        # Heads 0 and 1 share the first keys, 2 and 3 the second.
        attended = [attend_by_hand(q[n], k[n // 2], v[n // 2]) for n in range(4)]
        x = x + np.hstack(attended) @ heads["output"]["kernel"]
        y = rms_norm(block["mlp_norm"], x)
        gate = y @ dense["gate"]["kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ dense["up"]["kernel"])) @ dense["down"]["kernel"]
    return rms_norm(params["norm"], x) @ params["output"]["kernel"]


@pytest.mark.parametrize(("family", "by_hand"), [("gpt2", gpt2_by_hand), ("llama", llama_by_hand)])
def test_the_numbers_are_those_of_the_papers(family, by_hand):
    params = jax.tree.map(np.float64, begin(family)[1])
    for row, tokens in enumerate(TOKENS):
        np.testing.assert_allclose(full(family)[row], by_hand(params, tokens), atol=2e-5)
    assert np.ptp(full(family), axis=-1).min() > 1


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        # 124M: 50257 x 768 and 1024 x 768 of embeddings, 12 blocks of 7,087,872, 1,536 of the last norm.
        (dict(vocabulary_size=50257, max_length=1024, num_layers=12, num_heads=12, features=768), 124_439_808),
        # Llama 3.2 1B: 128256 x 2048 of embedding, 16 blocks of 60,821,504, 2,048 of the last norm.
        (
            dict(
                FAMILIES["llama"] | dict(vocabulary_size=128_256, max_length=131_072, num_layers=16, num_heads=32),
                features=2048,
                num_kv_heads=8,
                mlp_features=8192,
                tied=True,
            ),
            1_235_814_400,
        ),
    ],
)
@pytest.mark.parametrize("scan", [False, True])
def test_published_models_have_their_published_sizes(arguments, count, scan):
    model = models.transformer(**arguments, scan=scan)
    params, _ = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@functools.cache
def started():
    """The parameters of one model without and with a scan, as they start."""
    wide = TINY | dict(features=64, tied=False)
    both = [models.transformer(**wide, scan=scan) for scan in (False, True)]
    return jax.device_get(jax.jit(lambda key: [model.init(key, TOKENS)[0] for model in both])(jax.random.key(3)))


def test_parameters_start_at_the_stated_size():
    params = started()[1]
    blocks = params["blocks"]
    # The deviation of n draws is right to 1 / sqrt(2 n): 4 of these are 4 % for 8,192 numbers at least.
    for part, name in [("attention", "query"), ("attention", "key"), ("attention", "value"), ("mlp", "up")]:
        assert np.std(blocks[part][name]["kernel"]) == pytest.approx(0.02, rel=0.04)
        assert not np.any(blocks[part][name]["bias"])
    for part, name in [("attention", "output"), ("mlp", "down")]:
        assert np.std(blocks[part][name]["kernel"]) == pytest.approx(0.02 / 2, rel=0.04)  # sqrt(2 x 2) = 2
    for leaf in (params["embedding"], params["output"]["kernel"], params["positions"]):
        assert np.std(leaf) == pytest.approx(0.02, rel=0.12)  # 640 numbers
    assert np.all(blocks["mlp_norm"]["scale"] == 1)


def test_a_scan_starts_from_the_same_parameters():
    jax.tree.map(np.testing.assert_array_equal, stack(started()[0]), started()[1])


def test_remat_and_scan_change_neither_loss_nor_gradients():
    # A scan of the other family is compared in decoding.
    value, gradient = loss_and_gradient(begin("gpt2")[1])
    other_value, other = loss_and_gradient(stack(begin("gpt2")[1]), scan=True, remat=True)
    assert other_value == pytest.approx(value, rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), other, stack(gradient))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(other)) > 0.1


def loss_and_gradient(params, **form):
    model = models.transformer(**TINY, **form)
    loss = lambda params: jnp.mean(jax.nn.logsumexp(model.apply(params, {}, TOKENS)[0], axis=-1))

    return jax.device_get(jax.jit(jax.value_and_grad(loss))(params))


def test_remat_computes_blocks_again():
    def count(remat):
        model = models.transformer(**TINY, remat=remat)
        loss = lambda params: jnp.sum(model.apply(params, {}, TOKENS)[0])
        lowered = jax.jit(jax.grad(loss)).lower(begin("gpt2")[1])
        return lowered.as_text().count("stablehlo.tanh"), lowered.as_text().count("optimization_barrier")

    # One GELU in each of two blocks, and once more on the way back, kept apart from the first by a barrier.
    assert count(False) == (2, 0)
    assert count(True) == (4, 2)


def test_dropout_is_of_the_embedding_and_of_what_each_part_adds():
    # Each adds a power of two to every feature; the last norm then divides a row by one number.
    form = dict(**TINY | dict(features=256), dropout=0.5, norm="rms", output="hidden")
    model = models.transformer(**form)
    params, _ = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), params)
    params["norm"]["scale"] += 1
    added = [params["embedding"]]
    for i in range(2):
        added += [params[f"block_{i}"]["attention"]["output"]["bias"], params[f"block_{i}"]["mlp"]["down"]["bias"]]
    for power, array in enumerate(added):
        array += 2.0**power

    def hidden(model, params, seed):
        train = jax.jit(functools.partial(model.apply, train=True))
        return np.asarray(train(params, {}, TOKENS[:, :1], key=jax.random.key(seed))[0][0])

    drawn = hidden(model, params, 0)
    # 1, 2, 4, 8 and 16, each kept or not: 32 sums. Were two of the masks the same, there would be 16.
    for row in drawn[:, 0]:
        assert len(np.unique(np.round(row / row.max(), 3))) > 25
    assert not np.allclose(hidden(model, params, 1), drawn, atol=0.1)
    scanned = models.transformer(**form, scan=True, remat=True)
    np.testing.assert_allclose(hidden(scanned, stack(params), 0), drawn, rtol=1e-5)


@every_family
@pytest.mark.parametrize("scan", [False, True])
def test_cached_decoding_equals_the_full_forward(family, scan):
    model, params = begin(family)
    extend = compiled(family, scan=scan)[1] if scan else compiled(family)[1]
    if scan:
        model, params = models.transformer(**FAMILIES[family], scan=True), stack(params)
    lengths = np.array([4, 1, 6])
    # Padding of any kind, even outside of the vocabulary.
    prompts = np.where(np.arange(6)[None] < lengths[:, None], TOKENS[:, :6], [[-1], [99], [3]])
    logits, cache = extend(params, prompts, model.cache(3, LENGTH), lengths=lengths)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(logits[row, :length], full(family)[row, :length], atol=1e-5)
    # Then token by token, each row where it stands, over the padding.
    for step in range(4):
        logits, cache = extend(params, TOKENS[np.arange(3), lengths + step][:, None], cache)
        np.testing.assert_allclose(logits[:, 0], full(family)[np.arange(3), lengths + step], atol=1e-5)
    assert cache.lengths.tolist() == [8, 5, 10]


def test_the_last_logits_are_those_after_the_last_real_token():
    model, params = begin("gpt2")
    lengths = np.array([4, 1, 6])
    extend = jax.jit(functools.partial(model.extend, last=True))
    last, _ = extend(params, TOKENS[:, :6], model.cache(3, LENGTH), lengths=lengths)
    np.testing.assert_allclose(last[:, 0], full("gpt2")[np.arange(3), lengths - 1], atol=1e-5)


def test_more_tokens_than_places_give_nan_in_their_row():
    model, params = begin("gpt2")
    extend = compiled("gpt2")[1]
    _, cache = extend(params, TOKENS[:, :6], model.cache(3, LENGTH), lengths=np.array([4, 1, 6]))
    logits, _ = extend(params, TOKENS[:, 4:], cache, lengths=np.array([6, 2, 5]))
    np.testing.assert_allclose(logits[0], full("gpt2")[0, 4:], atol=1e-5)  # the last place is one
    assert np.isnan(logits).any(axis=(1, 2)).tolist() == [False, False, True]
    assert np.all(np.isnan(logits[2]))


def test_a_length_that_there_is_not_gives_nan_from_then_on():
    model, params = begin("gpt2")
    extend = compiled("gpt2")[1]
    _, cache = extend(params, TOKENS[:, :2], model.cache(3, LENGTH), lengths=np.array([3, -1, 2]))
    for _ in range(2):
        logits, cache = extend(params, TOKENS[:, 2:4], cache, lengths=np.array([2, 2, 2]))
        assert np.isnan(logits).all(axis=(1, 2)).tolist() == [True, True, False]


@every_family
def test_padding_never_changes_a_real_position(family):
    lengths = np.array([4, 1, 7])
    real = np.arange(LENGTH)[None] < lengths[:, None]
    padded, _ = compiled(family)[0](begin(family)[1], {}, np.where(real, TOKENS, 18 - TOKENS))
    assert np.array_equal(np.asarray(padded)[real], full(family)[real])
    assert not np.allclose(np.asarray(padded)[~real], full(family)[~real], atol=0.1)


def test_a_token_outside_the_vocabulary_is_nan_in_its_row_alone():
    for token in (-1, 19):
        tokens = TOKENS.copy()
        tokens[1, 4] = token
        logits = np.asarray(compiled("gpt2")[0](begin("gpt2")[1], {}, tokens)[0])
        assert np.all(np.isnan(logits[1, 4:]))
        np.testing.assert_array_equal(np.isnan(logits[[0, 2]]), False)


@every_family
def test_hidden_states_times_the_kernel_are_the_logits(family):
    (hidden, kernel), extra = compiled(family, output="hidden")[0](begin(family)[1], {}, TOKENS)
    assert (hidden.shape, kernel.shape, extra) == ((3, LENGTH, 32), (32, 19), {})
    np.testing.assert_allclose(hidden @ kernel, full(family), atol=1e-4)


def test_rotary_scores_depend_on_the_distance_alone():
    q, k = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

    def score(at_q, at_k):
        turn = lambda x, at: attention.rotate(x, attention.angles(jnp.array([[at]]), head_size=8, base=100.0))
        return float(jnp.sum(turn(q, at_q) * turn(k, at_k)))

    assert score(7, 3) == pytest.approx(score(5, 1), abs=1e-5)
    assert abs(score(7, 3) - score(7, 4)) > 1e-2


@pytest.mark.parametrize("transposed", [True, False])
def test_short_products_of_the_logits_have_short_gradients_near_the_long_ones(transposed):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(5, 8)), rng.normal(size=(6, 8) if transposed else (8, 6))
    loss = lambda x, kernel: jnp.sum(jnp.sin(project(x, kernel, transposed=transposed)))
    short = [jnp.asarray(array, jnp.bfloat16) for array in (x, kernel)]
    gradient = jax.grad(loss, (0, 1))
    for a, b in zip(gradient(*short), gradient(*(array.astype(jnp.float32) for array in short))):
        assert a.dtype == jnp.bfloat16
        # Each of up to 8 terms of size up to 3 is rounded by 2^-9 of itself, and the sum once more.
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=8 * 3 * 2**-9)
    products = re.findall(r"(\w+)\[[\d,]*\] = dot_general", str(jax.make_jaxpr(gradient)(*short)))
    assert products == ["f32", "bf16", "bf16"]
    # Forward-mode differentiation, as for products with the Hessian, along the arguments themselves.
    along = jax.jvp(loss, tuple(short), tuple(short))[1]
    wanted = sum(jnp.sum(a * b, dtype=jnp.float32) for a, b in zip(gradient(*short), short))
    assert float(along) == pytest.approx(float(wanted), abs=0.1)


def test_the_softmax_is_in_float32_also_where_float64_is_allowed():
    with jax.enable_x64(True):
        x = jax.ShapeDtypeStruct((1, 4, 2, 3), jnp.float32)
        found = str(jax.make_jaxpr(functools.partial(attention.causal, attention="xla"))(x, x, x))
    assert "f32[1,2,2,4]" in found
    assert not re.search(r"f64\[\d", found)


def spec(*shape, dtype="bfloat16"):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize(
    ("asked", "query", "chosen", "why"),
    [
        ("auto", spec(2, 64, 4, 64), "cudnn", "a GPU, and cuDNN takes"),
        ("auto", spec(2, 64, 4, 64, dtype="float32"), "xla", "not float32"),
        ("auto", spec(2, 64, 4, 256), "xla", "heads of 256"),
        ("auto", spec(2, 64, 4, 12), "xla", "cuDNN cannot: The head dim must be a multiple of 8"),
        ("xla", spec(2, 64, 4, 64), "xla", "asked for by name"),
        ("cudnn", spec(2, 64, 4, 12), "cudnn", "asked for by name"),
    ],
)
def test_attention_is_chosen_by_backend_dtype_and_shape(monkeypatch, asked, query, chosen, why):
    assert attention.choose("auto", query, query).implementation == "xla"

    def on_a_gpu(query, key, value, *, is_causal, implementation):
        if query.shape[-1] % 8:
            raise NotImplementedError("The head dim must be a multiple of 8.\nMore.")
        assert (is_causal, implementation) == (True, "cudnn")
        return query

    monkeypatch.setattr(backends, "platform", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", on_a_gpu)
    choice = attention.choose(asked, query, query)
    assert choice.implementation == chosen
    assert why in choice.reason


def test_cudnn_is_given_heads_as_they_are_and_told_that_they_are_causal(monkeypatch):
    # [batch, length, heads, size], as it takes them, with two queries for each key.
    query, key, value = (np.zeros((2, 6, heads, 8), jnp.bfloat16) for heads in (4, 2, 2))
    given = []

    def on_a_gpu(*arrays, **options):
        given.append((arrays, options))
        return arrays[0]

    monkeypatch.setattr(backends, "platform", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", on_a_gpu)
    found = attention.causal(query, key, value, attention="auto")
    arrays, options = given[-1]
    assert options == {"is_causal": True, "implementation": "cudnn"}
    assert all(came is array for came, array in zip(arrays, (query, key, value), strict=True))
    assert found is query


def test_where_there_is_no_cudnn_the_choice_says_so(monkeypatch):
    # The backend is a GPU in name only: jax itself finds that there is no cuDNN.
    monkeypatch.setattr(backends, "platform", lambda: "gpu")
    choice = attention.choose("auto", spec(2, 64, 4, 64), spec(2, 64, 4, 64))
    assert choice.implementation == "xla"
    assert choice.reason.startswith("cuDNN cannot: ")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(num_heads=5), ValueError, "num_heads: came 5, which do not divide the features, 32"),
        (dict(num_kv_heads=3), ValueError, "num_kv_heads: came 3, which do not divide the num_heads, 4"),
        (dict(num_layers=0), ValueError, "num_layers: came 0, wanted a number >= 1"),
        (dict(mlp_features=2.5), TypeError, "mlp_features: came 2.5 (float), wanted a whole number"),
        (
            dict(positions="rotry"),
            ValueError,
            "positions: came 'rotry', wanted one of learned, rotary; did you mean",
        ),
        (dict(norm="batch"), ValueError, "norm: came 'batch', wanted one of layer, rms"),
        (dict(dropout=1.0), ValueError, "dropout: came 1.0, wanted a number in [0, 1)"),
        (dict(scan="False"), TypeError, "scan: came 'False' (str), wanted True or False"),
        (dict(num_heads=32, positions="rotary"), ValueError, "rotary positions turn pairs"),
        (dict(rotary_base=0), ValueError, "rotary_base: came 0"),
    ],
)
def test_arguments_are_checked_when_a_decoder_is_made(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        models.transformer(**TINY | arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda model, params: model.apply(params, {}, np.zeros((1, 11), int)),
            ValueError,
            "inputs: came int64[1,11], wanted tokens [batch, length] with a length of 1 to 10",
        ),
        (lambda model, params: model.apply(params, {}, np.zeros((1, 0), int)), ValueError, "a length of 1 to 10"),
        (
            lambda model, params: model.init(jax.random.key(0), np.zeros(3, int)),
            ValueError,
            "inputs: came int64[3]",
        ),
        (lambda model, params: model.apply(params, {}, np.zeros((1, 2))), TypeError, "wanted dtype integer"),
        (
            lambda model, params: model.apply(stack(params), {}, TOKENS),
            ValueError,
            "wanted 'block_0': with scan=True the parameters",
        ),
        (
            lambda model, params: model.apply({**params, "embedding": np.zeros((20, 32))}, {}, TOKENS),
            ValueError,
            "embedding: came float64[20,32], wanted shape [19, 32]",
        ),
        (lambda model, params: model.cache(1, 11), ValueError, "length: came 11, wanted at most max_length=10"),
        (
            lambda model, params: model.extend(params, TOKENS[:, :4], model.cache(3, 3)),
            ValueError,
            "tokens: came int64[3,4], wanted tokens [batch, length] with a length of 1 to 3",
        ),
        (
            lambda model, params: model.extend(params, TOKENS[:, :4], model.cache(3, 5), lengths=np.ones(2, int)),
            ValueError,
            "lengths: came int",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_remedy(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(*begin("gpt2"))
