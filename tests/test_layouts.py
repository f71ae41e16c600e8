"""One update under every layout: the same parameters and losses after 20 steps, to rounding.

Batch normalisation has groups of stated examples, so that it is in the table too; dropout is off, for it draws
by device under `pmap` and by part under `exact`. What has no groups, or draws, is the same under `jit` and meshes.
"""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest

from jaxkit import losses, means, models, objectives, parallel, updates
from jaxkit.runs import digest
from jaxkit.types import Indexed, Layout, Model, Objective

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
    """A model, the arrays that it learns from, and how."""

    model: Model
    arrays: dict
    objective: Callable[[Model], Objective]


def images(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(SIZE, 6, 6, 2)).astype(np.float32)
    return {"image": image, "label": (image.mean(axis=(1, 2, 3)) > 0).astype(np.int32)}


def tokens(seed: int = 0) -> dict:
    """Numbers that count up, so that there is something to learn."""
    start = np.random.default_rng(seed).integers(0, 16, (SIZE, 1))
    return {"tokens": ((start + np.arange(9)) % 16).astype(np.int32)}


def classification(model: Model) -> Objective:
    return objectives.classification(model, optax.softmax_cross_entropy_with_integer_labels, num_classes=4)


def next_token(model: Model) -> Objective:
    def objective(params, extra, batch, key):
        logits, extra = model.apply(params, extra, batch["tokens"][:, :-1], key=key, train=True)
        return means.mean(losses.cross_entropy(logits, batch["tokens"][:, 1:])), ({}, extra)

    return objective


# Without biases: that of the keys has no gradient, and Adam makes steps of its roundings.
SMALL = {"vocabulary_size": 16, "max_length": 8, "num_layers": 1, "num_heads": 2, "features": 8, "bias": False}
CASES = {
    "mlp": lambda dropout=0.0: Case(
        models.mlp(num_classes=4, features=(16, 8), dropout=dropout), images(), classification
    ),
    "cnn": lambda dropout=0.0: Case(
        models.cnn(num_classes=4, features=(4,), dense=(8,), norm="batch", group_size=2, dropout=dropout),
        images(),
        classification,
    ),
    "transformer": lambda dropout=0.0: Case(models.transformer(**SMALL, dropout=dropout), tokens(), next_token),
}


@functools.cache
def begin(make: Callable[[], Case]) -> tuple:
    """(case, params, extra), compiled once for all layouts; on the host, because what is put is donated."""
    case = make()
    first = next(iter(case.arrays.values()))[:1]
    inputs = first[:, :-1] if first.ndim == 2 else first
    return case, *jax.device_get(jax.jit(case.model.init)(jax.random.key(1), inputs))


def run(make: Callable[[], Case], layout: Layout, *, microbatches: int, steps: int = STEPS):
    """(state, losses) after some steps."""
    (model, arrays, objective), params, extra = begin(make)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-3), updates.ema(decay=0.9))
    gradients = updates.accumulate(updates.gradients(objective(model)), microbatches=microbatches)
    update = layout.compile(updates.indexed(updates.step(layout.across(gradients), optimizer)))
    state = layout.put_state(updates.init_state(params, extra, optimizer))
    key, resident = layout.put_state(jax.random.key(0)), layout.put_state(arrays)
    order = np.random.default_rng(2).integers(0, SIZE, (steps, BATCH)).astype(np.int32)
    losses = []
    for indices in order:
        state, metrics = update(state, layout.put_batch(Indexed(resident, indices)), key)
        jax.block_until_ready(state)
        losses.append(jax.device_get(metrics["loss"]))
    return jax.device_get(state), losses


@functools.cache
def train(case: str, layout: str, microbatches: int):
    return run(CASES[case], LAYOUTS[layout](), microbatches=microbatches)


@pytest.mark.parametrize("microbatches", [1, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_every_layout_trains_the_same_parameters(case, layout, microbatches):
    state, losses = train(case, layout, microbatches)
    wanted, wanted_losses = train(case, "jit", 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=0), state, wanted)
    mean = lambda losses: [float(loss.compute()) for loss in losses]
    np.testing.assert_allclose(mean(losses), mean(wanted_losses), atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_move_the_parameters_by_far_more_than_the_tolerance(case):
    _, params, _ = begin(CASES[case])
    state, losses = train(case, "jit", 1)
    moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(state.params))]
    assert min(moved) > 1e-3
    assert losses[-1].compute() < losses[0].compute() - 0.1


