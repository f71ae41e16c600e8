"""The decoder-only transformer, in plain JAX: GPT-2 and Llama are two settings of its arguments."""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkit import checks, random
from jaxkit.errors import did_you_mean
from jaxkit.models import attention as heads
from jaxkit.models.feedforward import check_rate, check_sizes, drop
from jaxkit.models.layers import (
    dense,
    dense_params,
    embed,
    mlp,
    normalize,
    normalize_params,
    project,
    size_of_mlp,
)
from jaxkit.types import Decoder, Key

STD = 0.02
CHOICES = {
    "positions": ("learned", "rotary"),
    "norm": ("layer", "rms"),
    "activation": ("gelu", "swiglu"),
    "attention": ("auto", "xla", "cudnn"),
    "output": ("logits", "hidden"),
}


class Form(NamedTuple):
    """The arguments of `transformer`, which explains them, with None replaced by what it stands for."""

    vocabulary_size: int
    max_length: int
    num_layers: int
    num_heads: int
    features: int
    num_kv_heads: int
    mlp_features: int
    positions: str
    norm: str
    activation: str
    bias: bool
    tied: bool
    dropout: float
    rotary_base: float
    remat: bool
    scan: bool
    attention: str
    output: str


class Cache(NamedTuple):
    """What decoding keeps of the tokens read so far.

    layers:  {name of the block: Memory}; under `scan` one Memory of all "blocks", with an axis of layers in front
    lengths: i32[batch], how many tokens each row has read
    """

    layers: dict[str, heads.Memory]
    lengths: jax.Array


def transformer(
    *,
    vocabulary_size: int,
    max_length: int,
    num_layers: int,
    num_heads: int,
    features: int,
    num_kv_heads: int | None = None,
    mlp_features: int | None = None,
    positions: str = "learned",
    norm: str = "layer",
    activation: str = "gelu",
    bias: bool = True,
    tied: bool = True,
    dropout: float = 0.0,
    rotary_base: float = 10_000.0,
    remat: bool = False,
    scan: bool = False,
    attention: str = "auto",
    output: str = "logits",
) -> Decoder:
    """A causal language model: normalisation before each part of a block, one more before the logits.

    tokens: int[batch, length] -> logits: f32[batch, length, vocabulary_size]

    It computes in the dtype of its parameters; normalisations, softmax and logits are in float32. A position
    sees itself and what stands before it, so padding belongs behind the tokens. A token outside of the
    vocabulary makes nan of its row.

    Args:
        vocabulary_size: tokens are 0 to vocabulary_size - 1.
        max_length: of a sequence, in tokens; with learned positions each has parameters.
        num_layers: blocks of attention and MLP.
        num_heads: of the queries; each has features / num_heads numbers.
        features: the width of the model.
        num_kv_heads: heads of keys and values, each shared by num_heads / num_kv_heads queries; None: num_heads.
        mlp_features: the width inside of an MLP; None: 4 features, for "swiglu" two thirds of that.
        positions: "learned" (an embedding of each) or "rotary" (queries and keys are turned).
        norm: "layer" or "rms".
        activation: "gelu" (in the form with tanh) or "swiglu" (gated).
        bias: whether projections and layer norms have one.
        tied: whether the logits are made with the embedding; else with an `output` of their own.
        dropout: the fraction that is dropped in training of the embeddings and of what each attention and
            each MLP adds; needs a key then.
        rotary_base: the longest wavelength is about 2 pi times this, in tokens; 500,000 in Llama 3.
        remat: compute a block's inner values again in the backward pass, rather than keep them.
        scan: one program for all blocks, whose parameters are stacked under `blocks`; compiles faster.
        attention: "auto" (cuDNN where it can, decided while tracing: `models.attention.choose`), "xla", "cudnn".
        output: "logits", or "hidden" for `losses.chunked_cross_entropy`: (hidden [batch, length, features],
            kernel [features, vocabulary_size]). Decoding gives logits in both cases.

    Raises:
        TypeError: an argument of another type; tokens that are not integers.
        ValueError: a size below 1, sizes that do not divide, an unknown choice; tokens that are not
            [batch, length], or longer than max_length; a key that is missing.

    Source:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2), whose initialisation
        this is: a deviation of 0.02 (for positions too), over sqrt(2 num_layers) where a block adds to the rest;
        Touvron et al. 2023, arXiv 2302.13971 (Llama).

    Example:
        >>> gpt2 = transformer(
        ...     vocabulary_size=50257, max_length=1024, num_layers=12, num_heads=12, features=768)
        >>> tokens = jax.ShapeDtypeStruct((8, 1024), jnp.int32)
        >>> params, _ = jax.eval_shape(gpt2.init, jax.random.key(0), tokens)
        >>> sum(leaf.size for leaf in jax.tree.leaves(params)), params["block_0"]["mlp"]["up"]["kernel"].shape
        (124439808, (768, 3072))
    """
    given = dict(locals())
    _check_arguments(given)
    given["num_kv_heads"] = num_kv_heads or num_heads
    given["mlp_features"] = mlp_features or size_of_mlp(features, activation)
    form = Form(**given)
    return Decoder(
        init=functools.partial(_init, form),
        apply=functools.partial(_apply, form),
        cache=functools.partial(_cache, form),
        extend=functools.partial(_extend, form),
        vocabulary_size=vocabulary_size,
        max_length=max_length,
    )


