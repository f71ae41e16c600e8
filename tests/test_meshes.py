"""Meshes: how rules split a state, what XLA makes of it, and what is said where they do not fit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from jaxkit import losses, models, parallel, updates
from jaxkit.errors import UsageError
from jaxkit.models import blocks

GPT = {"vocabulary_size": 32, "max_length": 8, "num_layers": 2, "num_heads": 2, "features": 8}


def state_of(model, inputs):
    optimizer = optax.chain(optax.adamw(1e-3), updates.ema(decay=0.9))
    return updates.init_state(*model.init(jax.random.key(0), inputs), optimizer)


def specs(layout, state) -> dict[str, PartitionSpec]:
    leaves = jax.tree_util.tree_leaves_with_path(layout.shardings(state))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.spec for path, leaf in leaves}


@pytest.mark.parametrize("scan", [False, True])
def test_what_the_optimizer_keeps_of_a_parameter_is_split_like_it(scan):
    state = state_of(models.transformer(**GPT, scan=scan), jnp.zeros((1, 8), jnp.int32))
    found = specs(parallel.mesh(fsdp=2, tensor=2), state)
    params = {name.removeprefix("params."): spec for name, spec in found.items() if name.startswith("params.")}
    kept = [name for name in found if name.startswith("opt_state.")]
    for path, spec in params.items():
        copies = [name for name in kept if name.endswith("." + path)]
        assert len(copies) == 3, path  # two moments and the average
        assert all(found[name] == spec for name in copies)
    assert sum("tensor" in spec for spec in params.values()) >= 6
    if scan:
        assert all(spec[:1] in ((), (None,)) for path, spec in params.items() if path.startswith("blocks."))


def test_an_array_of_nothing_goes_in_as_it_comes_out():
    layout = parallel.mesh(fsdp=2, tensor=2)
    params = {"none": jnp.zeros((0, 8)), "kernel": jnp.ones((4, 8))}
    before = layout.put_state(updates.init_state(params, {}, optax.sgd(0.1)))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, before)
    after, _ = layout.compile(lambda state, batch, key: (state, {}))(before, {}, jax.random.key(0))
    same = jax.tree.map(lambda leaf, old: leaf.sharding.is_equivalent_to(old, leaf.ndim), after, shardings)
    assert all(jax.tree.leaves(same))


def test_an_output_kernel_beside_an_embedding_is_split_by_its_vocabulary():
    # Split by its inputs, the logits of all tokens are summed over devices: the most that such a step moves.
    layout = parallel.mesh(data=2, tensor=2)
    model = models.transformer(**{**GPT, "vocabulary_size": 512, "num_layers": 1}, tied=False)
    tokens = jnp.zeros((4, 8), jnp.int32)
    state = layout.put_state(state_of(model, tokens))
    assert state.params["output"]["kernel"].sharding.spec == PartitionSpec(None, "tensor")
    loss = lambda params, extra, batch: {
        "loss": jnp.sum(losses.cross_entropy(model.apply(params, extra, batch)[0], batch))
    }
    compiled = layout.compile_evaluate(loss).lower(state.params, state.extra, layout.put_batch(tokens)).compile()
    moved = re.findall(r"= (\S+) all-\w+\(", compiled.as_text())
    assert moved
    assert not [shape for shape in moved if re.search(r"\b(512|256)\b", shape)]
    # The second of a pair, as before.
    mlp = specs(layout, state_of(models.mlp(num_classes=4, features=(16,)), jnp.zeros((1, 8))))
    assert mlp["params.output.kernel"] == PartitionSpec("tensor", None)


def test_of_logits_in_chunks_each_device_makes_its_share_and_sums_their_gradient_once():
    layout = parallel.mesh(data=4)
    model = models.transformer(**{**GPT, "vocabulary_size": 512, "num_layers": 1}, output="hidden")
    tokens = np.zeros((16, 8), np.int32)
    shapes, _ = jax.eval_shape(model.init, jax.random.key(0), tokens)
    params = layout.put_state(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))

    def loss(params, batch):
        outputs, _ = model.apply(params, {}, batch)
        return jnp.sum(losses.chunked_cross_entropy(outputs, batch, chunk_size=32))

    gradient = layout.compile_evaluate(lambda params, extra, batch: jax.grad(loss)(params, batch))
    text = gradient.lower(params, {}, layout.put_batch(tokens)).compile().as_text()
    # 128 tokens in chunks of 32, of which a device has 8.
    assert re.findall(r"f32\[(?:1,)?(\d+),512\]\S* dot\(", text) == ["8"]
    loop = re.search(r"body=%([\w.-]+)", text)[1]
    inside = text[text.index(f"%{loop} (") :].split("\n}")[0]
    assert "512" in inside
    assert "all-reduce" in text
    assert "all-reduce" not in inside


def test_the_parts_of_a_split_state_are_on_the_devices():
    state = state_of(models.mlp(num_classes=4, features=(16,)), jnp.zeros((1, 8)))
    placed = parallel.mesh(fsdp=4).put_state(state)
    kernel = placed.params["dense_0"]["kernel"]
    # [8, 16]: the larger axis in four.
    assert [shard.data.shape for shard in kernel.addressable_shards] == [(8, 4)] * 4
    assert placed.params["dense_0"]["bias"].sharding.is_fully_replicated
    np.testing.assert_array_equal(kernel, state.params["dense_0"]["kernel"])


def test_the_state_stays_split_from_step_to_step():
    layout = parallel.mesh(data=2, tensor=2)
    state = layout.put_state(state_of(models.mlp(num_classes=4, features=(16,)), jnp.zeros((1, 8))))
    before = jax.tree.map(lambda x: x.sharding, state)
    update = layout.compile(lambda state, batch, key: (jax.tree.map(lambda x: x * 2, state), {}))
    after, _ = update(state, layout.put_batch({"x": np.zeros((4, 8))}), layout.put_state(jax.random.key(0)))
    same = jax.tree.map(lambda x, sharding: x.sharding.is_equivalent_to(sharding, x.ndim), after, before)
    assert all(jax.tree.leaves(same))


def test_what_a_block_gives_is_split_by_the_batch_alone_whatever_the_rules(monkeypatch):
    # Of each kernel the outputs are split: left to itself, XLA would split what a block gives in the same way.
    rules = lambda params: {path: PartitionSpec(*[None] * (x.ndim - 1), "tensor") for path, x in params.items()}
    layout, model, seen = (
        parallel.mesh(data=2, tensor=2, rules=rules),
        models.transformer(**GPT | {"num_layers": 1}),
        [],
    )
    block = blocks.block

    def watched(*arguments):
        x, memory = block(*arguments)
        jax.debug.inspect_array_sharding(x, callback=lambda found: seen.append(found.shard_shape(x.shape)))
        return x, memory

    monkeypatch.setattr(blocks, "block", watched)
    update = lambda state, batch, key: (state, {"sum": model.apply(state.params, {}, batch)[0].sum()})
    tokens = np.zeros((4, 8), np.int32)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(lambda: state_of(model, tokens)))
    arguments = state, tokens, jax.random.key(0)
    puts = layout.put_state, layout.put_batch, layout.put_state
    layout.compile(update)(*(put(argument) for put, argument in zip(puts, arguments)))
    assert seen == [(2, 8, 8)]  # of [4, 8, 8]


RULES = {
    "a pattern that matches nothing": (
        [("kernel", ("fsdp", None)), ("kernels", ()), ("", ())],
        "rules: 'kernels' matches no parameter; take it out, or mend it: the parameters are dense_0.bias, ",
    ),
    "a parameter that nothing matches": (
        [("kernel", ())],
        "rules: no pattern matches the parameter dense_0.bias; add one",
    ),
    "an axis that does not divide": (
        [("output.kernel", (None, "fsdp")), ("", ())],
        "rules: output.kernel: axis 1 of float32[16,6] does not divide over the 4 devices of 'fsdp'",
    ),
    "an axis that the mesh lacks": (
        [("kernel", ("model",)), ("", ())],
        "rules: dense_0.kernel: the mesh has no axis 'model'; it has data, fsdp, tensor",
    ),
    "more axes than the parameter has": (
        [("bias", (None, "fsdp")), ("", ())],
        "rules: dense_0.bias: came PartitionSpec(None, 'fsdp'), but it is float32[16]",
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_that_do_not_fit_are_named(name):
    table, message = RULES[name]
    state = state_of(models.mlp(num_classes=6, features=(16,)), jnp.zeros((1, 8)))
    with pytest.raises(UsageError) as caught:
        parallel.mesh(fsdp=4, rules=parallel.by_path(table)).put_state(state)
    assert message in str(caught.value).replace("P(None", "PartitionSpec(None")


def test_rules_may_be_any_function_of_the_parameters():
    rules = lambda params: {path: PartitionSpec("data") for path in params}
    state = state_of(models.mlp(num_classes=8, features=(16,)), jnp.zeros((1, 8)))
    found = specs(parallel.mesh(data=4, rules=rules), state)
    assert found["params.output.bias"] == found["params.dense_0.kernel"] == PartitionSpec("data")
    with pytest.raises(UsageError, match=r"rules: dense_0\.bias: came None, wanted a PartitionSpec"):
        parallel.mesh(data=4, rules=lambda params: {}).put_state(state)


def test_parameters_that_are_one_array_go_by_the_rules_too():
    rules = lambda params: {path: PartitionSpec("fsdp") for path in params}
    state = updates.init_state(jnp.zeros((8, 2)), {}, optax.adam(1e-3))
    found = specs(parallel.mesh(fsdp=4, rules=rules), state)
    split = {name for name, spec in found.items() if spec == PartitionSpec("fsdp")}
    assert split == {"params", "opt_state.0.mu", "opt_state.0.nu"}


def test_a_mesh_larger_than_the_devices():
    with pytest.raises(UsageError, match="mesh: data 4 x tensor 2 takes 8 devices, but there are 4 cpu devices"):
        parallel.mesh(data=4, tensor=2)


def test_a_batch_that_does_not_divide():
    with pytest.raises(ValueError, match="6 examples do not divide over the 4 parts of this layout"):
        parallel.mesh(data=2, fsdp=2).put_batch({"x": np.zeros(6)})


EXACT = {
    "shards": ({"shards": 6}, "shards: came 6, wanted a power of two"),
    "devices": ({"shards": 8, "num_devices": 3}, "num_devices: came 3, wanted a power of two"),
    "more devices than shards": ({"shards": 2, "num_devices": 4}, "num_devices: came 4, wanted at most the 2"),
    "more devices than there are": ({"shards": 8, "num_devices": 8}, "num_devices: came 8, but there are 4"),
}


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_layout_that_cannot_be(name):
    arguments, message = EXACT[name]
    with pytest.raises((ValueError, UsageError), match=message):
        parallel.exact(**arguments)
