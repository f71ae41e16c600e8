"""Updates: one table of forms of the same update; in each the numbers are the same."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import means, objectives, parallel, updates
from jaxkit.errors import UsageError
from jaxkit.means import Mean
from jaxkit.types import Indexed, Model

SIZE, BATCH, STEPS = 96, 32, 50


@pytest.fixture(scope="module")
def problem():
    """Data, batches as indices, and random masks; about a third is masked."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(SIZE, 6)).astype(np.float32)
    arrays = {
        "inputs": inputs,
        "targets": np.sin(inputs.sum(axis=1, keepdims=True)).astype(np.float32),
    }
    return arrays, rng.integers(0, SIZE, (STEPS, BATCH)).astype(np.int32), rng.random((STEPS, BATCH)) < 0.7


def network():
    """A two-layer regression network by hand, so that these tests need nothing from `models`."""

    def init(key, inputs):
        first, second = jax.random.split(key)
        shape = (inputs.shape[-1], 16)
        return {"a": jax.random.normal(first, shape) / 2, "b": jax.random.normal(second, (16, 1)) / 4}, {}

    def apply(params, extra, inputs, *, key=None, train=False):
        return jnp.tanh(inputs @ params["a"]) @ params["b"], extra

    return Model(init, apply)


@pytest.mark.parametrize(
    "of", [lambda o: updates.step(o, optax.sgd(0.1)), lambda o: updates.accumulate(o, microbatches=2)]
)
def test_an_objective_in_the_place_of_gradients_is_named(of):
    objective = lambda params, extra, batch, key: (Mean(jnp.sum(params * batch["x"]), 4.0), ({}, extra))
    state = updates.init_state(jnp.ones(()), {}, optax.sgd(0.1))
    arguments = (state,) if of(objective).__name__ == "update" else (state.params, state.extra)
    with pytest.raises(TypeError, match=r"gradients: came tuple, .* updates\.gradients\(objective\) makes it"):
        of(objective)(*arguments, {"x": jnp.ones(4)}, jax.random.key(0))


class Form(NamedTuple):
    layout: str = "jit"
    microbatches: int = 1
    unroll: bool | None = None
    steps: int = 1
    indexed: bool = False
    guarded: bool = False
    stacked: bool = False  # the metrics of each step, where there are many in a call


FORMS = {
    "4 microbatches": Form(microbatches=4),
    "4 microbatches unrolled": Form(microbatches=4, unroll=True),
    "pmap on 4 devices": Form("pmap"),
    "pmap and 2 microbatches": Form("pmap", microbatches=2),
    "10 steps in a call": Form(steps=10),
    "10 steps in a call, pmap": Form("pmap", steps=10),
    "10 steps in a call, each noted": Form(steps=10, stacked=True),
    "10 steps in a call, each noted, pmap": Form("pmap", steps=10, stacked=True),
    "guarded": Form(guarded=True),
    "all at once": Form("pmap", microbatches=2, steps=10, guarded=True),
}
# Of data that lies on the devices; without masks.
INDEXED = {
    "pmap": Form("pmap", indexed=True),
    "pmap, 5 steps in a call": Form("pmap", indexed=True, steps=5),
    "5 steps in a call, each noted": Form(indexed=True, steps=5, stacked=True),
}


def compose(form: Form):
    """(layout, optimizer, update) of a form; nothing is traced yet."""
    layout = getattr(parallel, form.layout)()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2), updates.ema(decay=0.9))
    gradients = updates.gradients(objectives.regression(network(), optax.losses.squared_error))
    gradients = updates.accumulate(gradients, microbatches=form.microbatches, unroll=form.unroll)
    step = updates.guarded_step if form.guarded else updates.step
    update = step(layout.across(gradients), optimizer)
    update = updates.indexed(update) if form.indexed else update
    if form.stacked:
        update = updates.stack(update, lambda state: state.step)
    elif form.steps > 1:
        update = updates.fuse(update)
    return layout, optimizer, layout.compile(update)


# Types, and what is asked of a state or a program.
NO_PARTS = {"EmaState", "averaged", "init_state", "loop", "mentions", "slow_in_a_loop"}


