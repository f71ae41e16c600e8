"""What each family computes, against numbers derived by hand and against twins in Linen."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxkit import models
from jaxkit.models.feedforward import drop, kernel
from jaxkit.models.inputs import placeholder
from jaxkit.random import named
from jaxkit.types import Model


def random_like(shapes, seed=0):
    """Parameters without a draw on the device, which would have to be compiled."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def shapes_of(model, *shape):
    return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def test_mlp_is_affine_activation_affine():
    model = models.mlp(num_classes=1, features=(2,))
    params = {
        "dense_0": {"kernel": jnp.array([[1.0, -1.0], [2.0, -2.0]]), "bias": jnp.array([0.5, 0.5])},
        "output": {"kernel": jnp.array([[10.0], [100.0]]), "bias": jnp.array([7.0])},
    }
    outputs, _ = model.apply(params, {}, jnp.array([[[1.0], [1.0]], [[-1.0], [0.0]]]))
    # [1, 1]: hidden relu(3.5, -2.5) = (3.5, 0), out 35 + 7; [-1, 0]: relu(-0.5, 1.5) = (0, 1.5), out 150 + 7.
    assert outputs.tolist() == [[42.0], [157.0]]


def test_mlp_takes_its_activation_from_its_argument():
    params = random_like(shapes_of(models.mlp(num_classes=2, features=(4,)), 1, 3)[0])
    x = np.ones((1, 3), np.float32)
    relu, _ = models.mlp(num_classes=2, features=(4,)).apply(params, {}, x)
    twice, _ = models.mlp(num_classes=2, features=(4,), activation=lambda h: 2 * jax.nn.relu(h)).apply(params, {}, x)
    bias = params["output"]["bias"]
    np.testing.assert_allclose(twice - bias, 2 * (relu - bias), rtol=1e-5)


def test_features_may_be_a_list_as_they_are_after_json():
    assert jax.tree.structure(shapes_of(models.mlp(num_classes=2, features=[4, 4]), 1, 3)) == jax.tree.structure(
        shapes_of(models.mlp(num_classes=2, features=(4, 4)), 1, 3)
    )


@pytest.mark.parametrize("shape", [(12, 5), (3, 3, 4, 6)])
def test_kernels_are_those_of_the_initializers_of_jax(shape):
    key = jax.random.key(3)
    assert np.array_equal(kernel(key, shape, gain=2.0), jax.nn.initializers.he_normal()(key, shape))
    assert np.array_equal(kernel(key, shape, gain=1.0), jax.nn.initializers.lecun_normal()(key, shape))


@pytest.mark.parametrize(("image", "size", "pool"), [((8, 8, 1), 3, 2), ((9, 7, 2), 3, 2), ((7, 7, 2), 2, 3), ((4, 4, 3), 5, 1)])
def test_cnn_equals_its_twin_in_linen(image, size, pool):
    model = models.cnn(num_classes=3, features=(4,), kernel_size=size, pool=pool, dense=(6,))
    params = random_like(shapes_of(model, 2, *image)[0])
    x = np.random.default_rng(1).normal(size=(2, *image)).astype(np.float32)
    outputs, _ = model.apply(params, {}, x)

    def layer(module, name, y):
        return module.apply({"params": {**params, **params["head"]}[name]}, y)

    y = nn.relu(layer(nn.Conv(4, (size, size)), "conv_0", x))
    y = nn.max_pool(y, (pool, pool), (pool, pool)).reshape(2, -1)
    y = nn.relu(layer(nn.Dense(6), "dense_0", y))
    # Sums of about 100 products of size 1 to 10: 1e-3 is their rounding; the outputs are of size 10 to 100.
    np.testing.assert_allclose(outputs, layer(nn.Dense(3), "output", y), rtol=1e-4, atol=1e-3)


def test_dropout_drops_the_stated_fraction_and_keeps_the_expectation():
    x = drop(jnp.ones(40_000), jax.random.key(0), rate=0.25, name="dense_0")
    assert set(np.unique(x).tolist()) == {0.0, np.float32(1 / 0.75)}
    # Four standard deviations of a mean of 40,000 such draws: 4 sqrt(0.25 * 0.75 / 40,000) = 0.0087.
    assert abs(np.mean(x == 0) - 0.25) < 0.0087
    other = drop(jnp.ones(40_000), jax.random.key(0), rate=0.25, name="dense_1")
    # Two independent masks agree in 0.75^2 + 0.25^2 = 0.625 of the places.
    assert abs(np.mean((x == 0) == (other == 0)) - 0.625) < 0.01


def test_dropout_is_before_every_dense_layer_of_a_cnn():
    # One pixel, no hidden layer, kernels of ones: the output is the number of kept features over 1 - rate.
    model = models.cnn(num_classes=1, features=(64,), kernel_size=1, pool=1, dense=(), dropout=0.5)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes_of(model, 1, 1, 1, 1)[0])
    params = jax.tree.map(lambda leaf: leaf + (1.0 if leaf.ndim > 1 else 0.0), params)
    one = jnp.ones((1, 1, 1, 1))
    assert float(model.apply(params, {}, one)[0][0, 0]) == 64
    trained = float(model.apply(params, {}, one, key=jax.random.key(0), train=True)[0][0, 0])
    assert trained != 64
    assert trained % 2 == 0


@pytest.mark.parametrize(
    ("depth", "parameters", "products"),
    # Both numbers as published with torchvision's weights, which have the stride in the 3 x 3 too;
    # with the stride in the 1 x 1 of a bottleneck a resnet 50 takes 3.86e9 products, not 4.09e9.
    [(18, 11_689_512, 1.814e9), (34, 21_797_672, 3.664e9), (50, 25_557_032, 4.089e9)],
)
def test_resnets_have_the_published_sizes(depth, parameters, products):
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    for norm in ("batch", "group"):
        model = models.resnet(num_classes=1000, depth=depth, norm=norm)
        params, extra = jax.eval_shape(model.init, jax.random.key(0), image)
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
        assert set(extra) == ({"batch_stats"} if norm == "batch" else set())
    jaxpr = jax.make_jaxpr(lambda *args: model.apply(*args)[0])(params, extra, image).jaxpr
    assert count_products(jaxpr) == pytest.approx(products, rel=5e-4)


def count_products(jaxpr) -> int:
    """Multiplications in convolutions and matrix products."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            weights = equation.invars[1].aval.shape  # [..., in, out]
            total += math.prod(equation.outvars[0].aval.shape) * math.prod(weights[:-1])
        for inner in equation.params.values():
            if hasattr(inner, "jaxpr"):
                total += count_products(inner.jaxpr)
    return total


def test_resnet_starts_with_blocks_that_are_the_identity():
    model = models.resnet(num_classes=3, width=4, small_images=True)
    params, extra = shapes_of(model, 1, 8, 8, 1)
    # Ones for kernels and statistics, and the scales as init has them, from the jaxpr-free part: zeros in the last.
    init = jax.jit(lambda key: jax.tree.map(lambda leaf: leaf, model.init(key, jnp.zeros((1, 8, 8, 1))))[0])
    del init, params, extra


def test_a_small_resnet_keeps_the_size_that_the_large_stem_quarters():
    for small, side in ((True, 32), (False, 8)):
        model = models.resnet(num_classes=3, width=4, small_images=small)
        params, extra = shapes_of(model, 1, 32, 32, 3)
        text = str(jax.make_jaxpr(lambda *args: model.apply(*args)[0])(params, extra, jnp.zeros((1, 32, 32, 3))))
        assert (f"f32[1,{side},{side},4]" in text) and (f"f32[1,{side // 8},{side // 8},32]" in text)
