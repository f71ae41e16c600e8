"""Residual networks, in Linen."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkit import checks
from jaxkit.models.feedforward import kernel
from jaxkit.models.inputs import IMAGES, check_images
from jaxkit.models.linen import from_linen
from jaxkit.models.normalization import Statistics, batch_norm, check_group_size
from jaxkit.parallel import constrain
from jaxkit.types import Model


def resnet(
    *,
    num_classes: int,
    depth: int = 18,
    norm: str = "batch",
    group_size: int | None = None,
    width: int = 64,
    small_images: bool = False,
) -> Model:
    """A residual network, in the form "v1.5", which strides in the 3 x 3 convolution of a bottleneck.

    inputs: float[batch, height, width, channels] -> logits: float[batch, num_classes], computed in the
    dtype of the parameters, normalisations and their statistics in float32

    The last scale of each block starts at zero, so that each block starts as the identity. Batch statistics
    travel in `extra`. Without a `group_size` they are those of the examples that one call sees, and the numbers
    depend on how a batch is split over microbatches and devices; with one, or with `norm="group"`, they do not.

    Args:
        num_classes: the number of outputs.
        depth: 18, 34 (blocks of two 3 x 3) or 50 (bottlenecks).
        norm: "batch" or "group" (32 groups, or as many as divide the channels).
        group_size: with `norm="batch"`, how many examples have statistics in common (`normalization.batch_norm`).
        width: the channels of the first stage; each later stage has twice as many.
        small_images: True for images of 32 pixels or fewer: a stem that keeps their size.

    Raises:
        TypeError: an argument of another type; inputs that are not floats.
        ValueError: another depth or norm, a size below 1; inputs that are not images.

    Source:
        He et al. 2016, arXiv 1512.03385; the zero scales: Goyal et al. 2017, arXiv 1706.02677;
        group norm: Wu and He 2018, arXiv 1803.08494.

    Example:
        >>> model = resnet(num_classes=1000, depth=50)
        >>> images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
        >>> params, extra = jax.eval_shape(model.init, jax.random.key(0), images)
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        25557032
    """
    checks.sizes(num_classes=num_classes, width=width)
    if depth not in _STAGES:
        raise ValueError(f"depth: came {depth!r}, wanted one of {', '.join(map(str, _STAGES))}")
    if norm not in ("batch", "group"):
        raise ValueError(f'norm: came {norm!r}, wanted "batch" or "group"')
    check_group_size(group_size)
    block, stages = _STAGES[depth]
    return from_linen(
        ResNet(
            num_classes=num_classes,
            stages=stages,
            block=block,
            norm=Norm(norm, group_size),
            width=width,
            small_images=small_images,
        )
    )


class Norm(NamedTuple):
    """Which normalisation: "batch" or "group", and how many examples share batch statistics."""

    kind: str
    group_size: int | None


class ResNet(nn.Module):
    """The network: a stem, four stages of blocks, an average over the image, and a dense layer."""

    num_classes: int
    stages: tuple[int, ...]
    block: Callable[..., nn.Module]
    norm: Norm
    width: int
    small_images: bool

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """float[batch, height, width, channels] -> float[batch, num_classes]."""
        check_images(inputs)
        x = _conv(self.width, 3 if self.small_images else 7, 1 if self.small_images else 2, "stem")(inputs)
        x = nn.relu(_normalize(self.norm, train, "stem_norm")(x))
        if not self.small_images:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        x = constrain(x, *IMAGES)
        for i, blocks in enumerate(self.stages):
            for j in range(blocks):
                stride = 2 if i > 0 and j == 0 else 1
                x = self.block(self.width * 2**i, stride, self.norm, name=f"stage_{i}_block_{j}")(x, train)
                x = constrain(x, *IMAGES)
        return nn.Dense(self.num_classes, kernel_init=functools.partial(kernel, gain=1.0), name="output")(
            jnp.mean(x, axis=(1, 2))
        )


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    features: int
    stride: int
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[batch, height, width, in] -> [batch, height / stride, width / stride, features]."""
        y = _conv(self.features, 3, self.stride, "conv_0")(x)
        y = nn.relu(_normalize(self.norm, train, "norm_0")(y))
        y = _conv(self.features, 3, 1, "conv_1")(y)
        y = _normalize(self.norm, train, "norm_1", last=True)(y)
        return nn.relu(y + _shortcut(x, y, self.stride, self.norm, train))


class Bottleneck(nn.Module):
    """A 1 x 1, a 3 x 3 and a 1 x 1 convolution to four times the features, and a shortcut."""

    features: int
    stride: int
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[batch, height, width, in] -> [batch, height / stride, width / stride, 4 features]."""
        y = _conv(self.features, 1, 1, "conv_0")(x)
        y = nn.relu(_normalize(self.norm, train, "norm_0")(y))
        y = _conv(self.features, 3, self.stride, "conv_1")(y)
        y = nn.relu(_normalize(self.norm, train, "norm_1")(y))
        y = _conv(4 * self.features, 1, 1, "conv_2")(y)
        y = _normalize(self.norm, train, "norm_2", last=True)(y)
        return nn.relu(y + _shortcut(x, y, self.stride, self.norm, train))


_STAGES: dict[int, tuple[Any, tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


def _shortcut(x: jax.Array, y: jax.Array, stride: int, norm: Norm, train: bool) -> jax.Array:
    """The input, projected where y has another shape. Called in a block, whose parameters it makes."""
    if x.shape == y.shape:
        return x
    x = _conv(y.shape[-1], 1, stride, "shortcut")(x)
    return _normalize(norm, train, "shortcut_norm")(x)


def _conv(features: int, size: int, stride: int, name: str) -> nn.Module:
    # The same border on both sides, as in the published weights; "SAME" pads a strided one unevenly.
    border = (size // 2, size // 2)
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding=(border, border),
        use_bias=False,
        kernel_init=functools.partial(kernel, gain=2.0),
        name=name,
    )


def _normalize(norm: Norm, train: bool, name: str, last: bool = False) -> Callable[[jax.Array], jax.Array]:
    """A normalisation; the last of a block starts with a scale of zero."""
    scale = nn.initializers.zeros if last else nn.initializers.ones
    if norm.kind == "batch":
        return BatchNorm(group_size=norm.group_size, train=train, scale_init=scale, name=name)

    def group_norm(x):
        groups = math.gcd(32, x.shape[-1])
        return nn.GroupNorm(num_groups=groups, epsilon=1e-5, scale_init=scale, name=name)(x)

    return group_norm


class BatchNorm(nn.Module):
    """`normalization.batch_norm` with a scale and a bias; names and shapes as in Linen's."""

    group_size: int | None
    train: bool
    scale_init: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, ..., channels] -> the same."""
        shape = (x.shape[-1],)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)
        running = Statistics(mean.value, var.value)
        y, new = batch_norm(x, running, train=self.train, group_size=self.group_size)
        if self.train and not self.is_initializing():
            mean.value, var.value = new
        along = (1,) * (x.ndim - 1) + shape
        scale = self.param("scale", self.scale_init, shape).reshape(along)
        return y * scale.astype(x.dtype) + self.param("bias", nn.initializers.zeros, shape).reshape(along).astype(
            x.dtype
        )