def test_every_part_of_an_update_is_in_a_form(monkeypatch):
    called = set()
    for name in set(updates.__all__) - NO_PARTS:
        part = getattr(updates, name)
        noted = lambda *args, name=name, part=part, **more: called.add(name) or part(*args, **more)
        monkeypatch.setattr(updates, name, noted)
    for form in [*FORMS.values(), *INDEXED.values()]:
        compose(form)
    assert called == set(updates.__all__) - NO_PARTS


def train(problem, form: Form):
    arrays, indices, masks = problem
    layout, optimizer, update = compose(form)
    params, extra = network().init(jax.random.key(1), arrays["inputs"])
    state = layout.put_state(updates.init_state(params, extra, optimizer))
    resident = layout.put_state(arrays)
    key = layout.put_state(jax.random.key(0))
    loss = Mean(0.0, 0.0)
    for n in range(0, STEPS, form.steps):
        rows = slice(n, n + form.steps) if form.steps > 1 else n
        if form.indexed:
            batch = Indexed(resident, indices[rows])
        else:
            batch = {**{k: v[indices[rows]] for k, v in arrays.items()}, "mask": masks[rows]}
        state, metrics = update(state, layout.put_batch(batch, axis=int(form.steps > 1)), key)
        if form.stacked:
            metrics, notes = metrics
            np.testing.assert_array_equal(notes, np.arange(n + 1, n + 1 + form.steps))
            metrics = jax.tree.map(lambda x: x.sum(axis=0), metrics)
        loss = loss + jax.device_get(metrics["loss"])
    return jax.device_get(state), float(loss.compute())


@pytest.fixture(scope="module")
def plain(problem):
    return train(problem, Form())


@pytest.mark.parametrize("name", FORMS)
def test_every_form_trains_the_same_parameters_with_random_masks(problem, plain, name):
    state, loss = train(problem, FORMS[name])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=0), state.params, plain[0].params)
    assert loss == pytest.approx(plain[1], abs=1e-5)
    assert state.step == STEPS


def test_training_moves_the_parameters_by_far_more_than_the_tolerance(problem, plain):
    params, _ = network().init(jax.random.key(1), problem[0]["inputs"])
    assert (
        min(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(plain[0].params))) > 0.1
    )


@pytest.fixture(scope="module")
def single(problem):
    return train(problem, Form(indexed=True))[0]


@pytest.mark.parametrize("stacked", [False, True])
def test_fused_steps_have_the_bits_of_single_steps(problem, single, stacked):
    # Matmuls only: XLA compiles the body of the loop as it compiles the step (docs/patterns.md).
    fused, _ = train(problem, Form(indexed=True, steps=10, stacked=stacked))
    jax.tree.map(np.testing.assert_array_equal, single, fused)


@pytest.mark.parametrize("name", INDEXED)
def test_a_batch_by_reference_gives_the_same_parameters(problem, single, name):
    state, _ = train(problem, INDEXED[name])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=0), state.params, single.params)


@pytest.mark.parametrize("form", [Form(), Form("pmap"), Form(steps=10), Form("pmap", steps=10, indexed=True)])
def test_a_second_call_does_not_compile(problem, form, monkeypatch):
    compiled = []
    monkeypatch.setattr(optax, "apply_updates", lambda *a: compiled.append(1) or optax_apply(*a))
    train(problem, form)
    once = len(compiled)
    assert once <= 4, "the update was traced again after its first call"


optax_apply = optax.apply_updates


def weighted(params, extra, batch, key):
    """Loss w.x summed; its gradient in w is the sum of x."""
    return Mean(jnp.sum(batch["x"] @ params), batch["x"].shape[0]), ({}, extra)


def test_gradients_are_sums_with_their_count():
    summed, metrics, _ = updates.gradients(weighted)(
        jnp.zeros(2), {}, {"x": jnp.array([[1.0, 2.0], [3.0, 4.0]])}, jax.random.key(0)
    )
    np.testing.assert_array_equal(summed.total, [4.0, 6.0])
    np.testing.assert_array_equal(summed.compute(), [2.0, 3.0])
    assert float(metrics["loss"].count) == 2.0


