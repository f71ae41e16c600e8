"""Activations: which rule splits them, that it is in force in compiled programs, and what is said of bad ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxkit import configs, models, parallel
from jaxkit.cli import planning
from jaxkit.errors import UsageError

GPT = {"vocabulary_size": 32, "max_length": 6, "num_layers": 1, "num_heads": 2, "features": 10}
# Korthikanti et al. 2022: between the parts of a block each device has some of the positions.
BY_LENGTH = [
    ("batch", ("data", "fsdp")),
    *((axis, "tensor") for axis in ("heads", "kv_heads", "hidden", "vocabulary", "length")),
]
BY_HEIGHT = [("batch", "data"), ("height", "tensor")]
TOKENS = np.arange(24, dtype=np.int32).reshape(4, 6)
IMAGES = np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype(np.float32)


def by_length(axes, x) -> PartitionSpec | None:
    return PartitionSpec("data", "tensor") if axes == ("batch", "length", "features") else None


def gradient(model, layout, inputs):
    """The program of a forward and a backward pass under a layout, not yet compiled, and its arguments."""

    def update(params, batch, key):
        loss = lambda params: jnp.mean(model.apply(params, {}, batch, key=key, train=True)[0] ** 2)
        return jax.grad(loss)(params), {}

    rng = np.random.default_rng(1)
    shapes, _ = jax.eval_shape(model.init, jax.random.key(0), inputs)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.5).astype(x.dtype), shapes)
    arguments = layout.put_state(params), layout.put_batch(inputs), layout.put_state(jax.random.key(0))
    return layout.compile(update).lower(*arguments), arguments


def test_an_activation_is_split_by_the_names_of_its_axes_and_only_in_a_mesh():
    layout, seen = parallel.mesh(data=2, tensor=2), []

    def update(state, batch, key):
        hidden = parallel.constrain(batch["x"] @ jnp.ones((8, 6)), "batch", "hidden")
        jax.debug.inspect_array_sharding(hidden, callback=seen.append)
        return state, {"sum": hidden.sum()}

    batch = {"x": np.ones((4, 8), np.float32)}
    arguments = layout.put_state({}), layout.put_batch(batch), layout.put_state(jax.random.key(0))
    layout.compile(update)(*arguments)
    assert seen[0].shard_shape((4, 6)) == (2, 3)
    [(axes, hidden)] = layout.activations()
    assert (axes, hidden.shape, hidden.sharding.spec) == (
        ("batch", "hidden"),
        (4, 6),
        PartitionSpec(("data", "fsdp"), "tensor"),
    )
    x = jnp.ones((4, 6))
    assert parallel.constrain(x, "batch", "hidden") is x


CASES = {
    "positions, by a table": (
        lambda: models.transformer(**GPT, scan=True, remat=True, dropout=0.3),
        TOKENS,
        parallel.by_axis(BY_LENGTH),
        "f32[2,3,10]",
    ),
    "positions, by a function": (lambda: models.transformer(**GPT), TOKENS, by_length, "f32[2,3,10]"),
    "rows of images": (
        lambda: models.cnn(num_classes=4, features=(4,), dense=(8,), pool=1),
        IMAGES,
        parallel.by_axis(BY_HEIGHT),
        "f32[2,3,6,4]",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_rule_is_in_force_in_the_compiled_program_and_changes_no_number(name):
    make, inputs, rule, on_a_device = CASES[name]
    program, arguments = gradient(make(), parallel.mesh(data=2, tensor=2, activations=rule), inputs)
    compiled = program.compile()
    # Of the examples a device has two, of the positions or the rows three of six where a rule says so.
    assert on_a_device in compiled.as_text()
    alone, arguments_alone = gradient(make(), parallel.jit(), inputs)
    found, wanted = compiled(*arguments)[0], alone.compile()(*arguments_alone)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), found, wanted)
    assert max(np.abs(x).max() for x in jax.tree.leaves(wanted)) > 0.1


def test_a_function_that_is_compiled_by_itself_is_not_taken_from_another_rules_program():
    # The same function of the same shapes on the same mesh: jax would have it already.
    model = models.mlp(num_classes=4, features=(8,))
    model, inputs = (
        model._replace(apply=jax.jit(model.apply, static_argnames="train")),
        np.zeros((4, 3), np.float32),
    )
    tables = [[("batch", "data")], [("hidden", "tensor")]]
    layouts = [parallel.mesh(data=2, tensor=2, activations=parallel.by_axis(table)) for table in tables]
    for layout in (*layouts, layouts[0]):  # and once more: what one layout has seen, it has seen
        gradient(model, layout, inputs)
    found = [[x.sharding.spec for _, x in layout.activations()] for layout in layouts]
    assert found == [[PartitionSpec("data", None)], [PartitionSpec(None, "tensor")]]


@pytest.mark.parametrize("make", [parallel.jit, parallel.pmap, lambda: parallel.exact(shards=4)])
def test_layouts_without_a_mesh_split_no_activation(make):
    layout, model = make(), models.transformer(**GPT)
    state, _ = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 6), np.int32))
    apply = lambda state, batch, key: (state, {"sum": model.apply(state, {}, batch)[0].sum()})
    batch = layout.put_batch(np.zeros((4, 6), np.int32))
    traced = jax.make_jaxpr(layout.compile(apply))(state, batch, jax.random.key(0))
    assert "sharding_constraint" not in str(traced)
    assert layout.activations is None


def test_decoding_in_a_mesh_where_positions_are_split():
    model = models.transformer(**GPT)
    params, _ = jax.jit(model.init)(jax.random.key(0), TOKENS)

    def decode(params, extra, tokens):
        four, cache = model.extend(params, tokens[:, :4], model.cache(4, 6))
        one, _ = model.extend(params, tokens[:, 4:5], cache)
        return {"logits": jnp.concatenate([four, one], axis=1)}

    layout = parallel.mesh(data=2, tensor=2, activations=parallel.by_axis(BY_LENGTH))
    found = layout.compile_evaluate(decode)(layout.put_state(params), {}, layout.put_batch(TOKENS))
    wanted, _ = jax.jit(model.apply)(params, {}, TOKENS)
    np.testing.assert_allclose(found["logits"], wanted[:, :5], atol=1e-5)


def test_what_does_not_divide_is_left_to_the_compiler_by_the_usual_rule():
    layout = parallel.mesh(data=2, tensor=2)
    odd = GPT | {"num_heads": 6, "num_kv_heads": 3, "features": 12, "vocabulary_size": 31}
    gradient(models.transformer(**odd), layout, TOKENS)
    found = {axes: x.sharding and x.sharding.spec for axes, x in layout.activations()}
    assert found["batch", "length", "kv_heads", "head_size"] is None
    assert found["batch", "length", "vocabulary"] is None
    assert found["batch", "length", "heads", "head_size"][2] == "tensor"
    # As `jaxkit plan --shardings` prints it: of 4 x 6 x 6 x 2 numbers of 4 bytes a device has a quarter.
    rows = {path: rest for path, *rest in planning._activations(layout)}
    assert rows["batch length heads head_size"] == ["float32", [4, 6, 6, 2], "data+fsdp - tensor -", 288]
    assert rows["batch length vocabulary"] == ["float32", [4, 6, 31], "the compiler's choice", None]


BAD = {
    "an axis that no model has": (
        parallel.by_axis([("batch", "data"), ("hiden", "tensor")]),
        "activations: 'hiden' is the axis of no activation (they have batch, hidden); did you mean 'hidden'?",
    ),
    "an axis that the mesh has not": (
        parallel.by_axis([("hidden", "model")]),
        "activations: (batch, hidden): the mesh has no axis 'model'; it has data, fsdp, tensor",
    ),
    "a size that does not divide": (
        parallel.by_axis([("hidden", "tensor")]),
        "activations: (batch, hidden): axis 1 of float32[8,6] does not divide over the 4 devices of 'tensor'",
    ),
    "an axis that is there twice": (
        lambda axes, x: PartitionSpec("tensor", "tensor"),
        "activations: (batch, hidden): came PartitionSpec('tensor', 'tensor'), in which 'tensor' is there twice",
    ),
    "no PartitionSpec": (
        lambda axes, x: "tensor",
        "activations: (batch, hidden): came 'tensor', wanted a PartitionSpec",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_rule_that_does_not_fit_is_named(name):
    rule, message = BAD[name]
    layout = parallel.mesh(tensor=4, activations=rule)
    with pytest.raises(UsageError) as caught:
        gradient(models.mlp(num_classes=4, features=(6,)), layout, np.zeros((8, 3), np.float32))
    assert message in str(caught.value).replace("P('tensor'", "PartitionSpec('tensor'")


def test_a_table_for_a_model_that_names_nothing():
    layout = parallel.mesh(data=4, activations=parallel.by_axis([("batch", "data")]))
    update = layout.compile(lambda state, batch, key: (state, {}))
    with pytest.raises(
        UsageError, match=r"'batch' is the axis of no activation.*names none by parallel\.constrain"
    ):
        update.lower({}, layout.put_batch(np.zeros(4)), jax.random.key(0))


@pytest.mark.parametrize(
    "table", [[("batch",)], [("batch", "data"), ("batch", "fsdp")], [(1, "data")], [("batch", None)]]
)
def test_what_is_no_table_is_refused(table):
    with pytest.raises(ValueError, match="table: "):
        parallel.by_axis(table)


def test_as_many_names_as_axes_with_and_without_a_mesh():
    with pytest.raises(ValueError, match=r"constrain: came 1 names for float32\[4,2\], wanted one for each axis"):
        parallel.constrain(jnp.ones((4, 2)), "batch")


@pytest.mark.parametrize(
    "rule",
    [
        {"call": "jaxkit.parallel.by_axis", "table": (("batch", ("data", "fsdp")), ("hidden", "tensor"))},
        {"function": "tests.test_activations.by_length"},
    ],
    ids=["call", "function"],
)
def test_a_rule_is_a_value_of_a_config(rule):
    config = configs.freeze({"call": "jaxkit.parallel.mesh", "tensor": 2, "activations": rule})
    layout = configs.build(config)
    gradient(models.mlp(num_classes=4, features=(6,)), layout, np.zeros((8, 3), np.float32))
    [(axes, _)] = layout.activations()
    assert axes == ("batch", "hidden")
