"""Precision: what is kept in which dtype, what is computed in which, and how near it comes."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import losses, models, objectives
from jaxkit.models.residual import BasicBlock, Norm, ResNet

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 2)).astype(np.float32)
TOKENS = np.random.default_rng(0).integers(0, 19, (3, 10))
LLAMA = dict(positions="rotary", norm="rms", activation="swiglu", bias=False, tied=False, num_kv_heads=2)
TINY = dict(vocabulary_size=19, max_length=10, num_layers=2, num_heads=4, features=32)
# One block of the real network, because compiling eighteen layers takes a while.
RESNET = dict(num_classes=3, stages=(1,), block=BasicBlock, width=8, small_images=True)
TABLE = {
    "mlp": (functools.partial(models.mlp, num_classes=3, features=(8,)), IMAGES),
    "cnn": (functools.partial(models.cnn, num_classes=3, features=(4,), dense=(8,)), IMAGES),
    "cnn without convolutions": (functools.partial(models.cnn, num_classes=3, features=(), dense=()), IMAGES),
    "resnet": (lambda: models.from_linen(ResNet(**RESNET, norm=Norm("batch", None))), IMAGES),
    "resnet group": (lambda: models.from_linen(ResNet(**RESNET, norm=Norm("group", None))), IMAGES),
    "standardized": (lambda: models.standardized(models.mlp(num_classes=3), mean=0.1), IMAGES),
    "gpt2": (functools.partial(models.transformer, **TINY), TOKENS),
    "llama scan": (functools.partial(models.transformer, **TINY, **LLAMA, scan=True), TOKENS),
}
every_model = pytest.mark.parametrize("name", TABLE)


def dtypes(tree):
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}


def results(jaxpr, primitive):
    """The dtypes that a primitive gives, wherever in a jaxpr."""
    return set(re.findall(rf":(\w+)\[[^\]]*\] = {primitive}\b", str(jaxpr)))


@functools.cache
def begin(name):
    """The model without and with the policy, the shapes of its parameters, and its inputs."""
    make, inputs = TABLE[name]
    model = make()
    policy = models.precision(model)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return model, policy, *jax.eval_shape(policy.init, key, inputs), inputs


@every_model
def test_parameters_and_outputs_are_in_their_dtypes(name):
    model, _, params, extra, inputs = begin(name)
    for kept, compute, output in [("float32", "bfloat16", "float32"), ("bfloat16", "float32", "bfloat16")]:
        policy = models.precision(model, params=kept, compute=compute, output=output)
        assert type(policy) is type(model)
        params, extra = jax.eval_shape(policy.init, jax.eval_shape(lambda: jax.random.key(0)), inputs)
        assert dtypes(params) == {kept}
        outputs, after = jax.eval_shape(functools.partial(policy.apply, train=True), params, extra, inputs)
        assert dtypes(outputs) == {output}
        # What the model changes by itself keeps its own dtype.
        assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, extra)
        assert dtypes(extra) <= {"float32"}


@every_model
def test_products_are_in_the_dtype_of_the_computation(name):
    _, policy, params, extra, inputs = begin(name)
    jaxpr = jax.make_jaxpr(lambda *args: policy.apply(*args, train=True)[0])(params, extra, inputs)
    products = results(jaxpr, "dot_general") | results(jaxpr, "conv_general_dilated")
    # A transformer also sums scores and logits to float32: see below.
    assert products == ({"bf16", "f32"} if inputs is TOKENS else {"bf16"})


@pytest.mark.parametrize("name", ["gpt2", "llama scan"])
def test_a_transformer_has_softmax_norms_and_logits_in_float32(name):
    _, policy, params, extra, inputs = begin(name)
    jaxpr = jax.make_jaxpr(lambda *args: policy.apply(*args)[0])(params, extra, inputs)
    assert results(jaxpr, "exp") == {"f32"}
    assert results(jaxpr, "rsqrt") == {"f32"}
    # Scores and logits are summed to float32, every other product is bfloat16.
    assert results(jaxpr, "dot_general") == {"f32", "bf16"}
    assert results(jaxpr, "tanh" if name == "gpt2" else "logistic") == {"bf16"}
    assert results(jaxpr, "cos") == ({"f32"} if name == "llama scan" else set())
    shapes = re.findall(r":f32\[([\d,]+)\] = dot_general", str(jaxpr))
    assert shapes[-1] == "30,19"


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "resnet group", "gpt2"])
def test_bfloat16_comes_near_float32(name):
    model, policy, params, extra, inputs = begin(name)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 4, params)
    extra = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), extra)
    exact = np.asarray(jax.jit(model.apply)(params, extra, inputs)[0])
    near = np.asarray(jax.jit(policy.apply)(params, extra, inputs)[0])
    # bfloat16 rounds by up to 2^-9 of a number; layers add up to some ten such errors.
    bound = 10 * 2**-9 * np.abs(exact).max()
    assert 0 < np.abs(near - exact).max() < bound
    assert np.ptp(exact, axis=0).max() > 2 * bound


def test_gradients_are_those_of_the_kept_parameters():
    _, policy, params, extra, inputs = begin("gpt2")
    gradient = jax.eval_shape(jax.grad(lambda params: policy.apply(params, extra, inputs)[0].sum()), params)
    assert jax.tree.map(lambda leaf: leaf.dtype, gradient) == jax.tree.map(lambda leaf: leaf.dtype, params)


SHORT_LOSS = optax.softmax_cross_entropy_with_integer_labels  # computes in the dtype that it is given


def giving(outputs):
    """A model that has made up its mind."""
    return models.mlp(num_classes=1)._replace(apply=lambda *_, **__: (outputs, {}))


def test_the_loss_of_short_outputs_is_in_float32():
    make, images = TABLE["mlp"]
    policy = models.precision(make(), output="bfloat16")
    params, _ = jax.jit(policy.init)(jax.random.key(1), images)
    batch = {"image": images, "label": np.array([0, 1, 2, 0], np.int32)}
    # Operation by operation: what is compiled whole may leave out a rounding to bfloat16 and back.
    logits = policy.apply(params, {}, images)[0]
    assert logits.dtype == jnp.bfloat16
    wanted = float(SHORT_LOSS(logits.astype(np.float32), batch["label"]).mean())
    assert abs(float(SHORT_LOSS(logits, batch["label"]).mean()) - wanted) > 1e-4  # else nothing is told apart

    objective = objectives.classification(policy, SHORT_LOSS, num_classes=3)
    evaluate = objectives.evaluation(policy, SHORT_LOSS)
    train = lambda params: objective(params, {}, batch, jax.random.key(0))[0].compute()
    serve = lambda params: evaluate(params, {}, batch)["loss"].compute()
    for loss in (train, serve):
        assert float(loss(params)) == pytest.approx(wanted, abs=1e-6)
        jaxpr = jax.make_jaxpr(jax.grad(loss))(params)
        assert results(jaxpr, "exp") == results(jaxpr, "log") == {"f32"}


def test_the_loss_of_short_logits_of_tokens_is_in_float32():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 9, 19)), jnp.bfloat16)
    wanted = float(losses.cross_entropy(logits, TOKENS[:, 1:]).mean())
    assert abs(float(SHORT_LOSS(logits, TOKENS[:, 1:]).mean()) - wanted) > 1e-4
    objective = objectives.language_modelling(giving(logits), SHORT_LOSS, vocabulary_size=19)
    evaluate = objectives.language_evaluation(giving(logits), SHORT_LOSS, vocabulary_size=19)
    for found in (
        objective({}, {}, {"tokens": TOKENS}, jax.random.key(0))[0],
        evaluate({}, {}, {"tokens": TOKENS})["loss"],
    ):
        assert float(found.compute()) == pytest.approx(wanted, abs=1e-6)


def test_each_floating_output_is_measured_in_float32_and_hidden_states_stay_as_they_are():
    parts = {
        "logits": jnp.zeros((4, 3), jnp.bfloat16),
        "more": (jnp.zeros(4, jnp.float16), jnp.zeros(4, jnp.int32)),
    }
    seen = []

    def loss(outputs, targets):
        seen.append(jax.tree.map(lambda leaf: leaf.dtype.name, outputs))
        return jnp.zeros(targets.shape)

    batch = {"image": np.zeros(4, np.float32), "label": np.zeros(4, np.int32)}
    objectives.evaluation(giving(parts), loss)({}, {}, batch)
    tokens = {"tokens": np.zeros((2, 4), np.int32)}
    hidden = jnp.zeros((2, 3, 5), jnp.bfloat16), jnp.zeros((5, 7), jnp.bfloat16)
    objectives.language_evaluation(giving(hidden), loss, vocabulary_size=7)({}, {}, tokens)
    assert seen == [{"logits": "float32", "more": ("float32", "int32")}, ("bfloat16", "bfloat16")]


def test_small_gradients_do_not_vanish():
    # 1e-30 is far below the smallest float16, 6e-8: the reason why float16 needs loss scaling.
    policy = models.precision(models.mlp(num_classes=1, features=()))
    params = {"output": {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}}
    gradient = jax.grad(lambda params: 1e-30 * policy.apply(params, {}, jnp.ones((1, 2)))[0].sum())(params)
    np.testing.assert_allclose(gradient["output"]["kernel"], 1e-30, rtol=2**-8)


def test_a_decoder_keeps_its_cache_in_the_dtype_of_the_computation():
    _, policy, params, _, _ = begin("gpt2")
    cache = policy.cache(3, 10)
    assert dtypes(cache.memories) == {"bfloat16"}
    assert dtypes(policy.cache(3, 10, "float32").memories) == {"float32"}
    logits, after = jax.eval_shape(policy.extend, params, TOKENS, cache)
    assert dtypes(logits) == {"float32"}
    # So a loop can carry it.
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), cache
    )


def test_cached_decoding_in_bfloat16_is_as_near_to_float32():
    model, policy, shapes, _, _ = begin("gpt2")
    params = jax.tree.map(lambda leaf: np.random.default_rng(0).normal(size=leaf.shape) / 4, shapes)
    params = jax.tree.map(np.float32, params)
    logits, _ = jax.jit(policy.extend)(params, TOKENS, policy.cache(3, 10))
    exact = np.asarray(jax.jit(model.apply)(params, {}, TOKENS)[0])
    assert np.abs(logits - exact).max() < 10 * 2**-9 * np.abs(exact).max()


def test_float32_throughout_changes_nothing():
    model, _, shapes, extra, inputs = begin("mlp")
    policy = models.precision(model, compute="float32")
    params = jax.tree.map(lambda leaf: np.linspace(-1, 1, leaf.size, dtype=np.float32).reshape(leaf.shape), shapes)
    assert np.array_equal(policy.apply(params, extra, inputs)[0], model.apply(params, extra, inputs)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            dict(compute="float16"),
            "compute: came 'float16', wanted one of float32, bfloat16; float16 would need loss",
        ),
        (dict(params="half"), "params: came 'half', wanted one of float32, bfloat16"),
        (dict(output="int32"), "output: came 'int32', wanted"),
    ],
)
def test_other_dtypes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        models.precision(models.mlp(num_classes=2), **arguments)