def test_each_microbatch_and_each_step_has_a_key_of_its_own():
    def objective(params, extra, batch, key):
        draw = jax.random.uniform(key)
        return Mean(params * draw, 1.0), ({"draw": Mean(draw, 1.0), "square": Mean(draw**2, 1.0)}, extra)

    gradients = updates.accumulate(updates.gradients(objective), microbatches=2)
    update = updates.step(gradients, optax.sgd(0.0))
    state, draws = updates.init_state(jnp.ones(()), {}, optax.sgd(0.0)), []
    for _ in range(3):
        state, metrics = update(state, {"x": jnp.zeros(4)}, jax.random.key(0))
        total, square = float(metrics["draw"].total), float(metrics["square"].total)
        # a + b and a^2 + b^2 give a and b: their difference is sqrt(2 (a^2 + b^2) - (a + b)^2).
        apart = np.sqrt(max(2 * square - total**2, 0.0))
        draws += [(total - apart) / 2, (total + apart) / 2]
    assert len({round(draw, 4) for draw in draws}) == 6


def test_every_microbatch_starts_from_the_same_extra_and_they_are_averaged():
    def objective(params, extra, batch, key):
        # A running mean with decay 0.9, a counter, and a flag.
        mean = 0.9 * extra["mean"] + 0.1 * jnp.mean(batch["x"])
        return Mean(params, 1.0), ({}, {"mean": mean, "steps": extra["steps"] + 1, "seen": ~extra["seen"]})

    batch = {"x": jnp.array([1.0, 3.0, 5.0, 7.0])}
    extra = {"mean": jnp.float32(10), "steps": jnp.int32(4), "seen": jnp.array(False)}
    for microbatches in (1, 2, 4):
        gradients = updates.accumulate(updates.gradients(objective), microbatches=microbatches)
        _, _, after = gradients(jnp.ones(()), extra, batch, jax.random.key(0))
        # 0.9 * 10 + 0.1 * 4, however the batch is split; in turn, two parts would give 8.7.
        assert float(after["mean"]) == pytest.approx(9.4, abs=1e-5)
        assert int(after["steps"]) == 5
        assert (bool(after["seen"]), after["seen"].dtype) == (True, bool)


def test_whole_numbers_of_extra_are_averaged_without_passing_their_largest():
    kept = lambda params, extra, batch, key: (Mean(params, 1.0), ({}, extra))
    gradients = updates.accumulate(updates.gradients(kept), microbatches=200)  # more than an int8 can be
    extra = {"a": jnp.int32(2**31 - 1), "b": jnp.uint32(2**32 - 1), "c": jnp.uint8(200), "d": jnp.int8(-128)}
    _, _, after = jax.jit(gradients)(jnp.ones(()), extra, {"x": jnp.zeros(200)}, jax.random.key(0))
    assert {name: int(x) for name, x in after.items()} == {name: int(x) for name, x in extra.items()}
    assert {name: x.dtype for name, x in after.items()} == {name: x.dtype for name, x in extra.items()}


def test_microbatches_that_do_not_divide_are_named():
    gradients = updates.accumulate(updates.gradients(weighted), microbatches=3)
    with pytest.raises(ValueError, match="microbatches: 3 do not divide the batch of 4"):
        gradients(jnp.zeros(2), {}, {"x": jnp.zeros((4, 2))}, jax.random.key(0))


def test_microbatches_that_a_mesh_cannot_deal_out_are_named():
    # As under pmap, where a device that is given 2 examples cannot make 4 microbatches of them.
    layout, optimizer = parallel.mesh(data=2, fsdp=2), optax.sgd(0.1)
    gradients = updates.accumulate(updates.gradients(weighted), microbatches=4)
    update = layout.compile(updates.step(gradients, optimizer))
    state = layout.put_state(updates.init_state(jnp.zeros(2), {}, optimizer))
    with pytest.raises(ValueError, match="microbatches: 4 do not divide the batch of 2 that each device is given"):
        update(state, layout.put_batch({"x": np.zeros((8, 2))}), layout.put_state(jax.random.key(0)))


def test_an_objective_that_returns_something_else_is_named():
    with pytest.raises(TypeError, match=r"objective: came ArrayImpl, wanted \(Mean"):
        updates.gradients(lambda *_: jnp.zeros(()))(jnp.zeros(2), {}, {}, jax.random.key(0))
    with pytest.raises(TypeError, match=r"its loss: came float32\[\], wanted a Mean: means\.mean\(losses, mask\)"):
        updates.gradients(lambda p, *_: (jnp.sum(p), ({}, {})))(jnp.zeros(2), {}, {}, jax.random.key(0))
    rate = lambda p, *_: (Mean(jnp.sum(p), 1.0), ({"rate": jnp.float32(0.1)}, {}))
    with pytest.raises(ValueError, match=r"objective: metric 'rate': came float32\[\], wanted an additive state"):
        updates.gradients(rate)(jnp.zeros(2), {}, {}, jax.random.key(0))


