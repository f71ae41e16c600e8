"""Checks: the message says what came, what was wanted, and where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import checks


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"logits": (np.zeros((8, 3)), "batch 10")}, "logits: came float64[8,3], wanted shape [batch, 10]"),
        ({"x": (np.zeros(3), "batch features")}, "x: came float64[3], wanted shape [batch, features]"),
        (
            {"a": (np.zeros(3), "batch"), "b": (np.zeros(4), "batch")},
            "b: came float64[4], wanted shape [batch], batch=3",
        ),
        (
            {"x": (np.zeros(2), "... length features")},
            "x: came float64[2], wanted shape [..., length, features]",
        ),
    ],
)
def test_a_wrong_shape_is_named(arrays, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        checks.shapes(**arrays)
    assert str(caught.value) == message


def test_axes_of_one_name_have_one_size():
    sizes = checks.shapes(a=(np.zeros((2, 7, 3)), "... batch 3"), b=(np.zeros(7), "batch"))
    assert sizes == {"batch": 7}


def test_shapes_are_checked_in_a_trace():
    with pytest.raises(ValueError, match=r"x: came float32\[3\]"):
        jax.jit(lambda x: checks.shapes(x=(x, "batch features")))(jnp.zeros(3))


def test_a_wrong_dtype_is_named():
    with pytest.raises(TypeError, match=r"labels: came float32\[3\], wanted dtype integer"):
        checks.dtypes(labels=(np.zeros(3, np.float32), jnp.integer))


@pytest.mark.parametrize("value", [jnp.zeros(2, jnp.uint32), 0, None])
def test_a_raw_key_is_refused(value):
    with pytest.raises(TypeError, match=r"wanted one typed key: jax\.random\.key\(seed\)"):
        checks.key(value)


@pytest.mark.parametrize("value", [[0, 1], (0, 1), None, "01"])
def test_what_is_no_array_is_named(value):
    # jax takes no list for an array, and says only that it has no dtype.
    for check in (
        lambda: checks.dtypes(labels=(value, jnp.integer)),
        lambda: checks.shapes(labels=(value, "batch")),
    ):
        with pytest.raises(TypeError, match=r"labels: came .*, wanted an array"):
            check()


def test_classes_in_the_place_of_logits_are_seen():
    with pytest.raises(
        ValueError, match=r"labels: came int64\[8\], .* each row of the logits, which are int64\[8\]"
    ):
        checks.labels(np.zeros(8, int), np.zeros(8, int))


@pytest.mark.parametrize("value", [2.5, True, 0])
def test_sizes_are_whole_numbers(value):
    with pytest.raises((TypeError, ValueError), match="k: came"):
        checks.sizes(k=value)


def test_many_keys_are_not_one():
    with pytest.raises(TypeError, match="wanted one typed key"):
        checks.key(jax.random.split(jax.random.key(0), 3))


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (float("nan"), ValueError), (True, TypeError), ("1", TypeError)]
)
def test_at_least(value, error):
    with pytest.raises(error, match="width: came"):
        checks.at_least(1, width=value)


def test_finite_names_the_leaf():
    checks.finite(params={"a": jnp.ones(3), "n": jnp.arange(3)})
    with pytest.raises(ValueError, match=r"params\['a'\]: 1 of 3 values are not finite"):
        checks.finite(params={"a": jnp.array([1.0, jnp.nan, 2.0])})


def test_finite_takes_numbers_as_they_are():
    # As float32 the first would be infinite, and of the second only the real part would be seen.
    checks.finite(params=np.array([1e300]), short=jnp.ones(2, jnp.bfloat16))
    for dtype in (jnp.bfloat16, jnp.float8_e4m3fn, np.float64, np.complex64):
        with pytest.raises(ValueError, match="params: 1 of 2 values are not finite"):
            checks.finite(params=np.array([1, complex(0, np.nan) if dtype == np.complex64 else np.nan], dtype))
