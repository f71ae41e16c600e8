"""Augmentations: pure, keyed, on the device. Each factory returns (batch, key) -> batch.

They change batch["image"], [batch, height, width, channels], and nothing else; every example has a draw
of its own. What only moves pixels keeps the dtype; what interpolates gives float32.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxkit import checks, random
from jaxkit.types import Augmentation, Batch, Key


def _on_images(change: Callable[[jax.Array, Key], jax.Array]) -> Augmentation:
    """An augmentation from (image [batch, height, width, channels], key) -> image."""
    # One program also when called by hand: op by op the first call takes seconds.
    compiled = jax.jit(change)

    def augmentation(batch: Batch, key: Key) -> Batch:
        checks.fields(batch, "image")
        checks.shapes(image=(batch["image"], "batch height width channels"))
        checks.key(key)
        return {**batch, "image": compiled(jnp.asarray(batch["image"]), key)}

    return augmentation


def _per_example(choice: jax.Array) -> jax.Array:
    """[batch] -> [batch, 1, 1, 1]: beside images, where nothing is broadcast by rank."""
    return choice[:, None, None, None]


_MODES = ("constant", "edge", "reflect", "symmetric", "wrap")


def crop(*, padding: int, mode: str = "constant") -> Augmentation:
    """Pads each image on all sides and cuts a window of its own size out, at random.

    image [batch, height, width, channels] of any dtype, which is kept.

    Args:
        padding: pixels on each side; the window moves by up to as many.
        mode: what the padding holds, as in `jnp.pad`: "constant" (zeros), "edge", "reflect", "symmetric", "wrap".

    Raises:
        TypeError: `padding` is no whole number.
        ValueError: `padding` is negative, or there is no such mode; the batch has no image of four axes.

    Example:
        >>> batch = {"image": jnp.ones((2, 8, 8, 1), jnp.uint8)}
        >>> crop(padding=2)(batch, jax.random.key(0))["image"].dtype
        dtype('uint8')
    """
    checks.whole(0, padding=padding)
    if mode not in _MODES:
        raise ValueError(f"mode: came {mode!r}, wanted one of {', '.join(_MODES)}")

    def change(image: jax.Array, key: Key) -> jax.Array:
        width = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        corners = jax.random.randint(key, (len(image), 2), 0, 2 * padding + 1)

        # A slice of each example, 10 times faster on a CPU than one-hot products or selecting.
        def window(padded: jax.Array, corner: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice(padded, (corner[0], corner[1], 0), image.shape[1:])

        return jax.vmap(window)(jnp.pad(image, width, mode=mode), corners)

    return _on_images(change)


def shift(*, max_pixels: int) -> Augmentation:
    """Moves each image by up to `max_pixels` in each direction; zeros come in from the edge.

    image [batch, height, width, channels] of any dtype, which is kept.

    Raises:
        TypeError: `max_pixels` is no whole number; `affine` moves by a fraction.
        ValueError: `max_pixels` is negative; the batch has no image of four axes.

    Example:
        >>> batch = {"image": jnp.ones((2, 8, 8, 1))}
        >>> bool((shift(max_pixels=0)(batch, jax.random.key(0))["image"] == batch["image"]).all())
        True
    """
    checks.whole(0, max_pixels=max_pixels)
    return crop(padding=max_pixels)


def flip(*, probability: float = 0.5) -> Augmentation:
    """Mirrors each image left to right with the given probability.

    image [batch, height, width, channels] of any dtype, which is kept.

    Raises:
        ValueError: `probability` is not in [0, 1]; the batch has no image of four axes.

    Example:
        >>> batch = {"image": jnp.arange(4).reshape(1, 1, 4, 1)}
        >>> flip(probability=1.0)(batch, jax.random.key(0))["image"][0, 0, :, 0].tolist()
        [3, 2, 1, 0]
    """
    checks.at_least(0, probability=probability)
    if probability > 1:
        raise ValueError(f"probability: came {probability}, wanted a number in [0, 1]")

    def change(image: jax.Array, key: Key) -> jax.Array:
        mirrored = jax.random.bernoulli(key, probability, (len(image),))
        return jnp.where(_per_example(mirrored), image[:, :, ::-1], image)

    return _on_images(change)


def cutout(*, size: int) -> Augmentation:
    """Sets a square of each image to zero; its centre is any pixel, so it may reach over the edge.

    image [batch, height, width, channels] of any dtype, which is kept.

    Args:
        size: the side of the square in pixels; 0 changes nothing.

    Raises:
        TypeError: `size` is no whole number.
        ValueError: `size` is negative; the batch has no image of four axes.

    Source: DeVries and Taylor 2017, arXiv:1708.04552.

    Example:
        >>> batch = {"image": jnp.ones((2, 8, 8, 1))}
        >>> bool(cutout(size=4)(batch, jax.random.key(0))["image"].sum() < 128)
        True
    """
    checks.whole(0, size=size)

    def change(image: jax.Array, key: Key) -> jax.Array:
        batch, *sides, _ = image.shape
        centres = jax.random.randint(key, (batch, 2), 0, jnp.array([sides]))
        start = centres - size // 2
        rows, columns = (
            (jnp.arange(side)[None] >= start[:, i, None]) & (jnp.arange(side)[None] < start[:, i, None] + size)
            for i, side in enumerate(sides)
        )
        hole = rows[:, :, None, None] & columns[:, None, :, None]
        return jnp.where(hole, jnp.zeros_like(image), image)

    return _on_images(change)


def _bilinear(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """f32[h, w, c] at f32[n] fractional positions -> f32[n, c]; zero outside the image."""
    height, width, channels = image.shape
    pixels = image.reshape(height * width, channels)
    top, left = jnp.floor(rows), jnp.floor(columns)
    total = jnp.zeros((len(rows), channels), jnp.float32)
    for row, row_weight in ((top, top + 1 - rows), (top + 1, rows - top)):
        for column, column_weight in ((left, left + 1 - columns), (left + 1, columns - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = jnp.where(inside, row_weight * column_weight, 0.0)
            index = jnp.where(inside, row * width + column, 0).astype(jnp.int32)
            total += weight[:, None] * pixels[index]
    return total


def _transformed(image: jax.Array, angle: jax.Array, scale: jax.Array, offset: jax.Array) -> jax.Array:
    """f32[h, w, c], f32[] radians, f32[] magnification, f32[2] pixels -> f32[h, w, c]."""
    height, width, _ = image.shape
    middle = jnp.array([(height - 1) / 2, (width - 1) / 2])
    row, column = jnp.meshgrid(
        jnp.arange(height) - middle[0] - offset[0], jnp.arange(width) - middle[1] - offset[1], indexing="ij"
    )
    # The inverse map: where each pixel of the result comes from.
    cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
    rows, columns = cos * row + sin * column + middle[0], cos * column - sin * row + middle[1]
    return _bilinear(image, rows.ravel(), columns.ravel()).reshape(image.shape)


def affine(*, max_degrees: float = 0.0, max_scale: float = 0.0, max_shift: float = 0.0) -> Augmentation:
    """Turns, scales and moves each image about its centre, bilinear, with zeros from outside.

    image [batch, height, width, channels] of any dtype -> float32 of the same shape.

    Args:
        max_degrees: the angle is uniform in [-max_degrees, max_degrees].
        max_scale: the magnification is uniform in [1 - max_scale, 1 + max_scale].
        max_shift: pixels, a fraction too; each direction is uniform in [-max_shift, max_shift].

    Raises:
        ValueError: a number is negative or `max_scale` not below 1; the batch has no image of four axes.

    Example:
        >>> batch = {"image": jnp.ones((2, 8, 8, 1), jnp.uint8)}
        >>> affine(max_degrees=10.0)(batch, jax.random.key(0))["image"].dtype
        dtype('float32')
    """
    checks.at_least(0, max_degrees=max_degrees, max_scale=max_scale, max_shift=max_shift)
    if max_scale >= 1:
        raise ValueError(f"max_scale: came {max_scale}, wanted a number below 1")

    def change(image: jax.Array, key: Key) -> jax.Array:
        # Drawn flat: of several axes XLA compiles the same numbers for longer.
        draws = jax.random.uniform(key, (4 * len(image),), minval=-1.0, maxval=1.0).reshape(-1, 4)
        angles, scales = draws[:, 0] * jnp.deg2rad(max_degrees), 1.0 + draws[:, 1] * max_scale
        return jax.vmap(_transformed)(image.astype(jnp.float32), angles, scales, draws[:, 2:] * max_shift)

    return _on_images(change)


def chain(*, augmentations: Sequence[Augmentation]) -> Augmentation:
    """One augmentation after the other, each with a key of its own, by its position.

    Raises:
        TypeError: one of them cannot be called.

    Example:
        >>> both = chain(augmentations=(shift(max_pixels=1), flip()))
        >>> both({"image": jnp.ones((2, 8, 8, 1))}, jax.random.key(0))["image"].shape
        (2, 8, 8, 1)
    """
    augmentations = tuple(augmentations)
    for position, augmentation in enumerate(augmentations):
        if not callable(augmentation):
            raise TypeError(
                f"augmentations[{position}]: came {checks.describe(augmentation)}, wanted (batch, key) -> batch"
            )

    def chained(batch: Batch, key: Key) -> Batch:
        for position, augmentation in enumerate(augmentations):
            batch = augmentation(batch, random.at(key, position))
        return batch

    return chained
