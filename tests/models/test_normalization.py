"""Batch normalisation: the numbers of Linen's, and the same ones however a batch is split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxkit import models
from jaxkit.models import residual
from jaxkit.models.normalization import Statistics, batch_norm, check_group_size


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(2.0, 3.0, (12, 4, 5)).astype(np.float32)


RUNNING = Statistics(jnp.full(5, 0.5), jnp.full(5, 2.0))


def test_without_groups_it_is_linens(x):
    module = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5, use_scale=False, use_bias=False)
    wanted, changed = module.apply(
        {"batch_stats": {"mean": RUNNING.mean, "var": RUNNING.var}}, x, mutable=["batch_stats"]
    )
    found, running = batch_norm(jnp.asarray(x), RUNNING, train=True)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(running.mean, changed["batch_stats"]["mean"], rtol=1e-5)
    np.testing.assert_allclose(running.var, changed["batch_stats"]["var"], rtol=1e-5)


def test_groups_are_those_of_the_parts_and_the_running_statistics_their_average(x):
    whole, running = batch_norm(jnp.asarray(x), RUNNING, train=True, group_size=4)
    parts = [batch_norm(jnp.asarray(part), RUNNING, train=True) for part in np.split(x, 3)]
    np.testing.assert_allclose(whole, np.concatenate([y for y, _ in parts]), atol=1e-6)
    np.testing.assert_allclose(running.mean, np.mean([r.mean for _, r in parts], axis=0), rtol=1e-6)
    np.testing.assert_allclose(running.var, np.mean([r.var for _, r in parts], axis=0), rtol=1e-6)
    # The groups matter: one group for all is something else.
    assert np.abs(whole - batch_norm(jnp.asarray(x), RUNNING, train=True)[0]).max() > 0.05


def test_evaluation_uses_the_running_statistics_and_learns_nothing(x):
    y, running = batch_norm(jnp.asarray(x), RUNNING, train=False, group_size=5)
    np.testing.assert_allclose(y, (x - 0.5) / np.sqrt(2.0 + 1e-5), atol=1e-5)
    assert running is RUNNING


def test_statistics_are_in_float32_whatever_comes(x):
    y, running = batch_norm(jnp.asarray(x, jnp.bfloat16), RUNNING, train=True)
    assert (y.dtype, running.mean.dtype) == (jnp.bfloat16, jnp.float32)


def test_groups_are_of_a_whole_number_of_examples():
    with pytest.raises(TypeError, match=r"group_size: came 2\.5 \(float\), wanted a whole number"):
        check_group_size(2.5)


def test_groups_that_do_not_divide_are_named(x):
    with pytest.raises(ValueError, match="group_size: groups of 5 do not divide the 12 examples"):
        batch_norm(jnp.asarray(x), RUNNING, train=True, group_size=5)


def test_a_resnet_takes_its_groups_by_themselves(monkeypatch):
    monkeypatch.setitem(residual._STAGES, 18, (residual.BasicBlock, (1,)))
    rng = np.random.default_rng(1)
    images = rng.normal(size=(4, 6, 6, 3)).astype(np.float32)

    def made(group_size):
        model = models.resnet(num_classes=3, width=4, small_images=True, group_size=group_size)
        return model, jax.jit(lambda params, extra, x: model.apply(params, extra, x, train=True))

    (model, grouped), (_, whole) = made(2), made(None)
    shapes, extra = jax.eval_shape(model.init, jax.random.key(0), images)
    # Drawn, because the last scale of a block starts at zero.
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    extra = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), extra)
    found, moved = grouped(params, extra, images)
    halves = [whole(params, extra, half) for half in np.split(images, 2)]
    np.testing.assert_allclose(found, np.concatenate([outputs for outputs, _ in halves]), atol=1e-5)
    average = jax.tree.map(lambda a, b: (a + b) / 2, *(after for _, after in halves))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), moved, average)
    assert np.abs(found - whole(params, extra, images)[0]).max() > 0.05


def test_the_gradient_sees_the_statistics(x):
    # Normalised values sum to zero, so nothing can be gained by moving all of a channel.
    grads = jax.grad(lambda shift: batch_norm(x + shift[None, None], RUNNING, train=True)[0].sum())(jnp.zeros(5))
    np.testing.assert_allclose(grads, np.zeros(5), atol=1e-4)