def test_ema_is_the_weighted_mean_of_the_parameters_seen():
    # Parameters 2 then 1 with decay 0.5: (0.5*0.5*2 + 0.5*1) / (1 - 0.25) = 1 / 0.75 = 4/3.
    optimizer = optax.chain(optax.sgd(1.0), updates.ema(decay=0.5))
    update = updates.step(updates.gradients(lambda p, e, b, k: (Mean(p, 1.0), ({}, e))), optimizer)
    state = updates.init_state(jnp.array(3.0), {}, optimizer)
    assert float(updates.averaged(state)) == 3.0
    for _ in range(2):
        state, _ = update(state, {}, jax.random.key(0))
    assert float(state.params) == 1.0
    assert float(updates.averaged(state)) == pytest.approx(4 / 3, rel=1e-6)


def test_ema_of_bfloat16_parameters_does_not_stall():
    # 3,000 steps at a constant 1.0 average to 1.0; a sum kept in bfloat16 stops at half of it.
    optimizer = updates.ema(decay=0.999)
    params = jnp.ones((), jnp.bfloat16)
    state = jax.lax.fori_loop(
        0,
        3000,
        lambda _, state: optimizer.update(jnp.zeros_like(params), state, params)[1],
        optimizer.init(params),
    )
    found = updates.averaged(updates.init_state(params, {}, optimizer)._replace(opt_state=state))
    assert found.dtype == jnp.bfloat16
    assert float(found) == 1.0


@pytest.mark.filterwarnings("ignore:Casting from complex")
def test_ema_of_complex_parameters_is_complex():
    optimizer = updates.ema(decay=0.5)
    state = updates.init_state({"w": jnp.array([1 + 2j])}, {}, optimizer)
    _, opt_state = optimizer.update({"w": jnp.array([2j])}, state.opt_state, state.params)
    # Of the one it has seen: 1 + 2j and the update.
    assert updates.averaged(state._replace(opt_state=opt_state))["w"].tolist() == [1 + 4j]


def test_without_an_ema_the_average_is_the_parameters():
    state = updates.init_state(jnp.array(3.0), {}, optax.adam(1e-3))
    assert updates.averaged(state) is state.params


def test_an_average_of_some_parameters_leaves_the_others_as_they_are():
    params = {"backbone": {"kernel": jnp.float32(1.0)}, "head": jnp.float32(3.0), "scale": jnp.float32(5.0)}
    labels = {"backbone": "frozen", "head": "fast", "scale": "slow"}
    of = lambda decay: optax.chain(optax.sgd(1.0), updates.ema(decay=decay))
    optimizer = optax.multi_transform({"frozen": optax.set_to_zero(), "fast": of(0.0), "slow": of(0.5)}, labels)
    objective = lambda p, e, b, k: (Mean(sum(jax.tree.leaves(p)), 1.0), ({}, e))
    update = updates.step(updates.gradients(objective), optimizer)
    state = updates.init_state(params, {}, optimizer)
    assert updates.averaged(state) == params
    for _ in range(2):
        state, _ = update(state, {}, jax.random.key(0))
    # 5 goes to 4, then 3; with decay 0.5: (0.25 * 4 + 0.5 * 3) / 0.75 = 10 / 3. Decay 0 has the newest.
    found = updates.averaged(state)
    assert (found["backbone"]["kernel"], found["head"]) == (1.0, 1.0)
    assert float(found["scale"]) == pytest.approx(10 / 3, rel=1e-6)


def test_an_optimizer_that_wants_the_loss_is_given_its_mean():
    # Polyak's step with a least loss of 0: loss / |gradient|^2 = 4 / 1, so 4 - 4 * 1 = 0.
    optimizer = optax.chain(optax.polyak_sgd(max_learning_rate=100.0), updates.ema(decay=0.9))
    objective = lambda p, e, b, k: (Mean(2 * p, jnp.float32(2)), ({}, e))
    for step in (updates.step, updates.guarded_step):
        update = step(updates.gradients(objective), optimizer)
        state, _ = update(updates.init_state(jnp.float32(4.0), {}, optimizer), {}, jax.random.key(0))
        assert float(state.params) == pytest.approx(0.0, abs=1e-5)


