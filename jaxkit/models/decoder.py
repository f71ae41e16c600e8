"""The decoder-only transformer, in plain JAX: GPT-2 and Llama are two settings of its arguments."""

import functools
from typing import Any

from jaxkit import checks
from jaxkit.errors import did_you_mean
from jaxkit.models.blocks import Form, apply, init
from jaxkit.models.decoding import empty, extend
from jaxkit.models.feedforward import check_rate
from jaxkit.models.layers import size_of_mlp
from jaxkit.types import Decoder

SIZES = ("vocabulary_size", "max_length", "num_layers", "num_heads", "features", "num_kv_heads", "mlp_features")
SWITCHES = ("bias", "tied", "remat", "scan")
CHOICES = {
    "positions": ("learned", "rotary"),
    "norm": ("layer", "rms"),
    "activation": ("gelu", "swiglu"),
    "attention": ("auto", "xla", "cudnn"),
    "output": ("logits", "hidden"),
}


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
        >>> import jax
        >>> gpt2 = transformer(
        ...     vocabulary_size=50257, max_length=1024, num_layers=12, num_heads=12, features=768)
        >>> tokens = jax.ShapeDtypeStruct((8, 1024), "int32")
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
        init=functools.partial(init, form),
        apply=functools.partial(apply, form),
        cache=functools.partial(empty, form),
        extend=functools.partial(extend, form),
        vocabulary_size=vocabulary_size,
        max_length=max_length,
    )


def _check_arguments(given: dict[str, Any]) -> None:
    checks.sizes(**{name: given[name] for name in SIZES if given[name] is not None})
    check_rate(dropout=given["dropout"])
    checks.at_least(1, rotary_base=given["rotary_base"])
    for name in SWITCHES:
        if not isinstance(given[name], bool):
            raise TypeError(f"{name}: came {checks.describe(given[name])}, wanted True or False")
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
