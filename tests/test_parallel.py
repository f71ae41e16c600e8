"""Layouts: the same global batch in, the same numbers out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import means, parallel, updates
from jaxkit.errors import UsageError
from jaxkit.types import Indexed

LAYOUTS = {"jit": parallel.jit, "pmap": parallel.pmap, "pmap on 2": lambda: parallel.pmap(num_devices=2)}


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS)
def test_evaluation_counts_each_example_once(make):
    layout = make()
    evaluate = layout.compile_evaluate(lambda p, e, b: {"x": means.mean(b["x"] * p, b["mask"])})
    batch = {"x": np.arange(8, dtype=np.float32), "mask": np.arange(8) < 6}
    # 2 * (0 + 1 + 2 + 3 + 4 + 5) / 6 = 5
    found = evaluate(layout.put_state(jnp.float32(2)), {}, layout.put_batch(batch))
    assert (float(found["x"].count), float(found["x"].compute())) == (6.0, 5.0)


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS)
def test_putting_a_state_leaves_the_source_alone_when_it_is_donated(make):
    layout = make()
    source = {"w": jnp.ones(3)}
    update = layout.compile(lambda state, batch, key: (jax.tree.map(lambda x: x + 1, state), {}))
    state = layout.put_state(source)
    for _ in range(2):
        state, _ = update(state, layout.put_batch({"x": np.zeros(4)}), layout.put_state(jax.random.key(0)))
    np.testing.assert_array_equal(source["w"], np.ones(3))
    np.testing.assert_array_equal(state["w"], 3 * np.ones(3))


def test_pmap_averages_what_changes_without_a_gradient():
    layout = parallel.pmap()

    def gradients(params, extra, batch, key):
        return (
            means.Mean(jnp.sum(batch["x"]), jnp.float32(1)),
            {},
            {"mean": jnp.mean(batch["x"]), "n": extra["n"] + 1, "seen": ~extra["seen"]},
        )

    summed = layout.across(gradients)
    update = layout.compile(lambda state, batch, key: (summed(None, state, batch, key)[2], {}))
    state, _ = update(
        layout.put_state({"mean": jnp.float32(0), "n": jnp.int32(4), "seen": jnp.array(False)}),
        layout.put_batch({"x": np.arange(8, dtype=np.float32)}),
        layout.put_state(jax.random.key(0)),
    )
    assert float(state["mean"]) == 3.5
    assert (int(state["n"]), state["n"].dtype) == (5, jnp.int32)
    assert (bool(state["seen"]), state["seen"].dtype) == (True, bool)


@pytest.mark.parametrize("make", [parallel.pmap, lambda: parallel.exact(shards=8)], ids=["pmap", "exact"])
def test_whole_numbers_of_extra_are_averaged_without_passing_their_largest(make):
    layout = make()
    gradients = lambda p, extra, b, k: (means.Mean(jnp.sum(b["x"]), jnp.float32(1)), {}, extra)
    summed = layout.across(gradients)
    update = layout.compile(lambda state, batch, key: (summed(None, state, batch, key)[2], {}))
    extra = {"tokens": jnp.int32(2**31 - 1), "seed": jnp.uint32(2**32 - 1), "level": jnp.uint8(200)}
    batch, key = layout.put_batch({"x": np.zeros(8, np.float32)}), layout.put_state(jax.random.key(0))
    after, _ = update(layout.put_state(extra), batch, key)
    assert {name: int(x) for name, x in after.items()} == {name: int(x) for name, x in extra.items()}
    assert {name: x.dtype for name, x in after.items()} == {name: x.dtype for name, x in extra.items()}


@pytest.mark.parametrize(
    ("make", "name"), [(parallel.pmap, "num_devices"), (parallel.exact, "shards"), (parallel.mesh, "data")]
)
def test_devices_and_shards_are_whole(make, name):
    with pytest.raises(TypeError, match=rf"{name}: came 2\.0 \(float\), wanted a whole number >= 1"):
        make(**{name: 2.0})


def test_a_flag_that_one_device_raises_is_raised():
    layout = parallel.pmap()
    gradients = lambda p, e, b, k: (means.Mean(jnp.sum(b["x"]), jnp.float32(1)), {}, jnp.any(b["x"] > 6))
    summed = layout.across(gradients)
    update = layout.compile(lambda state, batch, key: (summed(None, state, batch, key)[2], {}))
    batch, key = layout.put_batch({"x": np.arange(8.0, dtype=np.float32)}), layout.put_state(jax.random.key(0))
    assert bool(update(layout.put_state(jnp.array(False)), batch, key)[0])


def test_each_device_draws_with_a_key_of_its_own():
    layout = parallel.pmap()
    gradients = lambda p, e, b, k: (
        means.Mean(jax.random.uniform(k), jnp.float32(1)),
        {"square": jax.random.uniform(k) ** 2},
        e,
    )
    jax.config.update("jax_debug_key_reuse", False)
    try:
        summed = layout.across(gradients)
        update = layout.compile(lambda s, b, k: (s, summed(None, s, b, k)[:2]))
        _, (total, metrics) = update({}, layout.put_batch({"x": np.zeros(4)}), layout.put_state(jax.random.key(0)))
    finally:
        jax.config.update("jax_debug_key_reuse", True)
    # Four equal draws would give 4 * sum of squares == (sum)^2; different ones give more.
    assert 4 * float(metrics["square"]) > float(total.total) ** 2 + 1e-3


@pytest.mark.parametrize(
    "options", [{"xla_there_is_no_such_option": True}, {"xla_backend_optimization_level": "x"}]
)
def test_an_option_that_xla_does_not_take_is_refused_before_the_update_is_compiled(options):
    with pytest.raises(UsageError, match=f"compiler_options: came {{'{next(iter(options))}'"):
        parallel.jit(compiler_options=options).check()


def test_an_update_with_options_may_be_part_of_another_program():
    layout = parallel.jit(compiler_options={"xla_backend_optimization_level": 1})
    compiled = layout.compile(lambda state, batch, key: (state + batch, {}))
    many = jax.jit(lambda state, batches: jax.lax.scan(lambda s, b: compiled(s, b, None), state, batches)[0])
    assert float(many(jnp.float32(1), jnp.arange(4, dtype=jnp.float32))) == 7.0


def test_a_batch_that_does_not_divide_is_named():
    with pytest.raises(
        ValueError,
        match="6 examples do not divide over the 4 parts of this layout; use a batch size that is a multiple of 4",
    ):
        parallel.pmap().put_batch({"x": np.zeros(6)})


def test_more_devices_than_there_are():
    with pytest.raises(ValueError, match="num_devices: came 64, but there are 4 cpu devices"):
        parallel.pmap(num_devices=64)


def test_the_data_of_a_batch_by_reference_is_not_split():
    layout = parallel.pmap()
    arrays = layout.put_state({"x": np.arange(10, dtype=np.float32)})
    put = layout.put_batch(Indexed(arrays, np.arange(8)))
    assert put.arrays["x"].shape == (10,)
    assert put.indices.shape == (4, 2)


LAYOUTS = {
    "jit": parallel.jit,
    "pmap": lambda: parallel.pmap(num_devices=4),
    "mesh": lambda: parallel.mesh(data=4),
    "fsdp": lambda: parallel.mesh(fsdp=4),
    "exact": lambda: parallel.exact(shards=4),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_state_has_memory_of_its_own(name):
    layout = LAYOUTS[name]()
    # Where a block of memory begins a CPU takes it as it is.
    memory = np.zeros(1040, np.float32)
    numbers = memory[(-memory.ctypes.data % 64) // 4 :][:1024]
    here = jnp.ones(8)
    optimizer = optax.sgd(0.5)
    # The gradient of a sum of the parameters is one for each.
    objective = lambda p, e, b, k: (means.mean(b["x"] * 0 + p["a"].sum() + p["b"].sum()), ({}, e))
    update = layout.compile(updates.step(layout.across(updates.gradients(objective)), optimizer))
    state = layout.put_state(updates.init_state({"a": here, "b": numbers}, {}, optimizer))
    numbers[:] = 7
    batch = layout.put_batch({"x": np.ones(8, np.float32)})
    new, _ = update(state, batch, jax.random.key(0))
    np.testing.assert_array_equal(new.params["b"], np.full(1024, -0.5))
    np.testing.assert_array_equal(here, np.ones(8))
    np.testing.assert_array_equal(numbers, np.full(1024, 7))
    # On one device jax says so itself, on several it ends the process.
    said = (
        "Invalid buffer passed|Array has been deleted"
        if name == "jit"
        else "^state: was given to an update already"
    )
    with pytest.raises((ValueError, RuntimeError), match=said):
        update(state, batch, jax.random.key(0))
