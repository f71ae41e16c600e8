"""What each family computes, against numbers derived by hand and against twins in Linen."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxkit import models
from jaxkit.models.convolutional import _pool
from jaxkit.models.feedforward import drop, kernel
from jaxkit.models.inputs import placeholder
from jaxkit.models.residual import BasicBlock, Bottleneck, Norm, ResNet
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
    twice, _ = models.mlp(num_classes=2, features=(4,), activation=lambda h: 2 * jax.nn.relu(h)).apply(
        params, {}, x
    )
    bias = params["output"]["bias"][None]
    np.testing.assert_allclose(twice - bias, 2 * (relu - bias), rtol=1e-5)


def test_features_may_be_a_list_as_they_are_after_json():
    assert jax.tree.structure(shapes_of(models.mlp(num_classes=2, features=[4, 4]), 1, 3)) == jax.tree.structure(
        shapes_of(models.mlp(num_classes=2, features=(4, 4)), 1, 3)
    )


def test_kernels_are_those_of_the_initializers_of_jax():
    shape = (3, 3, 4, 6)
    ours = kernel(jax.random.key(3), shape, gain=2.0)
    np.testing.assert_allclose(ours, jax.nn.initializers.he_normal()(jax.random.key(3), shape), rtol=1e-6)
    # Half the variance, the same draw.
    np.testing.assert_allclose(kernel(jax.random.key(3), shape, gain=1.0), ours / np.sqrt(2), rtol=1e-6)


@pytest.mark.parametrize(
    ("image", "size", "pool"), [((8, 8, 1), 3, 2), ((9, 7, 2), 3, 2), ((7, 7, 2), 2, 3), ((4, 4, 3), 5, 1)]
)
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
    model = models.resnet(num_classes=1000, depth=depth)
    params, extra = jax.eval_shape(model.init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
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


def test_group_norm_has_as_many_parameters_and_no_statistics():
    batch = shapes_of(models.resnet(num_classes=10), 1, 32, 32, 3)
    group = shapes_of(models.resnet(num_classes=10, norm="group"), 1, 32, 32, 3)
    assert jax.tree.map(jnp.shape, batch[0]) == jax.tree.map(jnp.shape, group[0])
    assert (set(batch[1]), set(group[1])) == ({"batch_stats"}, set())


@pytest.mark.parametrize("block", [BasicBlock(4, 1, Norm("batch", None)), Bottleneck(1, 1, Norm("group", None))])
def test_blocks_start_as_the_identity(block):
    x = np.linspace(-1, 1, 2 * 3 * 3 * 4, dtype=np.float32).reshape(2, 3, 3, 4)
    outputs, variables = jax.jit(lambda key: block.init_with_output(key, x, False))(jax.random.key(0))
    assert np.array_equal(outputs, np.maximum(x, 0))
    # Only the last scale is zero: the rest of the block is ready to learn.
    assert sum(not np.any(layer["scale"]) for layer in variables["params"].values() if "scale" in layer) == 1


@pytest.mark.parametrize(("small", "sides"), [(True, [32, 16, 8, 4]), (False, [8, 4, 2, 1])])
def test_stages_halve_the_image_and_the_large_stem_quarters_it(small, sides):
    module = ResNet(3, (1, 1, 1, 1), BasicBlock, Norm("batch", None), 4, small)

    def activations(key):
        return module.init_with_output(key, jnp.zeros((1, 32, 32, 3)), capture_intermediates=True, mutable=True)

    seen = jax.eval_shape(activations, jax.random.key(0))[1]["intermediates"]
    shapes = [seen[f"stage_{i}_block_0"]["__call__"][0].shape for i in range(4)]
    assert shapes == [(1, side, side, 4 * 2**i) for i, side in enumerate(sides)]


def test_batch_statistics_move_a_tenth_of_the_way():
    model = models.from_linen(Normalized())
    x = jnp.array([[1.0], [5.0]])
    _, extra = model.apply(
        {}, {"batch_stats": {"norm": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}}, x, train=True
    )
    # Mean 3, variance 4: 0.9 * 0 + 0.1 * 3 and 0.9 * 1 + 0.1 * 4.
    np.testing.assert_allclose(extra["batch_stats"]["norm"]["mean"], [0.3], rtol=1e-6)
    np.testing.assert_allclose(extra["batch_stats"]["norm"]["var"], [1.3], rtol=1e-6)


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        norm = nn.BatchNorm(not train, momentum=0.9, use_scale=False, use_bias=False, name="norm")
        return norm(x)


def switched(name):
    """A module whose `__call__` takes one argument of that name, and returns it."""
    scope = {}
    exec(f"def call(self, inputs, {name}): return {name}", scope)
    return type("Switched", (nn.Module,), {"__call__": scope["call"]})()


@pytest.mark.parametrize(("name", "in_training"), [("train", True), ("training", True), ("deterministic", False)])
def test_a_module_is_told_whether_it_trains_by_its_own_name(name, in_training):
    model = models.from_linen(switched(name))
    x = jnp.zeros(1)
    assert model.apply({}, {}, x, train=True)[0] is in_training
    assert model.apply({}, {}, x)[0] is not in_training


class Sowing(nn.Module):
    """Gives a loss of its own beside its outputs."""

    how: dict

    @nn.compact
    def __call__(self, x):
        self.sow("losses", "size", jnp.mean(x), **self.how)
        return x


def test_what_a_module_sows_may_not_grow_from_step_to_step():
    x, replacing = jnp.ones((2, 3)), {"reduce_fn": lambda old, new: new, "init_fn": lambda: None}
    model = models.from_linen(Sowing(replacing))
    _, extra = model.init(jax.random.key(0), x)
    for _ in range(2):
        _, extra = model.apply({}, extra, x, train=True)
        assert float(extra["losses"]["size"]) == 1.0
    model = models.from_linen(Sowing({}))
    _, extra = model.init(jax.random.key(0), x)
    with pytest.raises(
        ValueError, match=r"extra: the collection 'losses' of Sowing .* reduce_fn=lambda old, new: new"
    ):
        model.apply({}, extra, x, train=True)


class Noisy(nn.Module):
    """Draws from two streams, whenever it is called."""

    @nn.compact
    def __call__(self, x):
        return {name: jax.random.normal(self.make_rng(name), x.shape) for name in ("noise", "dropout")}


def test_each_stream_has_a_key_of_its_own():
    model = models.from_linen(Noisy(), rngs=("dropout", "noise"))
    x, key = jnp.zeros(3), jax.random.key(0)
    outputs, _ = model.apply({}, {}, x, key=key, train=True)
    assert not np.allclose(outputs["noise"], outputs["dropout"])
    again, _ = models.from_linen(Noisy(), rngs=("noise", "dropout")).apply({}, {}, x, key=key, train=True)
    assert np.array_equal(outputs["noise"], again["noise"])


def test_linen_says_what_is_missing_for_a_draw():
    x, key = jnp.zeros(3), jax.random.key(0)
    model = models.from_linen(Noisy())
    with pytest.raises(ValueError, match=r"rngs: came \('dropout',\), but Noisy draws from another stream"):
        model.apply({}, {}, x, key=key, train=True)
    with pytest.raises(ValueError, match="module: Noisy draws random numbers in evaluation"):
        model.apply({}, {}, x)


def test_standardized_by_channel():
    model = models.standardized(IDENTITY, mean=(1.0, 2.0), std=(2.0, 4.0))
    raw = np.array([[[5, 6], [1, 2]]], np.uint8)
    outputs, _ = model.apply({}, {}, raw)
    assert outputs.dtype == jnp.float32
    assert outputs.tolist() == [[[2.0, 1.0], [0.0, 0.0]]]
    # Unsigned integers below the mean go below zero.
    assert model.apply({}, {}, np.zeros((1, 2), np.uint8))[0].tolist() == [[-0.5, -0.5]]


def test_standardized_gives_init_what_it_gives_apply():
    inner = IDENTITY._replace(init=lambda key, inputs: (inputs, {}))
    seen, _ = models.standardized(inner, mean=1.0, std=2.0).init(None, np.array([[5]], np.int32))
    assert seen.tolist() == [[2.0]]


def test_placeholder_keeps_values_where_there_are_any():
    tree = placeholder({"a": jax.ShapeDtypeStruct((2,), jnp.int32), "b": np.ones(2)})
    assert tree["a"].tolist() == [0, 0]
    assert tree["b"].tolist() == [1.0, 1.0]


IDENTITY = Model(lambda key, inputs: ({}, {}), lambda params, extra, inputs, *, key, train: (inputs, extra))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: models.mlp(num_classes=0), ValueError, "num_classes: came 0, wanted a number >= 1"),
        (lambda: models.mlp(num_classes=2.5), TypeError, "num_classes: came 2.5 (float), wanted a whole number"),
        (lambda: models.mlp(num_classes=True), TypeError, "num_classes: came True"),
        (lambda: models.mlp(num_classes=2, features=64), TypeError, "features: came 64 (int), wanted a tuple"),
        (lambda: models.mlp(num_classes=(2,)), TypeError, "num_classes: came tuple, wanted a whole number"),
        (lambda: models.cnn(num_classes=2, features=(8, 0)), ValueError, "features[1]: came 0"),
        (lambda: models.cnn(num_classes=2, pool=0), ValueError, "pool: came 0"),
        (
            lambda: models.mlp(num_classes=2, dropout=1.0),
            ValueError,
            "dropout: came 1.0, wanted a number in [0, 1)",
        ),
        (lambda: models.mlp(num_classes=2, dropout=-0.1), ValueError, "dropout: came -0.1"),
        (lambda: models.cnn(num_classes=2, activation="gelu"), TypeError, '{"function": "jax.nn.gelu"}'),
        (lambda: models.resnet(num_classes=2, depth=20), ValueError, "depth: came 20, wanted one of 18, 34, 50"),
        (lambda: models.resnet(num_classes=2, norm="layer"), ValueError, "norm: came 'layer', wanted"),
        (
            lambda: models.from_linen(switched("is_training")),
            TypeError,
            "module: Switched.__call__ wants 'is_training'; beside its inputs a module is given train, training,",
        ),
        (lambda: models.from_linen(nn.Dense), TypeError, "module: came the class Dense, wanted an instance"),
        (
            lambda: models.from_linen(nn.Dense(2), rngs="dropout"),
            TypeError,
            "wanted a tuple of names: ('dropout',)",
        ),
        (lambda: models.standardized(IDENTITY, std=0.0), ValueError, "std: came 0.0, wanted numbers above zero"),
        (lambda: models.standardized(IDENTITY, mean="0"), TypeError, "mean: came '0', wanted a number"),
        (lambda: models.standardized(IDENTITY, mean=float("nan")), ValueError, "mean: came nan, wanted finite"),
    ],
)
def test_arguments_are_checked_when_a_model_is_made(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("model", "shape", "dtype", "error", "message"),
    [
        (models.cnn(num_classes=2), (8, 8, 8), "float32", ValueError, "add a channel axis"),
        (models.cnn(num_classes=2), (2, 3, 8, 1), "float32", ValueError, "wanted images of at least 4 x 4"),
        (models.cnn(num_classes=2), (2, 8, 8, 1), "uint8", TypeError, "jaxkit.models.standardized(model"),
        (models.mlp(num_classes=2), (2, 8), "int32", TypeError, "inputs: came int32[2,8], wanted floats"),
        (models.resnet(num_classes=2), (2, 8, 8), "float32", ValueError, "add a channel axis"),
        (models.resnet(num_classes=2), (2, 8, 8, 3), "uint8", TypeError, "jaxkit.models.standardized(model"),
        (models.standardized(IDENTITY, mean=(1.0, 2.0)), (2, 3), "uint8", ValueError, "wanted 2 channels"),
        (models.standardized(IDENTITY), (2, 3), "bool", TypeError, "inputs: came bool[2,3]"),
    ],
)
def test_inputs_that_cannot_be_taken_are_refused_with_a_remedy(model, shape, dtype, error, message):
    with pytest.raises(error, match=re.escape(message)):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype))


def test_images_of_another_size_than_at_init_are_refused():
    model = models.cnn(num_classes=2, features=(4,))
    params, _ = shapes_of(model, 1, 8, 8, 1)
    with pytest.raises(ValueError, match=r"float32\[1,16,16,1\], wanted images of the size that init saw"):
        jax.eval_shape(lambda params: model.apply(params, {}, jnp.zeros((1, 16, 16, 1))), params)


@pytest.mark.parametrize("size", [2, 3])
def test_pooling_has_the_values_and_gradients_of_a_window(size):
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 3)).astype(np.float32)
    window = lambda x: jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, size, size, 1), "VALID"
    )
    weights = np.random.default_rng(1).normal(size=window(x).shape).astype(np.float32)
    for scale in (1.0, 0.3):
        # Something to fuse with: a maximum that is compared with values computed anew loses its gradient.
        loss = lambda x, pool, scale=scale: jnp.sum(pool(jnp.tanh(x * scale) * 0.7 + 0.1) * weights)
        value, slope = jax.jit(jax.value_and_grad(lambda x, f=loss: f(x, lambda y: _pool(y, size))))(x)
        wanted, wanted_slope = jax.jit(jax.value_and_grad(lambda x, f=loss: f(x, window)))(x)
        np.testing.assert_allclose(value, wanted, rtol=1e-6)
        np.testing.assert_allclose(slope, wanted_slope, atol=1e-6)


@pytest.mark.parametrize("place", range(4))
def test_pooling_shows_a_nan_wherever_it_is(place):
    x = np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1)
    x[0, place // 2, place % 2, 0] = np.nan
    assert np.isnan(_pool(x, 2)).all()
