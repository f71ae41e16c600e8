"""Any Flax Linen module as a `Model`."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn

from jaxkit import checks
from jaxkit.models.inputs import placeholder
from jaxkit.random import named
from jaxkit.types import Model

# What a module's __call__ may call the switch, and its value for `train`.
_SWITCHES = {
    "train": lambda train: train,
    "training": lambda train: train,
    "deterministic": lambda train: not train,
}


def from_linen(module: nn.Module, *, rngs: tuple[str, ...] = ("dropout",)) -> Model:
    """A Linen module as a Model: `params` is its collection of that name, `extra` a dict of all others.

    inputs, outputs: whatever the module's `__call__` takes as its one argument, and returns. Floating inputs are
    cast to the dtype of the parameters, so that a module with `dtype=None` computes in it.

    In training the collections in `extra` may change; in evaluation they come back as they are, and nothing
    is drawn. A switch is passed where `__call__` takes it: `train`, `training` or `deterministic`.

    Args:
        module: an instance, not the class.
        rngs: the streams that the module draws from in training; each gets a key of its own, by name.

    Raises:
        TypeError: not an instance of a Linen module, or its `__call__` wants more than inputs and a switch.
        ValueError: from `apply`: the module draws and there is no key, or a stream that is not in `rngs`;
            or the inputs do not fit the parameters; or a collection in `extra` grows, as with `sow`.

    Example:
        >>> model = from_linen(nn.Dense(10))
        >>> params, extra = jax.eval_shape(model.init, jax.random.key(0), jax.numpy.zeros((2, 4)))
        >>> jax.tree.map(jax.numpy.shape, params), extra
        ({'bias': (10,), 'kernel': (4, 10)}, {})
    """
    if not isinstance(module, nn.Module):
        came = f"the class {module.__name__}" if inspect.isclass(module) else checks.describe(module)
        raise TypeError(f"module: came {came}, wanted an instance of a Linen module: from_linen(nn.Dense(10))")
    if isinstance(rngs, str):
        raise TypeError(f"rngs: came {rngs!r}, wanted a tuple of names: ({rngs!r},)")
    taken = inspect.signature(type(module).__call__).parameters
    # `self`, the inputs, and a switch: whatever else it cannot do without, nobody would give it.
    required = [
        n for n, p in taken.items() if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    unknown = [name for name in required[2:] if name not in _SWITCHES]
    if unknown:
        raise TypeError(
            f"module: {type(module).__name__}.__call__ wants {unknown[0]!r}; beside its inputs a module is given"
            f" {', '.join(_SWITCHES)} only: call it so, or give it a default"
        )

    def switch(train):
        return {name: value(train) for name, value in _SWITCHES.items() if name in taken}

    def init(key, inputs):
        keys = {name: named(key, name) for name in ("params", *rngs)}
        variables = dict(module.init(keys, placeholder(inputs), **switch(False)))
        params = variables.pop("params", {})
        return params, variables

    def apply(params, extra, inputs, *, key=None, train=False):
        inputs = _in_dtype_of(params, inputs)
        keys = {name: named(key, name) for name in rngs} if train and key is not None else {}
        # Linen returns a pair exactly where something may change.
        mutable = list(extra) if train else False
        try:
            result = module.apply({"params": params, **extra}, inputs, rngs=keys, mutable=mutable, **switch(train))
        except errors.InvalidRngError as error:
            raise ValueError(_explain_draw(module, rngs, key, train)) from error
        except errors.ScopeParamShapeError as error:
            raise ValueError(_explain_shape(module, inputs, error)) from error
        if not train:
            return result, extra
        outputs, changed = result
        for name in changed:
            went_in, came_out = (str(jax.tree.structure(tree[name])) for tree in (extra, changed))
            if went_in != came_out:
                raise ValueError(_explain_growth(module, name))
        return outputs, {**extra, **changed}

    return Model(init, apply)


def _in_dtype_of(params: Any, inputs: Any) -> Any:
    def floating(tree):
        return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]

    if not floating(params):
        return inputs
    dtype = jnp.result_type(*floating(params))
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if floating(x) else x, inputs)


def _explain_draw(module: nn.Module, rngs: tuple[str, ...], key: Any, train: bool) -> str:
    name = type(module).__name__
    if not train:
        return (
            f"module: {name} draws random numbers in evaluation; give its __call__ an argument `train` "
            "(or `deterministic`) and draw only in training"
        )
    if key is None:
        return (
            f"key: came None, wanted one typed key: {name} draws in training; "
            "call apply(params, extra, inputs, key=key, train=True)"
        )
    return f"rngs: came {rngs}, but {name} draws from another stream; name all: from_linen(module, rngs=(...))"


def _explain_shape(module: nn.Module, inputs: Any, error: Exception) -> str:
    came = jax.tree.map(checks.describe, inputs)
    # Flax ends its messages with the address of a page of explanation, which is about modules, not inputs.
    said = str(error).split(" (https:")[0]
    return (
        f"inputs: came {came}, which {type(module).__name__} cannot take with these parameters; "
        f"wanted the shape that init saw, but for the batch: {said}"
    )


def _explain_growth(module: nn.Module, name: str) -> str:
    return (
        f"extra: the collection {name!r} of {type(module).__name__} comes out in another form than it went in, and"
        " would be compiled anew at each step; `sow` adds to what is there: let it replace that, with"
        " reduce_fn=lambda old, new: new and init_fn=lambda: None"
    )