def test_an_optimizer_that_searches_along_a_line_is_refused():
    optimizer = optax.lbfgs()
    update = updates.step(updates.gradients(lambda p, e, b, k: (Mean(p**2, 1.0), ({}, e))), optimizer)
    with pytest.raises(UsageError, match="optimizer: asks for the loss of other parameters"):
        update(updates.init_state(jnp.float32(4.0), {}, optimizer), {}, jax.random.key(0))


def test_an_optimizer_that_takes_other_arguments_is_not_given_the_loss():
    # One along the gradient, that of p^2 / 2 at p: 4 - 4 = 0. It takes no `value`, as optax.contrib.sam does not.
    takes_none = lambda updates, state, params=None, *, grad_fn=None: (jax.tree.map(jnp.negative, updates), state)
    optimizer = optax.GradientTransformationExtraArgs(lambda params: (), takes_none)
    update = updates.step(updates.gradients(lambda p, e, b, k: (Mean(p**2 / 2, 1.0), ({}, e))), optimizer)
    state, _ = update(updates.init_state(jnp.float32(4.0), {}, optimizer), {}, jax.random.key(0))
    assert float(state.params) == 0.0


@pytest.mark.parametrize("name", ["loss", "skipped"])
def test_a_metric_with_a_name_that_is_taken_is_refused(name):
    objective = lambda p, e, b, k: (Mean(p, 1.0), ({name: Mean(p, 1.0)}, e))
    update = updates.guarded_step(updates.gradients(objective), optax.sgd(0.1))
    with pytest.raises(ValueError, match=f"metrics: came one called '{name}', which is measured anyway"):
        update(updates.init_state(jnp.float32(4.0), {}, optax.sgd(0.1)), {}, jax.random.key(0))


def test_a_key_in_extra_cannot_be_averaged_over_parts_and_is_named():
    objective = lambda p, e, b, k: (means.mean(p * b["x"]), ({}, e))
    gradients = updates.accumulate(updates.gradients(objective), microbatches=2)
    with pytest.raises(TypeError, match=r"extra: noise\.key is a PRNG key, of which parts of a batch have no"):
        gradients(1.0, {"noise": {"key": jax.random.key(0)}}, {"x": jnp.ones(4)}, jax.random.key(0))


def test_what_is_no_optimizer_is_named():
    for make in (updates.step, updates.guarded_step, lambda *given: updates.init_state({}, {}, given[-1])):
        with pytest.raises(TypeError, match=r"optimizer: came function, .*call it: adam\(\.\.\.\)"):
            make(lambda *_: None, optax.adam)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_ema_decay_out_of_range(decay):
    with pytest.raises(ValueError, match="decay"):
        updates.ema(decay=decay)


def test_guard_skips_counts_and_goes_on():
    optimizer = optax.adam(0.1)
    objective = lambda p, e, b, k: (means.mean(p * b["x"]), ({}, {"seen": e["seen"] + jnp.sum(b["x"])}))
    update = jax.jit(updates.guarded_step(updates.gradients(objective), optimizer))
    state = updates.init_state(jnp.array(1.0), {"seen": jnp.zeros(())}, optimizer)
    good, _ = update(state, {"x": jnp.ones(2)}, jax.random.key(0))
    skipped, metrics = update(good, {"x": jnp.array([1.0, jnp.nan])}, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, skipped._replace(step=good.step), good)
    assert int(skipped.step) == 2
    assert float(metrics["skipped"].compute()) == 1.0
    assert float(metrics["loss"].count) == 0.0
    after, metrics = update(skipped, {"x": jnp.ones(2)}, jax.random.key(0))
    assert float(metrics["skipped"].compute()) == 0.0
    assert float(after.params) != float(good.params)


def test_guard_skips_gradients_whose_squares_overflow():
    # 1e20 squared is no float32: Adam would divide by infinity ever after.
    optimizer = optax.adam(0.1)
    update = updates.guarded_step(
        updates.gradients(lambda p, e, b, k: (means.mean(p * b["x"]), ({}, e))), optimizer
    )
    state = updates.init_state(jnp.array(1.0), {}, optimizer)
    after, metrics = jax.jit(update)(state, {"x": jnp.full(2, 1e20)}, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, after._replace(step=state.step), state)
    assert float(metrics["skipped"].compute()) == 1.0


