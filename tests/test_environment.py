"""The tests are as strict as conftest.py and pyproject.toml say."""

import warnings

import jax
import jax.numpy as jnp
import pytest


def test_a_warning_is_an_error():
    with pytest.raises(UserWarning, match="nobody reads it"):
        warnings.warn("nobody reads it", UserWarning, stacklevel=1)


def test_ranks_are_not_promoted():
    assert jax.config.jax_numpy_rank_promotion == "raise"
    with pytest.raises(ValueError, match="promotion"):
        jnp.ones((2, 3)) + jnp.ones(3)


def test_a_key_is_used_once():
    assert jax.config.jax_debug_key_reuse
    key = jax.random.key(0)
    jax.random.uniform(key)
    with pytest.raises(jax.errors.KeyReuseError):
        jax.random.uniform(key)


def test_there_are_four_devices():
    assert [device.platform for device in jax.devices()] == ["cpu"] * 4
