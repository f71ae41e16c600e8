"""The multilayer perceptron, in plain JAX."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxkit import backends, checks
from jaxkit.models.inputs import check_floats
from jaxkit.parallel import constrain
from jaxkit.random import named
from jaxkit.types import Key, Model

_FEW = 16  # columns; of more, XLA makes as good a gradient itself

Activation = Callable[[jax.Array], jax.Array]
"""float[...] -> float[...], elementwise, dtype kept."""


def mlp(
    *,
    num_classes: int,
    features: tuple[int, ...] = (256, 256),
    activation: Activation = jax.nn.relu,
    dropout: float = 0.0,
) -> Model:
    """A multilayer perceptron over flattened inputs.

    inputs: float[batch, ...] -> logits: float[batch, num_classes], computed in the dtype of the parameters

    Args:
        num_classes: the number of outputs; for a regression, of targets.
        features: the sizes of the hidden layers; `()` is a linear model.
        activation: after each hidden layer; in a config `{"function": "jax.nn.gelu"}`.
        dropout: the fraction of each hidden layer that is dropped in training; needs a key then.

    Raises:
        TypeError: an argument of another type; inputs that are not floats.
        ValueError: a size below 1, a dropout outside [0, 1); inputs that do not fit; a key that is missing.

    Example:
        >>> model = mlp(num_classes=10, features=(32,))
        >>> params, extra = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 8, 8)))
        >>> jax.tree.map(jnp.shape, params)
        {'dense_0': {'bias': (32,), 'kernel': (64, 32)}, 'output': {'bias': (10,), 'kernel': (32, 10)}}
    """
    checks.sizes(num_classes=num_classes)
    check_layers(features=features)
    check_activation(activation)
    check_rate(dropout=dropout)
    hidden = {f"dense_{i}": size for i, size in enumerate(features)}

    def init(key, inputs):
        _check_inputs(inputs)
        params, size = {}, math.prod(inputs.shape[1:])
        for name, out in hidden.items():
            params[name] = affine(named(key, name), (size, out), gain=2.0)
            size = out
        params["output"] = affine(named(key, "output"), (size, num_classes), gain=1.0)
        return params, {}

    def apply(params, extra, inputs, *, key=None, train=False):
        _check_inputs(inputs)
        first = params[next(iter(hidden), "output")]["kernel"]
        x = jnp.reshape(inputs, (inputs.shape[0], math.prod(inputs.shape[1:])))
        checks.shapes(kernel=(first, "features _"), inputs=(x, "batch features"))
        x = x.astype(first.dtype)
        for name in hidden:
            x = constrain(activation(_dense(params[name], x)), "batch", "hidden")
            if train:
                x = drop(x, key, rate=dropout, name=name)
        return _dense(params["output"], x), extra

    return Model(init, apply)


def affine(key: Key, shape: tuple[int, ...], *, gain: float) -> dict[str, jax.Array]:
    """The parameters of one layer: a `kernel`, and a bias of zeros for its last axis.

    Example:
        >>> jax.tree.map(jnp.shape, affine(jax.random.key(0), (3, 4), gain=2.0))
        {'bias': (4,), 'kernel': (3, 4)}
    """
    return {"kernel": kernel(key, shape, gain=gain), "bias": jnp.zeros(shape[-1:], jnp.float32)}


def kernel(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32, *, gain: float) -> jax.Array:
    """A kernel [..., in, out] from a normal distribution cut at two sigma, with variance gain / fan in.

    The numbers of `jax.nn.initializers.he_normal` (gain 2, before a relu) and `lecun_normal` (gain 1).

    Source:
        He et al. 2015, arXiv 1502.01852; LeCun et al. 1998, Efficient BackProp.

    Example:
        >>> kernel(jax.random.key(0), (3, 3, 8, 16), gain=2.0).shape
        (3, 3, 8, 16)
    """
    # Drawn flat: a draw of four axes takes XLA four times as long to compile, for the same numbers.
    flat = jax.random.truncated_normal(key, -2, 2, (math.prod(shape),), dtype)
    # The cut takes away a part of the variance; this is the deviation that a unit normal is left with.
    left = 0.87962566103423978
    return (flat * jnp.asarray(math.sqrt(gain / math.prod(shape[:-1])) / left, dtype)).reshape(shape)


def drop(x: jax.Array, key: Key | None, *, rate: float, name: str) -> jax.Array:
    """Dropout: each value is zero with probability `rate`, else divided by `1 - rate`.

    Args:
        x: float[...].
        key: the key of the whole model; not used where the rate is 0.
        rate: in [0, 1).
        name: of the layer, so that each layer draws its own.

    Raises:
        ValueError: there is no key.

    Source:
        Srivastava et al. 2014, in the inverted form, which leaves evaluation alone.

    Example:
        >>> drop(jnp.ones(3), None, rate=0.0, name="dense_0").tolist()
        [1.0, 1.0, 1.0]
    """
    if rate == 0:
        return x
    if key is None:
        raise ValueError(
            f"key: came None, wanted one typed key: dropout={rate} draws in training; "
            "call apply(params, extra, inputs, key=key, train=True)"
        )
    keep = jax.random.bernoulli(named(key, name), 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0.0)


def check_layers(**values: tuple[int, ...]) -> None:
    """Checks the sizes of several layers: each argument is a tuple (or list) of sizes.

    Raises:
        TypeError: not a tuple of whole numbers.
        ValueError: a size below 1.

    Example:
        >>> check_layers(features=(32, 64))
    """
    for name, value in values.items():
        if not isinstance(value, tuple | list):
            raise TypeError(f"{name}: came {checks.describe(value)}, wanted a tuple of sizes such as (32, 64)")
        checks.sizes(**{f"{name}[{i}]": size for i, size in enumerate(value)})


def check_activation(activation: Any) -> None:
    """Checks that the activation is a function.

    Raises:
        TypeError: it is something else, such as its name.

    Example:
        >>> check_activation(jax.nn.gelu)
    """
    if not callable(activation):
        raise TypeError(
            f"activation: came {checks.describe(activation)}, wanted a function: jax.nn.gelu, "
            'or in a config {"function": "jax.nn.gelu"}'
        )


def check_rate(**values: float) -> None:
    """Checks that each rate is a number in [0, 1).

    Raises:
        TypeError: not a number.
        ValueError: outside.

    Example:
        >>> check_rate(dropout=0.5)
    """
    checks.at_least(0, **values)
    for name, value in values.items():
        if value >= 1:
            raise ValueError(f"{name}: came {value}, wanted a number in [0, 1)")


def _dense(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    kernel = params["kernel"]
    if kernel.shape[1] <= _FEW and backends.platform() == "cpu":
        # The same product, whose gradient then has long rows: XLA on a CPU takes about twice as long for a layer
        # of a handful of columns otherwise (benchmarks/narrow.py).
        kernel = jax.lax.optimization_barrier(kernel.T).T
    # Rank by hand: adding [features] to [batch, features] would be a rank promotion.
    return x @ kernel + params["bias"][None, :]


def _check_inputs(inputs: Any) -> None:
    if len(inputs.shape) < 2:
        raise ValueError(
            f"inputs: came {checks.describe(inputs)}, wanted [batch, features, ...]; "
            "inputs[:, None] makes one feature of each number, inputs[None] one example of them all"
        )
    check_floats(inputs)