def _init(form: Form, key: Key, inputs: Any) -> tuple[dict[str, Any], dict]:
    _check_tokens(form, inputs=inputs)

    def normal(name, *shape):
        return STD * jax.random.normal(random.named(key, name), shape, jnp.float32)

    params: dict[str, Any] = {"embedding": normal("embedding", form.vocabulary_size, form.features)}
    if form.positions == "learned":
        params["positions"] = normal("positions", form.max_length, form.features)
    # All blocks in one draw, so that many are compiled as fast as one.
    keys = jax.vmap(random.at, (None, 0))(random.named(key, "blocks"), jnp.arange(form.num_layers))
    blocks = jax.vmap(functools.partial(_init_block, form))(keys)
    if form.scan:
        params["blocks"] = blocks
    else:
        for i, name in enumerate(_names(form)):
            params[name] = jax.tree.map(operator.itemgetter(i), blocks)
    params["norm"] = normalize_params(form.features, norm=form.norm, bias=form.bias)
    if not form.tied:
        params["output"] = {"kernel": normal("output", form.features, form.vocabulary_size)}
    return params, {}


def _init_block(form: Form, key: Key) -> dict[str, Any]:
    head_size = form.features // form.num_heads
    # What adds to the rest is smaller, so that the sum over the layers is not larger than its parts.
    added = STD / math.sqrt(2 * form.num_layers)

    def layer(name, out, std=STD, size=form.features):
        return dense_params(random.named(key, name), (size, out), std=std, bias=form.bias)

    kv_features = form.num_kv_heads * head_size
    gate = {"gate": layer("gate", form.mlp_features)} if form.activation == "swiglu" else {}
    normalization = normalize_params(form.features, norm=form.norm, bias=form.bias)
    return {
        "attention_norm": normalization,
        "attention": {
            "query": layer("query", form.features),
            "key": layer("key", kv_features),
            "value": layer("value", kv_features),
            "output": layer("output", form.features, added),
        },
        "mlp_norm": normalization,
        "mlp": {
            **gate,
            "up": layer("up", form.mlp_features),
            "down": layer("down", form.features, added, size=form.mlp_features),
        },
    }


def _apply(form: Form, params, extra, inputs, *, key=None, train=False):
    _check_tokens(form, inputs=inputs)
    _check_params(form, params)
    rate = form.dropout if train else 0.0
    positions = jnp.arange(inputs.shape[1])[None]
    attend = _turned(form, positions, lambda q, k, v: (heads.causal(q, k, v, attention=form.attention), None))
    x = drop(_embed(form, params, inputs, positions), key, rate=rate, name="embedding")

    def block(x, layer, number):
        own = random.at(random.named(key, "blocks"), number) if rate else None
        return _block(form, layer, x, attend, own, rate)[0]

    if form.remat:
        # A scan keeps the two computations apart by itself.
        block = jax.checkpoint(block, prevent_cse=not form.scan)
    if form.scan:
        numbered = (params["blocks"], jnp.arange(form.num_layers))
        x, _ = jax.lax.scan(lambda x, layer: (block(x, *layer), None), x, numbered)
    else:
        for i, name in enumerate(_names(form)):
            x = block(x, params[name], i)
    x = normalize(params["norm"], x, norm=form.norm)
    if form.output == "hidden":
        return (x, params["embedding"].T if form.tied else params["output"]["kernel"]), extra
    return _logits(form, params, x), extra


