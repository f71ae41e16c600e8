"""The parameters and the forward pass of a decoder: blocks of attention and MLP, from embedding to logits.

`models.transformer` binds a `Form` to these functions; they are apart so that decoding can share them.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkit import checks, random
from jaxkit.models import attention
from jaxkit.models.feedforward import drop
from jaxkit.models.layers import dense, dense_params, embed, mlp, normal, normalize, normalize_params, project
from jaxkit.parallel import constrain
from jaxkit.types import Key

STD = 0.02
RESIDUAL = ("batch", "length", "features")


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

    @property
    def head_size(self) -> int:
        """The features of one head."""
        return self.features // self.num_heads

    @property
    def blocks(self) -> tuple[str, ...]:
        """What the parameters of the blocks are called: one name for each, or one for all, stacked."""
        return ("blocks",) if self.scan else tuple(f"block_{i}" for i in range(self.num_layers))


def init(form: Form, key: Key, inputs: Any) -> tuple[dict[str, Any], dict]:
    """A Model's `init`: tokens int[batch, length] -> (params, {})."""
    check_tokens(inputs=inputs, longest=form.max_length)

    def draw(name, *shape):
        return normal(random.named(key, name), shape, std=STD)

    params: dict[str, Any] = {"embedding": draw("embedding", form.vocabulary_size, form.features)}
    if form.positions == "learned":
        params["positions"] = draw("positions", form.max_length, form.features)
    # All blocks in one draw, which compiles in half the time of one for each.
    keys = jax.vmap(random.at, (None, 0))(random.named(key, "blocks"), jnp.arange(form.num_layers))
    stacked = jax.vmap(functools.partial(_init_block, form))(keys)
    for i, name in enumerate(form.blocks):
        params[name] = stacked if form.scan else jax.tree.map(operator.itemgetter(i), stacked)
    params["norm"] = normalize_params(form.features, norm=form.norm, bias=form.bias)
    if not form.tied:
        params["output"] = {"kernel": draw("output", form.features, form.vocabulary_size)}
    return params, {}


def _init_block(form: Form, key: Key) -> dict[str, Any]:
    # What is added to the sum over the layers starts smaller, so that the sum does not grow with their number.
    added = STD / math.sqrt(2 * form.num_layers)

    def layer(name, out, std=STD, size=form.features):
        return dense_params(random.named(key, name), (size, out), std=std, bias=form.bias)

    kv_features = form.num_kv_heads * form.head_size
    gate = {"gate": layer("gate", form.mlp_features)} if form.activation == "swiglu" else {}
    norm = normalize_params(form.features, norm=form.norm, bias=form.bias)
    return {
        "attention_norm": norm,
        "attention": {
            "query": layer("query", form.features),
            "key": layer("key", kv_features),
            "value": layer("value", kv_features),
            "output": layer("output", form.features, added),
        },
        "mlp_norm": norm,
        "mlp": {
            **gate,
            "up": layer("up", form.mlp_features),
            "down": layer("down", form.features, added, size=form.mlp_features),
        },
    }


def apply(form: Form, params: Any, extra: Any, inputs: Any, *, key: Key | None = None, train: bool = False):
    """A Model's `apply`: tokens int[batch, length] -> (logits f32[batch, length, vocabulary_size], extra)."""
    check_tokens(inputs=inputs, longest=form.max_length)
    check_params(form, params)
    rate = form.dropout if train else 0.0
    positions = jnp.arange(inputs.shape[1])[None]
    causal = functools.partial(attention.causal, attention=form.attention)
    attend = turned(form, positions, lambda *heads: (causal(*heads), None))
    x = drop(start(form, params, inputs, positions), key, rate=rate, name="embedding")

    def one(x, memory, layer, number):
        own = random.at(random.named(key, "blocks"), number) if rate and key is not None else None
        return block(form, layer, x, attend, own, rate)

    if form.remat:
        # A scan keeps the two computations apart by itself.
        one = jax.checkpoint(one, prevent_cse=not form.scan)
    x, _ = through(form, params, x, dict.fromkeys(form.blocks), one)
    if form.output == "logits":
        return logits(form, params, x), extra
    kernel = params["embedding"].T if form.tied else params["output"]["kernel"]
    return (normalize(params["norm"], x, norm=form.norm), kernel), extra


