"""Means: totals and counts are added, and divided once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit.means import Mean, mean


def test_mean_leaves_out_what_is_masked():
    # (1 + 5) / 2 = 3; the 99 is padding.
    found = mean(jnp.array([1.0, 99.0, 5.0]), jnp.array([True, False, True]))
    assert (float(found.total), float(found.count), float(found.compute())) == (6.0, 2.0, 3.0)


def test_parts_of_uneven_size_add_up_to_the_whole():
    # Shards with means 1 (3 examples) and 5 (1 example): the truth is (1+1+1+5)/4 = 2, the mean of means 3.
    parts = [mean(jnp.ones(3)), mean(jnp.array([5.0]))]
    assert float((parts[0] + parts[1]).compute()) == 2.0


def test_a_masked_nan_or_infinity_does_no_harm_forward_or_backward():
    values = jnp.array([2.0, jnp.nan, jnp.inf])
    mask = jnp.array([True, False, False])
    total, gradient = jax.value_and_grad(lambda v: mean(v, mask).total)(values)
    assert float(total) == 2.0
    np.testing.assert_array_equal(gradient, [1.0, 0.0, 0.0])


def test_a_mask_over_examples_covers_every_token_of_one():
    found = mean(jnp.ones((2, 5)), jnp.array([True, False]))
    assert float(found.count) == 5.0


def test_a_mask_of_another_shape_is_named():
    with pytest.raises(ValueError, match=r"mask: came bool\[3\]"):
        mean(jnp.ones(4), jnp.ones(3, bool))


def test_a_mask_of_weights_is_refused():
    with pytest.raises(TypeError, match=r"mask: came float32\[2\], wanted dtype bool"):
        mean(jnp.ones(2), jnp.full(2, 0.5))


def test_nothing_counted_is_an_error_on_the_host_and_nan_in_a_trace():
    empty = Mean(jnp.zeros(()), jnp.zeros(()))
    with pytest.raises(ValueError, match="no example was counted"):
        empty.compute()
    assert np.isnan(jax.jit(lambda state: state.compute())(empty))


def test_of_several_classes_one_without_an_example_is_nan_and_the_others_stay():
    found = Mean(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
    np.testing.assert_array_equal(found.compute(), [0.5, np.nan])
    with pytest.raises(ValueError, match="no example was counted"):
        Mean(np.zeros(2), np.zeros(2)).compute()


def test_the_total_may_be_a_tree():
    found = Mean({"w": jnp.array([2.0, 4.0])}, jnp.array(2.0)) + Mean({"w": jnp.array([2.0, 0.0])}, jnp.array(2.0))
    np.testing.assert_array_equal(found.compute()["w"], [1.0, 1.0])
