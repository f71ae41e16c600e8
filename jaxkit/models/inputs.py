"""What goes into a model: its checks, and the standardisation that belongs to the model."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import checks, contracts
from jaxkit.types import Model

IMAGES = ("batch", "height", "width", "channels")
"""The axes of images, and of what convolutions make of them (`parallel.constrain`)."""


def standardized(
    model: Model, *, mean: float | tuple[float, ...] = 0.0, std: float | tuple[float, ...] = 1.0
) -> Model:
    """The model of `(inputs - mean) / std`, so that what is trained and what is served are one function.

    inputs: integers or floats [batch, ...]; the inner model gets float32 of the same shape.

    Args:
        model: the inner model.
        mean: of the raw values: one number, or one for each channel (the last axis).
        std: likewise, above zero. Pixels in 0..255 become 0..1 with `std=255.0`.

    Raises:
        TypeError: mean or std is not a number or a flat sequence of numbers; the inputs are not numbers.
        ValueError: a std is not above zero, or the channels are not as many as the means.

    Example:
        >>> def identity(params, extra, inputs, *, key=None, train=False):
        ...     return inputs, extra
        >>> model = standardized(Model(lambda key, inputs: ({}, {}), identity), std=255.0)
        >>> outputs, extra = model.apply({}, {}, np.array([[0, 255]], np.uint8))
        >>> checks.describe(outputs), outputs.tolist()
        ('float32[1,2]', [[0.0, 1.0]])
    """
    contracts.model(model)
    shift, scale = _numbers("mean", mean), _numbers("std", std)
    if not np.all(scale > 0):
        raise ValueError(f"std: came {std}, wanted numbers above zero")

    def standardize(inputs):
        _check_raw(inputs, shift, scale)
        # Constants of the inputs' rank: with rank promotion off, a [channels] array would not broadcast.
        along = [
            constant.reshape((1,) * (inputs.ndim - constant.ndim) + constant.shape) for constant in (shift, scale)
        ]
        return (inputs.astype(jnp.float32) - along[0]) / along[1]

    def init(key, inputs):
        return model.init(key, standardize(placeholder(inputs)))

    def apply(params, extra, inputs, *, key=None, train=False):
        return model.apply(params, extra, standardize(jnp.asarray(inputs)), key=key, train=train)

    return Model(init, apply)


def placeholder(inputs: Any) -> Any:
    """The inputs as arrays: zeros where only shape and dtype are known, for `init` needs no values.

    inputs: a pytree of arrays or `jax.ShapeDtypeStruct` -> the same tree of arrays.

    Example:
        >>> checks.describe(placeholder(jax.ShapeDtypeStruct((2, 3), jnp.float32)))
        'float32[2,3]'
    """

    def array(leaf):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jnp.zeros(leaf.shape, leaf.dtype)
        return jnp.asarray(leaf)

    return jax.tree.map(array, inputs)


def check_floats(inputs: Any) -> None:
    """Checks that the inputs are floats, for raw integers train badly and in silence.

    Raises:
        TypeError: the inputs are of another dtype.

    Example:
        >>> check_floats(jnp.zeros((8, 10)))
    """
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise TypeError(
            f"inputs: came {checks.describe(inputs)}, wanted floats; "
            "jaxkit.models.standardized(model, mean=..., std=...) takes integers and scales them"
        )


def check_images(inputs: Any) -> None:
    """Checks that the inputs are images, float[batch, height, width, channels].

    Raises:
        ValueError: another rank.
        TypeError: not floats.

    Example:
        >>> check_images(jnp.zeros((8, 28, 28, 1)))
    """
    if len(inputs.shape) == 3:
        raise ValueError(
            f"inputs: came {checks.describe(inputs)}, wanted shape [batch, height, width, channels]; "
            "add a channel axis to images that are [batch, height, width]: inputs[..., None]"
        )
    checks.shapes(inputs=(inputs, "batch height width channels"))
    check_floats(inputs)


def _numbers(name: str, value: Any) -> np.ndarray:
    """f32[] or f32[channels]."""
    constant = np.asarray(value)
    if constant.ndim > 1 or not constant.size or not np.issubdtype(constant.dtype, np.number):
        raise TypeError(f"{name}: came {value!r}, wanted a number, or a flat sequence of one for each channel")
    if not np.all(np.isfinite(constant)):
        raise ValueError(f"{name}: came {value!r}, wanted finite numbers")
    return constant.astype(np.float32)


def _check_raw(inputs: Any, *constants: np.ndarray) -> None:
    if not jnp.issubdtype(inputs.dtype, jnp.number):
        raise TypeError(f"inputs: came {checks.describe(inputs)}, wanted integers or floats")
    channels = math.prod(inputs.shape[-1:])
    for constant in constants:
        if constant.ndim and (inputs.ndim < 2 or constant.size != channels):
            raise ValueError(
                f"inputs: came {checks.describe(inputs)}, wanted {constant.size} channels on the last axis, "
                "one for each number in mean and std"
            )