def start(form: Form, params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """The embedding of tokens int[batch, length] at positions int[batch or 1, length], with the positions' own."""
    x = embed(params["embedding"], tokens)
    if form.positions == "learned":
        # Clipped: only padding stands beyond the last position.
        x = x + jnp.asarray(params["positions"]).at[positions].get(mode="clip")
    return constrain(x, *RESIDUAL)


def turned(form: Form, positions: jax.Array, attend: Callable) -> Callable:
    """An `attend` as of `block` that first turns queries and keys, where positions are rotary."""
    if form.positions != "rotary":
        return attend
    angles = attention.angles(positions, head_size=form.head_size, base=form.rotary_base)
    return lambda q, k, v: attend(attention.rotate(q, angles), attention.rotate(k, angles), v)


def through(form: Form, params: Any, x: jax.Array, memories: dict[str, Any], one: Callable) -> tuple[Any, dict]:
    """All blocks, one after the other: x after the last, and what each remembers.

    Args:
        form: with `scan`, the blocks are a loop in the program.
        params: of the model.
        x: float[batch, length, features].
        memories: {name of a block: anything}; in a scan one for all, which each block is given and changes.
        one: (x, memory, parameters of the block, its number) -> (x, memory).
    """
    if form.scan:

        def step(carry, numbered):
            return one(*carry, *numbered), None

        numbered = (params["blocks"], jnp.arange(form.num_layers))
        (x, memory), _ = jax.lax.scan(step, (x, memories["blocks"]), numbered)
        return x, {"blocks": memory}
    after = {}
    for number, name in enumerate(form.blocks):
        x, after[name] = one(x, memories[name], params[name], number)
    return x, after


def block(form: Form, params: Any, x_BxLxD: jax.Array, attend: Callable, key: Key | None, rate: float):
    """One block: float[batch, length, features] -> (the same, what its attention remembers).

    Args:
        form: the sizes.
        params: of this block.
        x_BxLxD: its input.
        attend: (queries, keys, values) by heads -> (attended, what is remembered).
        key: of this block, for dropout.
        rate: of the dropout.
    """
    batch, length, _ = x_BxLxD.shape
    y = normalize(params["attention_norm"], x_BxLxD, norm=form.norm)

    def heads(name, axis, number):
        x = dense(params["attention"][name], y).reshape(batch, length, number, form.head_size)
        return constrain(x, "batch", "length", axis, "head_size")

    q_BxLxNxH = heads("query", "heads", form.num_heads)
    k_BxLxKxH, v_BxLxKxH = (heads(name, "kv_heads", form.num_kv_heads) for name in ("key", "value"))
    attended_BxLxNxH, memory = attend(q_BxLxNxH, k_BxLxKxH, v_BxLxKxH)
    attended_BxLxNxH = constrain(attended_BxLxNxH, "batch", "length", "heads", "head_size")
    y = dense(params["attention"]["output"], attended_BxLxNxH.reshape(batch, length, form.features))
    x_BxLxD = constrain(x_BxLxD + drop(y, key, rate=rate, name="attention"), *RESIDUAL)
    y = mlp(params["mlp"], normalize(params["mlp_norm"], x_BxLxD, norm=form.norm), activation=form.activation)
    return constrain(x_BxLxD + drop(y, key, rate=rate, name="mlp"), *RESIDUAL), memory


def logits(form: Form, params: Any, x: jax.Array) -> jax.Array:
    """What the last block gives, normed and projected: float[batch, length, features] -> f32[..., vocabulary]."""
    x = normalize(params["norm"], x, norm=form.norm)
    kernel = params["embedding"] if form.tied else params["output"]["kernel"]
    return constrain(project(x, kernel, transposed=form.tied), "batch", "length", "vocabulary")


def check_tokens(*, longest: int, **arrays: Any) -> None:
    """Checks that each array is tokens, int[batch, length], of 1 to `longest` in a row.

    Raises:
        ValueError: another rank or length.
        TypeError: not integers.

    Example:
        >>> check_tokens(longest=8, inputs=jnp.zeros((2, 8), jnp.int32))
    """
    for name, tokens in arrays.items():
        if len(tokens.shape) != 2 or not 1 <= tokens.shape[1] <= longest:
            raise ValueError(
                f"{name}: came {checks.describe(tokens)}, wanted tokens [batch, length] with a length of 1 to"
                f" {longest}, the positions there are; cut longer ones, or ask for more: max_length"
            )
        checks.dtypes(**{name: (tokens, jnp.integer)})


def check_params(form: Form, params: Any) -> None:
    """Checks that parameters are those of this form, by what tells them apart.

    Raises:
        ValueError: they are stacked and should not be, or the other way round; another vocabulary or width.
    """
    if form.blocks[0] not in params:
        raise ValueError(
            f"params: came {', '.join(params)}, wanted {form.blocks[0]!r}: with scan=True the parameters of the"
            " blocks are stacked under 'blocks', with scan=False they are block_0, block_1 and so on"
        )
    checks.shapes(embedding=(params["embedding"], f"{form.vocabulary_size} {form.features}"))
