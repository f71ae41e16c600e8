"""After the first steps a retrace is an error that names what changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import parallel
from jaxkit.errors import UsageError
from jaxkit.runs import directory, feeding, loop, record, retraces
from jaxkit.types import Examples, Source
from tests.runs import test_loop


def test_what_was_seen_before_may_come_again():
    guard = retraces.guard()
    update = guard.watch("update", lambda state, batch: state)
    batches = [{"x": jnp.zeros(4)}, {"x": jnp.zeros((2, 4))}]
    for batch in batches:
        jax.eval_shape(update, 0.0, batch)
    guard.arm()
    for batch in batches:
        jax.eval_shape(update, 0.0, batch)


CHANGES = {
    "shape": ({"x": np.zeros(3, np.float32)}, r"batch\.x float32\[4\], now came float32\[3\]"),
    "dtype": ({"x": np.zeros(4, np.int32)}, r"batch\.x float32\[4\], now came int32\[4\]"),
    "field": ({"x": np.zeros(4, np.float32), "y": np.zeros(1)}, r"batch\.y that was not there, now came float"),
    "lost field": ({}, r"batch\.x float32\[4\], now came nothing"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_named(name):
    batch, message = CHANGES[name]
    guard = retraces.guard()
    update = jax.jit(guard.watch("update", lambda state, batch, key: state))
    update(0.0, {"x": np.zeros(4, np.float32)}, jax.random.key(0))
    guard.arm()
    with pytest.raises(UsageError, match=f"update: was compiled for {message}") as caught:
        update(0.0, batch, jax.random.key(0))
    assert "\n" not in str(caught.value)


def test_a_state_that_comes_out_split_in_another_way_is_named():
    guard = retraces.guard()
    devices = np.array(jax.devices()[:4])
    mesh = jax.sharding.Mesh(devices, "x")
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    guard.placed("state", {"w": jax.device_put(jnp.zeros(8), split)})
    guard.placed("state", {"w": jax.device_put(jnp.ones(8), split)})
    with pytest.raises(UsageError, match="state: w was put on the devices as NamedSharding"):
        guard.placed("state", {"w": jnp.zeros(8)})


def test_a_batch_that_changes_its_dtype_ends_the_run_with_one_line(tmp_path):
    whole = test_loop.recipe(test_loop.config())

    def changing(source: Source) -> Source:
        opened = source.open()
        reads = []

        def read(indices):
            reads.append(len(indices))
            batch = opened.read(indices)
            wide = {"image": batch["image"].astype(np.float16)} if len(reads) > 20 else {}
            return {**batch, **wide}

        return source._replace(open=lambda: Examples(opened.size, read, opened.manifest, None))

    broken = lambda config: whole._replace(data={**whole.data, "train": changing(whole.data["train"])})
    with pytest.raises(
        UsageError, match=r"update: was compiled for batch\.image float32\[32,6\], now came float16"
    ):
        test_loop.command.run(
            broken, test_loop.config(num_steps=40, steps_per_call=1), experiment="x", workdir=tmp_path / "run"
        )
    assert directory.status(tmp_path / "run")["status"] == "failed"


@pytest.mark.parametrize("layout", ["jit", "pmap", "mesh"])
def test_speed_is_recorded_beside_the_values(tmp_path, layout):
    config = test_loop.config(layout={"call": f"jaxkit.parallel.{layout}"})
    test_loop.command.run(test_loop.recipe, config, experiment="x", workdir=tmp_path / "run")
    rows = record.read(tmp_path / "run" / directory.METRICS)
    speed = rows[-1]["speed"]
    assert speed["examples_per_second"] == pytest.approx(32 * speed["steps_per_second"], rel=1e-3)
    assert 0 <= speed["waiting_for_data"] <= 1
    found = directory.summary(tmp_path / "run")["timing"]
    assert found["examples_per_second"] == pytest.approx(32 * found["steps_per_second"], rel=1e-3)


def test_the_form_is_chosen_by_the_operations_of_a_step():
    config = test_loop.config(steps_per_call=None)
    recipe = test_loop.recipe(config)
    planned = loop.Plan(**{name: None for name in loop.Plan._fields} | {"slow_in_a_loop": False, "flops": 4e9})
    assert feeding.choose_form(recipe, planned, config).steps_per_call == 1  # 5 divides the intervals, 2 fit
    assert feeding.choose_form(recipe, planned._replace(flops=1e6), config).steps_per_call == 5
    assert parallel.jit().divisor == 1