# What depends on how a batch is cut, and `jit` and meshes do not cut it: one program sees all of it.
OF_THE_WHOLE_BATCH = {
    "mlp with dropout": lambda: CASES["mlp"](dropout=0.3),
    "transformer with dropout": lambda: CASES["transformer"](dropout=0.3),
    "batch norm without groups": lambda: Case(
        models.cnn(num_classes=4, features=(4,), dense=(8,), norm="batch"), images(), classification
    ),
}


@functools.cache
def whole_batch(case: str, layout: str):
    return run(OF_THE_WHOLE_BATCH[case], LAYOUTS[layout](), microbatches=1)


def furthest(one, other) -> float:
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other))
    return max(float(np.abs(np.asarray(a, np.float64) - b).max()) for a, b in leaves)


@pytest.mark.parametrize("layout", ["mesh data 4", "mesh data 2 x tensor 2"])
@pytest.mark.parametrize("case", OF_THE_WHOLE_BATCH)
def test_meshes_draw_and_normalise_as_one_device_does(case, layout):
    (found, losses), (wanted, wanted_losses) = whole_batch(case, layout), whole_batch(case, "jit")
    assert furthest(found, wanted) < 1e-5
    assert furthest(*([loss.compute() for loss in seen] for seen in (losses, wanted_losses))) < 1e-5


@pytest.mark.parametrize("case", ["mlp with dropout", "batch norm without groups"])
def test_under_pmap_each_device_draws_and_normalises_by_itself(case):
    found, wanted = whole_batch(case, "pmap")[0], whole_batch(case, "jit")[0]
    assert furthest(found, wanted) > 1e-2


# Run by itself with a number of devices, it prints the bits that each case comes to.
def main(num_devices: int, names: list[str]) -> None:
    """Six steps of each case ("cnn", or "cnn/1" with one microbatch and not two) under `exact` on so many devices.

    With dropout and an average.
    """
    layout = parallel.exact(shards=8, num_devices=num_devices)
    for name in names:
        case, _, microbatches = name.partition("/")
        dropped = functools.partial(CASES[case], dropout=0.3)
        state, losses = run(dropped, layout, microbatches=int(microbatches or 2), steps=6)
        print(name, digest.sha256((state, losses)), flush=True)


def bits_of(num_devices: int, names: str, *, level: str = "--xla_backend_optimization_level=0") -> str:
    flags = f"--xla_force_host_platform_device_count={num_devices} {level}"
    command = [sys.executable, "-m", "tests.test_layouts", str(num_devices), *names.split()]
    top = Path(__file__).parent.parent
    found = subprocess.run(
        command, env={**os.environ, "XLA_FLAGS": flags}, cwd=top, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [*(pytest.param(n, marks=pytest.mark.long) for n in (2, 4)), 8])
def test_exact_has_the_same_bits_on_any_number_of_devices(num_devices, one_device):
    assert bits_of(num_devices, "mlp cnn transformer") == one_device


@pytest.fixture(scope="module")
def one_device() -> str:
    found = bits_of(1, "mlp cnn transformer")
    assert found.count("\n") == 3
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", ["cnn/1", pytest.param("mlp mlp/1 transformer transformer/1 cnn", marks=pytest.mark.long)]
)
def test_exact_has_the_same_bits_in_programs_as_users_compile_them(names):
    # The flag above compiles in less time; without it XLA rearranges more, which must not depend on the devices.
    # With one microbatch and eight devices a part has nothing beside it that it could be fused with.
    one, eight = (bits_of(number, names, level="") for number in (1, 8))
    assert [line.split()[0] for line in one.splitlines()] == names.split()
    assert one == eight


def test_other_layouts_do_not_have_the_bits_of_one_device():
    # What makes the test above a test: plain sums over devices round in another order.
    one, four = (run(CASES["mlp"], parallel.pmap(num_devices=n), microbatches=1, steps=6)[0] for n in (1, 4))
    assert digest.sha256(one.params) != digest.sha256(four.params)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_changes_without_a_gradient_may_be_a_plain_number(layout):
    def objective(params, extra, batch, key):
        return means.Mean(params * batch["x"].sum(), 4.0), ({}, {"rate": 0.5, "steps": extra["steps"] + 1})

    chosen, optimizer = LAYOUTS[layout](), optax.sgd(0.1)
    update = chosen.compile(updates.step(chosen.across(updates.gradients(objective)), optimizer))
    state = updates.init_state(np.float32(1.0), {"rate": np.float32(0.5), "steps": np.int32(0)}, optimizer)
    batch = chosen.put_batch({"x": np.ones(BATCH, np.float32)})
    state, _ = update(chosen.put_state(state), batch, jax.random.key(0))
    assert jax.tree.map(float, state.extra) == {"rate": 0.5, "steps": 1.0}
