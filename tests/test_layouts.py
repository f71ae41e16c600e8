"""One update under every layout: the same parameters and losses after 20 steps, to rounding.

Batch normalisation has groups of stated examples, so that it is in the table too; dropout is off, for it draws
by device under `pmap` and by part under `exact`.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest

from jaxkit import models, objectives, parallel, updates
from jaxkit.types import Indexed

STEPS, BATCH, SIZE = 20, 32, 64

LAYOUTS = {
    "jit": parallel.jit,
    "pmap": parallel.pmap,
    "mesh data 4": lambda: parallel.mesh(data=4),
    "mesh fsdp 4": lambda: parallel.mesh(fsdp=4),
    "mesh data 2 x tensor 2": lambda: parallel.mesh(data=2, tensor=2),
    "exact": lambda: parallel.exact(shards=4),
}


class Case(NamedTuple):
    """A model, and the arrays that it learns from."""

    model: object
    arrays: dict


def images(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(SIZE, 6, 6, 2)).astype(np.float32)
    return {"image": image, "label": (image.mean(axis=(1, 2, 3)) > 0).astype(np.int32)}


CASES = {
    "mlp": lambda: Case(models.mlp(num_classes=4, features=(16, 8)), images()),
    "cnn": lambda: Case(
        models.cnn(num_classes=4, features=(4,), dense=(8,), norm="batch", group_size=2), images()
    ),
}


@functools.cache
def train(case: str, layout: str, microbatches: int):
    """(state, mean loss) after 20 steps."""
    model, arrays = CASES[case]()
    placed = LAYOUTS[layout]()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-3), updates.ema(decay=0.9))
    objective = objectives.classification(model, optax.softmax_cross_entropy_with_integer_labels, num_classes=4)
    gradients = updates.accumulate(updates.gradients(objective), microbatches=microbatches)
    update = updates.indexed(updates.step(placed.across(gradients), optimizer))
    update = placed.compile(update)
    params, extra = model.init(jax.random.key(1), arrays["image"][:1])
    state = placed.put_state(updates.init_state(params, extra, optimizer))
    key, resident = placed.put_state(jax.random.key(0)), placed.put_state(arrays)
    order = np.random.default_rng(2).integers(0, SIZE, (STEPS, BATCH)).astype(np.int32)
    losses = []
    for indices in order:
        state, metrics = update(state, placed.put_batch(Indexed(resident, indices)), key)
        jax.block_until_ready(state)
        losses.append(float(jax.device_get(metrics["loss"]).compute()))
    return jax.device_get(state), losses


@pytest.mark.parametrize("microbatches", [1, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_every_layout_trains_the_same_parameters(case, layout, microbatches):
    state, losses = train(case, layout, microbatches)
    wanted, wanted_losses = train(case, "jit", 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=0), state, wanted)
    np.testing.assert_allclose(losses, wanted_losses, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_move_the_parameters_by_far_more_than_the_tolerance(case):
    model, arrays = CASES[case]()
    params, _ = model.init(jax.random.key(1), arrays["image"][:1])
    state, losses = train(case, "jit", 1)
    moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(state.params))]
    assert min(moved) > 1e-2
    assert losses[-1] < losses[0] - 0.1