def test_a_fully_masked_batch_is_skipped_by_the_guard():
    objective = lambda p, e, b, k: (means.mean(p * b["x"], b["mask"]), ({}, e))
    update = updates.guarded_step(updates.gradients(objective), optax.sgd(0.1))
    state = updates.init_state(jnp.array(1.0), {}, optax.sgd(0.1))
    state, metrics = jax.jit(update)(state, {"x": jnp.ones(2), "mask": jnp.zeros(2, bool)}, jax.random.key(0))
    assert float(state.params) == 1.0
    assert float(metrics["skipped"].compute()) == 1.0


def test_the_guard_takes_gradients_without_a_metric():
    own = lambda params, extra, batch, key: (Mean(jnp.sum(batch["x"]), jnp.float32(2)), {}, extra)
    update, state = (
        updates.guarded_step(own, optax.sgd(0.1)),
        updates.init_state(jnp.array(1.0), {}, optax.sgd(0.1)),
    )
    for x, wanted in ((1.0, 0.9), (jnp.inf, 1.0)):
        after, _ = jax.jit(update)(state, {"x": jnp.full(2, x)}, jax.random.key(0))
        assert float(after.params) == pytest.approx(wanted)


def test_convolutions_are_found_however_deep():
    def convolve(x):
        return jax.lax.conv(x, jnp.ones((1, 1, 3, 3)), (1, 1), "SAME")

    deep = jax.jit(jax.checkpoint(lambda x: jax.lax.cond(x.sum() > 0, convolve, lambda x: x, x)))
    assert updates.slow_in_a_loop(jax.make_jaxpr(jax.grad(lambda x: deep(x).sum()))(jnp.ones((1, 1, 8, 8))))
    assert not updates.slow_in_a_loop(jax.make_jaxpr(lambda x: x @ x)(jnp.ones((8, 8))))


def test_accumulation_over_convolutions_is_no_loop_on_a_cpu():
    def objective(params, extra, batch, key):
        images = jax.lax.conv(batch["x"], params, (1, 1), "SAME")
        return means.mean(images.sum(axis=(1, 2, 3))), ({}, extra)

    gradients = updates.accumulate(updates.gradients(objective), microbatches=2)
    arguments = (jnp.ones((1, 1, 3, 3)), {}, {"x": jnp.ones((4, 1, 8, 8))}, jax.random.key(0))
    lowered = jax.jit(gradients).lower(*arguments).as_text()
    assert "stablehlo.while" not in lowered


@pytest.mark.parametrize("form", ["fuse", "stack"])
def test_fused_convolutions_are_no_loop_on_a_cpu_and_agree_with_single_steps(form):
    def objective(params, extra, batch, key):
        images = jnp.tanh(jax.lax.conv(batch["x"], params, (1, 1), "SAME"))
        return means.mean((images.mean(axis=(1, 2, 3)) - batch["y"]) ** 2), ({}, extra)

    rng, optimizer = np.random.default_rng(0), optax.adam(0.05)
    batches = {"x": rng.normal(size=(5, 4, 1, 6, 6)).astype(np.float32), "y": np.ones((5, 4), np.float32)}
    update = updates.step(updates.gradients(objective), optimizer)
    fused = updates.fuse(update) if form == "fuse" else updates.stack(update, lambda state: state.step)
    begun = updates.init_state(jnp.full((1, 1, 3, 3), 0.1), {}, optimizer)
    lowered = jax.jit(fused).lower(begun, batches, jax.random.key(0))
    assert "stablehlo.while" not in lowered.as_text()
    after, _ = lowered.compile()(begun, batches, jax.random.key(0))
    state, single = begun, jax.jit(update)
    for n in range(5):
        state, _ = single(state, {name: x[n] for name, x in batches.items()}, jax.random.key(0))
    assert np.abs(state.params - begun.params).max() > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=0), after, state)


def test_the_lines_at_the_head_of_the_package_are_calls_that_it_has():
    names = re.findall(r"updates\.(\w+)\(", updates.__doc__)
    assert names == ["gradients", "accumulate", "step"]
    assert all(callable(getattr(updates, name)) for name in names)
