"""Operations counted on a trace, against counts by hand."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import costs, losses, means, models, objectives, parallel, updates
from jaxkit.errors import UsageError

BATCH = 8
LOSS = optax.softmax_cross_entropy_with_integer_labels


def counted(function, *arguments) -> float:
    return costs.flops(jax.make_jaxpr(function)(*arguments))


def of_update(model, image, layout=None, microbatches=1) -> float:
    layout = layout or parallel.jit()
    optimizer = optax.sgd(0.1)
    gradients = updates.gradients(objectives.classification(model, LOSS, num_classes=10))
    gradients = layout.across(updates.accumulate(gradients, microbatches=microbatches))
    update = layout.compile(updates.step(gradients, optimizer))
    batch = {"image": np.zeros((BATCH, *image), np.float32), "label": np.zeros(BATCH, np.int32)}
    state = updates.init_state(*model.init(jax.random.key(0), batch["image"]), optimizer)
    place = lambda state, batch, key: update(state, layout.put_batch(batch), key)
    return counted(place, state, batch, jax.random.key(0))


# Forward 2 * batch * in * out for each layer; backward the same for the weights, and for the inputs of all but the
# first: 64-32-10.
MLP = 2 * BATCH * (2 * 64 * 32 + 3 * 32 * 10)


@pytest.mark.parametrize("layout", [parallel.jit, parallel.pmap, lambda: parallel.mesh(data=2, tensor=2)])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_an_mlp_costs_the_same_however_it_is_laid_out(layout, microbatches):
    model = models.mlp(num_classes=10, features=(32,))
    assert of_update(model, (64,), layout(), microbatches) == MLP


def test_an_exact_layout_adds_nothing():
    assert of_update(models.mlp(num_classes=10, features=(32,)), (64,), parallel.exact(shards=4)) == MLP


def test_a_cnn_by_hand():
    # 8 x 8 x 1 -> conv 3 x 3 to 4, pool -> 4 x 4 x 4 -> conv to 6, pool -> 2 x 2 x 6 = 24 -> 10.
    first, second, dense = 64 * 9 * 1 * 4, 16 * 9 * 4 * 6, 24 * 10
    model = models.cnn(num_classes=10, features=(4, 6), dense=())
    # The gradient of the inputs of a "same" convolution is another of the same size.
    assert of_update(model, (8, 8, 1)) == 2 * BATCH * (2 * first + 3 * second + 3 * dense)


def test_a_strided_convolution_counts_no_zeros():
    x, kernel = jnp.ones((1, 8, 8, 1)), jnp.ones((2, 2, 1, 3))
    layout = ("NHWC", "HWIO", "NHWC")
    strided = lambda x: jax.lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=layout).sum()
    forward = 2 * 16 * 4 * 3
    assert counted(strided, x) == forward
    # Backward to the inputs: each output's gradient meets each weight once more.
    assert counted(jax.grad(strided), x) == pytest.approx(2 * forward, rel=0.35)


def test_a_matmul_by_groups_counts_of_each_row_its_own_group():
    rows, kernels, sizes = jnp.ones((6, 4)), jnp.ones((3, 4, 5)), jnp.array([1, 3, 2])
    forward = lambda rows, kernels: jax.lax.ragged_dot(rows, kernels, sizes).sum()
    assert counted(forward, rows, kernels) == 2 * 6 * 4 * 5
    # Backward as often for the rows, and for the kernels.
    assert counted(jax.value_and_grad(forward, (0, 1)), rows, kernels) == 3 * 2 * 6 * 4 * 5


def test_a_loop_counts_each_turn_a_branch_the_dearest_and_recomputation_twice():
    x, n = jnp.ones((4, 4)), 2 * 4**3
    assert counted(lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, length=7)[0], x) == 7 * n
    assert counted(lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x), x) == 2 * n
    assert counted(jax.vmap(lambda x: x @ x), jnp.ones((5, 4, 4))) == 5 * n
    plain = counted(jax.grad(lambda x: jnp.sum(jnp.sin(x @ x) @ x)), x)
    again = counted(jax.grad(jax.checkpoint(lambda x: jnp.sum(jnp.sin(x @ x) @ x))), x)
    assert again == plain + n  # the inner product, for its sine


LENGTH, VOCABULARY, FEATURES, LAYERS = 8, 32, 16, 2
# Of one layer: queries, keys, values and the output, then the scores and what they weigh. On a CPU the first half
# of the queries meets half of the keys, the second all: 3/4 of a square.
PROJECTIONS = 2 * BATCH * LENGTH * 4 * FEATURES**2
ATTENTION = 2 * (2 * BATCH * LENGTH**2 * FEATURES) * 3 / 4
# The embedding, with which the logits are made too.
LOGITS = 2 * BATCH * LENGTH * FEATURES * VOCABULARY


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(("given", "inner"), [(64, 64), (1024, 1040)], ids=["64", "1024"])
def test_a_transformer_by_hand(given, inner, scan, remat):
    sizes = {"vocabulary_size": VOCABULARY, "max_length": LENGTH, "num_layers": LAYERS, "features": FEATURES}
    model = models.transformer(**sizes, num_heads=2, mlp_features=given, scan=scan, remat=remat)
    tokens = np.zeros((BATCH, LENGTH), np.int32)
    params, _ = jax.eval_shape(model.init, jax.random.key(0), tokens)
    # 1,024 float32 are a whole page of a CPU's memory, and 16 zeros are put beside them (`layers.mlp`).
    up = down = 2 * BATCH * LENGTH * FEATURES * inner
    forward = LAYERS * (PROJECTIONS + ATTENTION + up + down) + LOGITS
    assert counted(lambda params: model.apply(params, {}, tokens)[0], params) == forward

    def objective(params, extra, batch, key):
        logits, extra = model.apply(params, extra, batch, key=key, train=True)
        return means.mean(losses.cross_entropy(logits, batch)), ({}, extra)

    optimizer = optax.adamw(0.1)
    update = updates.step(updates.gradients(objective), optimizer)
    state = jax.eval_shape(lambda params: updates.init_state(params, {}, optimizer), params)
    # Again are the blocks, but for the last product of each, which nothing on the way back asks for.
    again = LAYERS * (PROJECTIONS + ATTENTION + up) if remat else 0
    assert counted(update, state, tokens, jax.random.key(0)) == 3 * forward + again


def test_the_attention_of_cudnn_by_hand():
    batch, queries, keys, heads, size = 3, 6, 10, 4, 8
    shapes = (batch, queries, heads, size), *[(batch, keys, heads // 2, size)] * 2

    def equation(name):
        arrays = [SimpleNamespace(aval=SimpleNamespace(shape=shape)) for shape in shapes]
        return SimpleNamespace(primitive=SimpleNamespace(name=name), invars=arrays, params={})

    of = lambda name: costs.flops(SimpleNamespace(eqns=[equation(f"dot_product_attention_{name}_wrapper")]))
    # Scores, and what they weigh. Backward the scores again, and of both products the gradients of both sides.
    one = 2 * batch * heads * queries * keys * size
    assert (of("fwd"), of("bwd")) == (2 * one, 5 * one)


def test_the_floor_is_the_larger_of_two_times():
    on = costs.Device(flops=100.0, bandwidth=10.0, memory=1.0)
    assert costs.floor_seconds(on, flops=200.0, moved=10.0) == 2.0
    assert costs.floor_seconds(on, flops=200.0, moved=50.0) == 5.0


def test_devices_by_name_and_by_what_jax_calls_them():
    kinds = {
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA H100 PCIe": "h100-pcie",
        "NVIDIA A100-SXM4-80GB": "a100",
        "NVIDIA L4": "l4",
        "NVIDIA L40S": "l40s",
        "NVIDIA GeForce RTX 4090": "rtx-4090",
        "TPU v5 lite": "tpu-v5e",
        "TPU v5": "tpu-v5p",
    }
    assert {kind: costs.device_of_kind(kind) for kind in kinds} == {
        kind: costs.device(name) for kind, name in kinds.items()
    }
    assert (costs.device("l40s").flops, costs.device("h100-pcie").flops) == (362e12, 756e12)
    # Another device than the L4.
    assert costs.device_of_kind("NVIDIA L40") is costs.device_of_kind("cpu") is None
    with pytest.raises(UsageError, match="device: came 'h20'; did you mean 'h200'"):
        costs.device("h20")


def test_all_that_is_computed_is_counted_in_bytes():
    """The body of a loop once, and beside it what the loop gives; no result twice."""
    x = jnp.ones((4, 8), jnp.float32)
    count = lambda f: costs.intermediate_bytes(jax.make_jaxpr(f)(x))
    assert count(lambda x: x + 1) == 4 * 8 * 4
    assert count(jax.jit(lambda x: x + 1)) == 4 * 8 * 4
    assert count(lambda x: x.astype(jnp.bfloat16)) == 4 * 8 * 2
    assert count(lambda x: jax.lax.scan(lambda c, row: (c + row, c), x[0] * 0, x)) >= (8 + 4 * 8 + 8) * 4
