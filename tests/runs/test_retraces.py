"""After the first steps a retrace is an error that names what changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import data, parallel
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
    guard.arm("update")
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
    guard.arm("update")
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


def changing(source: Source, change, *, before: list[list[int]]) -> Source:
    """The same, as if it were too large for memory, with other images in all batches but those `before`.

    What is asked for tells them apart, and not how much was read: threads read ahead, in no order.
    """
    opened = source.open()

    def read(indices):
        batch = opened.read(indices)
        # The first and the last example are asked for when it is opened.
        return (
            batch
            if len(indices) == 2 or indices.tolist() in before
            else {**batch, "image": change(batch["image"])}
        )

    return source._replace(open=lambda: Examples(opened.size, read, opened.manifest, None))


OTHER = {
    "dtype": (lambda image: image.astype(np.float16), r"float16\[32,6\]"),
    "shape": (lambda image: image[:, :5], r"float32\[32,5\]"),
}
AT_THE_END = {"num_steps": 12, "log_every": 4, "eval_every": 12, "checkpoint_every": 12}


@pytest.mark.parametrize(
    ("split", "kind", "after", "steps"),
    # Between two calls, within a call, and in the second batch of the only evaluation.
    [("train", "dtype", 8, 1), ("train", "shape", 8, 4), ("train", "dtype", 6, 4), ("test", "shape", 1, 1)],
)
def test_a_run_that_is_evaluated_at_its_end_alone_is_guarded_from_its_second_call_on(
    tmp_path, split, kind, after, steps
):
    change, came = OTHER[kind]
    config = test_loop.config(**AT_THE_END, steps_per_call=steps)
    whole = test_loop.recipe(config)
    examples = whole.data[split].open()
    batches = {
        "train": data.shuffled(examples, batch_size=config.batch_size, seed=config.seed),
        "test": data.padded(examples, batch_size=config.batch_size),
    }[split]
    before = [batches.indices(n).tolist() for n in range(after)]
    sources = {**whole.data, split: changing(whole.data[split], change, before=before)}
    part = {"train": "update", "test": "evaluate"}[split]
    with pytest.raises(
        UsageError, match=rf"^{part}: was compiled for batch\.image float32\[32,6\], now came {came}; every"
    ):
        test_loop.run(tmp_path / "run", config, recipe=lambda config: whole._replace(data=sources))
    assert directory.status(tmp_path / "run")["status"] == "failed"


def test_a_run_whose_state_comes_out_on_another_device_ends_with_one_line(tmp_path):
    config = test_loop.config(**AT_THE_END)
    whole = test_loop.recipe(config)

    def compile_(update):
        compiled, elsewhere = whole.layout.compile(update), jax.devices()[1]
        moved = lambda state, metrics: (jax.device_put(state, elsewhere), metrics)
        return lambda *arguments: moved(*compiled(*arguments))

    broken = whole._replace(layout=whole.layout._replace(compile=compile_))
    with pytest.raises(UsageError, match=r"^state: \S+ was put on the devices as SingleDevice.*, and came out as"):
        test_loop.run(tmp_path / "run", config, recipe=lambda config: broken)


def test_calls_of_other_lengths_and_the_first_batch_of_each_split_are_no_change(tmp_path):
    """Calls of 5, 5 and 2 steps; two splits whose batches have other fields."""
    config = test_loop.config(**AT_THE_END, steps_per_call=5)
    whole = test_loop.recipe(config)
    test = whole.data["test"]
    opened = test.open()
    weighed = opened._replace(
        arrays=None, read=lambda indices: {**opened.read(indices), "weight": np.ones(len(indices), np.float32)}
    )
    sources = {**whole.data, "weighed": test._replace(open=lambda: weighed)}
    assert test_loop.run(tmp_path / "run", config, recipe=lambda config: whole._replace(data=sources)) == 0
    found = directory.summary(tmp_path / "run")["evaluation"]
    assert found["weighed"] == found["test"]


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
