"""A small convolutional network, in plain JAX."""

import functools

import jax
import jax.numpy as jnp

from jaxkit import checks
from jaxkit.models.feedforward import (
    Activation,
    affine,
    check_activation,
    check_layers,
    check_rate,
    drop,
    mlp,
)
from jaxkit.models.inputs import IMAGES, check_images
from jaxkit.models.normalization import Statistics, batch_norm, check_group_size
from jaxkit.parallel import constrain
from jaxkit.random import named
from jaxkit.types import Model


def cnn(
    *,
    num_classes: int,
    features: tuple[int, ...] = (32, 64),
    kernel_size: int = 3,
    pool: int = 2,
    dense: tuple[int, ...] = (128,),
    activation: Activation = jax.nn.relu,
    dropout: float = 0.0,
    norm: str | None = None,
    group_size: int | None = None,
) -> Model:
    """Convolutions with pooling, then a multilayer perceptron on the flattened features.

    inputs: float[batch, height, width, channels] -> logits: float[batch, num_classes], computed in the
    dtype of the parameters

    Args:
        num_classes: the number of outputs.
        features: the channels of the convolutions, each followed by the activation and the pooling.
        kernel_size: the side of each convolution's window.
        pool: the side of the window whose maximum is kept; 1 keeps all. A remainder at the border is cut.
        dense: the sizes of the hidden layers after the convolutions.
        activation: after each hidden layer; in a config `{"function": "jax.nn.gelu"}`.
        dropout: the fraction that is dropped before each dense layer in training; needs a key then.
        norm: "batch" normalises after each convolution, with statistics in `extra`.
        group_size: how many examples have statistics in common (`normalization.batch_norm`).

    Raises:
        TypeError: an argument of another type; inputs that are not floats.
        ValueError: a size below 1, a dropout outside [0, 1); inputs that are not images, or too small for
            the poolings, or of another size than at init; a key that is missing.

    Example:
        >>> model = cnn(num_classes=10, features=(4, 8), dense=(16,))
        >>> params, extra = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
        >>> params["conv_1"]["kernel"].shape, params["head"]["dense_0"]["kernel"].shape
        ((3, 3, 4, 8), (32, 16))
    """
    checks.sizes(num_classes=num_classes, kernel_size=kernel_size, pool=pool)
    check_layers(features=features, dense=dense)
    check_activation(activation)
    check_rate(dropout=dropout)
    if norm not in (None, "batch"):
        raise ValueError(f'norm: came {norm!r}, wanted "batch" or None')
    check_group_size(group_size)
    head = mlp(num_classes=num_classes, features=dense, activation=activation, dropout=dropout)
    convolutions = {f"conv_{i}": channels for i, channels in enumerate(features)}

    def flat_size(inputs):
        """The number of features that one image gives to the head."""
        check_images(inputs)
        shrink = pool ** len(features)
        if min(inputs.shape[1:3]) < shrink:
            raise ValueError(
                f"inputs: came {checks.describe(inputs)}, wanted images of at least {shrink} x {shrink}: "
                f"there are {len(features)} poolings by {pool}; with fewer features or pool=1 they fit"
            )
        height, width = (side // shrink for side in inputs.shape[1:3])
        return height * width * (features[-1] if features else inputs.shape[3])

    def init(key, inputs):
        size = flat_size(inputs)
        params, extra, before = {}, {}, inputs.shape[3]
        for name, channels in convolutions.items():
            shape = (kernel_size, kernel_size, before, channels)
            params[name] = affine(named(key, name), shape, gain=2.0)
            if norm:
                params[name]["scale"] = jnp.ones(channels)
                extra[name] = Statistics(jnp.zeros(channels), jnp.ones(channels))
            before = channels
        flat = jax.ShapeDtypeStruct((inputs.shape[0], size), jnp.float32)
        params["head"], _ = head.init(named(key, "head"), flat)
        return params, extra

    def apply(params, extra, inputs, *, key=None, train=False):
        _check_as_at_init(params, inputs, flat_size(inputs))
        x, after = inputs.astype(params["conv_0"]["kernel"].dtype) if convolutions else inputs, {}
        for name in convolutions:
            x = _convolve(params[name], x)
            if norm:
                x, after[name] = batch_norm(x, extra[name], train=train, group_size=group_size)
                x = x * _along(params[name]["scale"])
            x = _pool(activation(x + _along(params[name]["bias"])), pool)
            x = constrain(x, *IMAGES)
        x = x.reshape(x.shape[0], -1)
        if train:
            x = drop(x, key, rate=dropout, name="flat")
        logits, _ = head.apply(params["head"], {}, x, key=key, train=train)
        return logits, after if train and norm else extra

    return Model(init, apply)


def _convolve(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """[batch, height, width, in] -> [batch, height, width, out]."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, params["kernel"], (1, 1), "SAME", dimension_numbers=layout)


def _along(x: jax.Array) -> jax.Array:
    """[channels] -> [1, 1, 1, channels]."""
    return x[None, None, None, :]


def _pool(x: jax.Array, size: int) -> jax.Array:
    """[batch, height, width, channels] -> [batch, height // size, width // size, channels]."""
    if size == 1:
        return x
    batch, height, width, channels = x.shape
    height, width = height // size, width // size
    # By reshape, because the gradient of a reduce_window costs the training step 1.6 times more on a CPU; and by
    # choosing, because that of a max asks which values equal it: XLA may compute x anew for that question, with
    # other roundings, and then none does.
    x = x[:, : height * size, : width * size].reshape(batch, height, size, width, size, channels)
    x = functools.reduce(_larger, (x[:, :, n] for n in range(size)))
    return functools.reduce(_larger, (x[:, :, :, n] for n in range(size)))


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """The maximum (nan where one is), whose gradient goes to the one that was chosen, whole."""
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


def _check_as_at_init(params, inputs, size: int) -> None:
    """The inputs give what the first convolution and the head were made for."""
    if "conv_0" in params:
        kernel = params["conv_0"]["kernel"]
        checks.shapes(kernel=(kernel, "_h _w channels _o"), inputs=(inputs, "batch height width channels"))
    head = params["head"]
    wanted = head["dense_0" if "dense_0" in head else "output"]["kernel"].shape[0]
    if size != wanted:
        raise ValueError(
            f"inputs: came {checks.describe(inputs)}, wanted images of the size that init saw: "
            f"these give the head {size} features, its parameters take {wanted}"
        )
