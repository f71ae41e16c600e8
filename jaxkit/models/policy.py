"""Precision: in which dtype parameters are kept, and in which a model computes."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxkit import contracts
from jaxkit.types import Decoder, Model

DTYPES = ("float32", "bfloat16")
M = TypeVar("M", Model, Decoder)


def precision(model: M, *, params: str = "float32", compute: str = "bfloat16", output: str = "float32") -> M:
    """The same model, its parameters kept in one dtype and computed with in another.

    inputs, outputs: the model's own; floating outputs come in `output`.

    Models compute in the dtype of the parameters they are given; the parameters are cast at each call, so
    gradients and optimizers see those that are kept. Normalisations, softmax and losses stay in float32. What
    changes without a gradient (`extra`) is left as it is.

    bfloat16 needs no loss scaling: it has the exponents of float32, so a gradient that is small in float32 is
    as small in bfloat16, and not zero. float16, which would need it, is refused.

    Args:
        model: a Model, or a Decoder, whose cache is then kept in `compute` too.
        params: the dtype that `init` gives and the optimizer updates, "float32" or "bfloat16".
        compute: the dtype of products and activations.
        output: the dtype of what the model returns.

    Raises:
        ValueError: another dtype.

    Source:
        Micikevicius et al. 2017, arXiv 1710.03740; bfloat16: Kalamkar et al. 2019, arXiv 1905.12322.

    Example:
        >>> from jaxkit import models
        >>> model = precision(models.mlp(num_classes=10))
        >>> images = jax.ShapeDtypeStruct((2, 28, 28), jnp.float32)
        >>> params, extra = jax.eval_shape(model.init, jax.random.key(0), images)
        >>> outputs, _ = jax.eval_shape(model.apply, params, extra, images)
        >>> params["output"]["kernel"].dtype.name, outputs.dtype.name
        ('float32', 'float32')
    """
    contracts.model(model)
    for name, dtype in {"params": params, "compute": compute, "output": output}.items():
        if dtype not in DTYPES:
            hint = "; float16 would need loss scaling" if dtype == "float16" else ""
            raise ValueError(f"{name}: came {dtype!r}, wanted one of {', '.join(DTYPES)}{hint}")

    def init(key, inputs):
        made, extra = model.init(key, inputs)
        return _cast(made, params), extra

    def apply(params, extra, inputs, *, key=None, train=False):
        outputs, extra = model.apply(_cast(params, compute), extra, inputs, key=key, train=train)
        return _cast(outputs, output), extra

    if not isinstance(model, Decoder):
        return model._replace(init=init, apply=apply)

    def cache(batch, length, dtype=compute):
        return model.cache(batch, length, dtype)

    def extend(params, tokens, cache, *, lengths=None, last=False):
        logits, cache = model.extend(_cast(params, compute), tokens, cache, lengths=lengths, last=last)
        return _cast(logits, output), cache

    return model._replace(init=init, apply=apply, cache=cache, extend=extend)


def _cast(tree: Any, dtype: str) -> Any:
    """The tree with its floating leaves in `dtype`."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)