def _cache(form: Form, batch: int, length: int, dtype: Any = jnp.float32) -> Cache:
    check_sizes(batch=batch, length=length)
    if length > form.max_length:
        raise ValueError(f"length: came {length}, wanted at most max_length={form.max_length}")
    shape = (batch, length, form.num_kv_heads, form.features // form.num_heads)

    def memory(*layers):
        return heads.Memory(jnp.zeros((*layers, *shape), dtype), jnp.zeros((*layers, *shape), dtype))

    layers = {"blocks": memory(form.num_layers)} if form.scan else {name: memory() for name in _names(form)}
    return Cache(layers, jnp.zeros(batch, jnp.int32))


def _extend(form: Form, params, tokens, cache: Cache, *, lengths=None, last: bool = False):
    places = next(iter(cache.layers.values())).keys.shape[-3]
    _check_tokens(form._replace(max_length=places), tokens=tokens)
    _check_params(form, params)
    batch, number = tokens.shape
    lengths = jnp.full(batch, number, jnp.int32) if lengths is None else jnp.asarray(lengths, jnp.int32)
    checks.shapes(tokens=(tokens, "batch n"), lengths=(lengths, "batch"), cache=(cache.lengths, "batch"))
    # What is not real must not be nan: a masked nan is one still, in a weighted sum.
    tokens = jnp.where(jnp.arange(number)[None, :] < lengths[:, None], tokens, 0)
    positions = cache.lengths[:, None] + jnp.arange(number)[None, :]
    x = _embed(form, params, tokens, positions)

    def block(x, memory, layer, index: tuple = ()):
        attend = _turned(form, positions, functools.partial(heads.remember, memory, index, positions=positions))
        return _block(form, layer, x, attend, None, 0.0)

    layers = dict(cache.layers)
    if form.scan:
        numbered = (params["blocks"], jnp.arange(form.num_layers))
        step = lambda carry, layer: (block(carry[0], carry[1], layer[0], (layer[1],)), None)
        (x, layers["blocks"]), _ = jax.lax.scan(step, (x, layers["blocks"]), numbered)
    else:
        for name in layers:
            x, layers[name] = block(x, layers[name], params[name])
    if last:
        x = jnp.take_along_axis(x, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)
    x = normalize(params["norm"], x, norm=form.norm)
    read = cache.lengths + lengths
    # More tokens than places: there is no right answer, and under jit no error.
    x = jnp.where((read <= places)[:, None, None], x, jnp.nan)
    return _logits(form, params, x), Cache(layers, read)


def _block(form: Form, params, x_BxLxD, attend: Callable, key: Key | None, rate: float):
    """The block's output, and what its attention remembers."""
    batch, length, _ = x_BxLxD.shape
    y = normalize(params["attention_norm"], x_BxLxD, norm=form.norm)
    q, k, v = (
        dense(params["attention"][name], y).reshape(batch, length, number, form.features // form.num_heads)
        for name, number in (("query", form.num_heads), ("key", form.num_kv_heads), ("value", form.num_kv_heads))
    )
    attended_BxLxNxH, memory = attend(q, k, v)
    y = dense(params["attention"]["output"], attended_BxLxNxH.reshape(batch, length, form.features))
    x_BxLxD = x_BxLxD + drop(y, key, rate=rate, name="attention")
    y = mlp(params["mlp"], normalize(params["mlp_norm"], x_BxLxD, norm=form.norm), activation=form.activation)
    return x_BxLxD + drop(y, key, rate=rate, name="mlp"), memory


def _turned(form: Form, positions, attend: Callable) -> Callable:
    """Attention that first turns queries and keys, where positions are rotary."""
    if form.positions != "rotary":
        return attend
    turned = heads.angles(positions, head_size=form.features // form.num_heads, base=form.rotary_base)
    return lambda q, k, v: attend(heads.rotate(q, turned), heads.rotate(k, turned), v)


def _embed(form: Form, params, tokens, positions):
    x = embed(params["embedding"], tokens)
    if form.positions == "rotary":
        return x
    # Clipped: only padding stands beyond the last position.
    return x + params["positions"].at[positions].get(mode="clip")


def _logits(form: Form, params, x):
    if form.tied:
        return project(x, params["embedding"], transposed=True)
    return project(x, params["output"]["kernel"], transposed=False)


def _names(form: Form) -> list[str]:
    return [f"block_{i}" for i in range(form.num_layers)]


def _check_arguments(given: dict[str, Any]) -> None:
    sizes = (
        "vocabulary_size",
        "max_length",
        "num_layers",
        "num_heads",
        "features",
        "num_kv_heads",
        "mlp_features",
    )
    check_sizes(**{name: given[name] for name in sizes if given[name] is not None})
    check_rate(dropout=given["dropout"])
    for name, known in CHOICES.items():
        if given[name] not in known:
            raise ValueError(
                f"{name}: came {given[name]!r}, wanted one of {', '.join(known)}"
                + did_you_mean(str(given[name]), known)
            )
    features, num_heads, num_kv_heads = given["features"], given["num_heads"], given["num_kv_heads"]
    if features % num_heads:
        raise ValueError(f"num_heads: came {num_heads}, which do not divide the features, {features}")
    if num_heads % (num_kv_heads or num_heads):
        raise ValueError(f"num_kv_heads: came {num_kv_heads}, which do not divide the num_heads, {num_heads}")
    if given["positions"] == "rotary" and features // num_heads % 2:
        raise ValueError(
            f"num_heads: came {num_heads}, which leaves each head {features // num_heads} features;"
            " rotary positions turn pairs: choose an even number"
        )
    if not given["rotary_base"] > 0:
        raise ValueError(f"rotary_base: came {given['rotary_base']}, wanted a number above 0")


def _check_tokens(form: Form, **arrays: Any) -> None:
    for name, tokens in arrays.items():
        if len(tokens.shape) != 2 or not 1 <= tokens.shape[1] <= form.max_length:
            raise ValueError(
                f"{name}: came {checks.describe(tokens)}, wanted tokens [batch, length]"
                f" with a length of 1 to {form.max_length}"
            )
        checks.dtypes(**{name: (tokens, jnp.integer)})


def _check_params(form: Form, params) -> None:
    first = "blocks" if form.scan else "block_0"
    if first not in params:
        raise ValueError(
            f"params: came {', '.join(params)}, wanted {first!r}: with scan=True the blocks' parameters are"
            " stacked under 'blocks', with scan=False they are block_0, block_1, ..."
        )
    checks.shapes(embedding=(params["embedding"], f"{form.vocabulary_size} {form.features}"))
