"""Keys by name and by step."""

import jax
import numpy as np
import pytest

from jaxkit import random


def data(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_names_and_steps_give_different_keys():
    root = jax.random.key(0)
    keys = [
        random.at(random.named(root, name), step) for name in ("init", "augment", "model") for step in range(5)
    ]
    assert len({data(key) for key in keys}) == 15


def test_a_name_gives_the_same_key_in_every_process():
    # 3944118809 is the CRC-32 of "augment"; Python's own hash() would be another number in each process.
    root = jax.random.key(7)
    assert data(random.named(root, "augment")) == data(jax.random.fold_in(root, 3944118809))


def test_a_number_is_no_name():
    with pytest.raises(TypeError, match=r"name: came 3 \(int\), wanted a str"):
        random.named(jax.random.key(0), 3)


@pytest.mark.parametrize("step", [1.5, "init", None, True, np.float32(1)])
def test_a_step_is_a_whole_number(step):
    with pytest.raises(TypeError, match=r"step: came .*, wanted a whole number"):
        random.at(jax.random.key(0), step)


def test_at_takes_a_traced_step():
    root = jax.random.key(0)
    assert data(jax.jit(random.at)(root, np.int32(3))) == data(random.at(root, 3))
