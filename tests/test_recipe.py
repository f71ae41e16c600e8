"""The preflight: a part that breaks its contract is named, before any data is opened."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import configs, data, objectives, parallel, updates
from jaxkit.errors import UsageError
from jaxkit.means import mean
from jaxkit.recipe import Recipe, memory, plan
from jaxkit.runs import feeding
from jaxkit.runs.command import compose
from jaxkit.types import Model, Source

MODEL = Model(
    lambda key, inputs: ({"w": jax.random.normal(key, (4, 3))}, {}),
    lambda params, extra, inputs, *, key=None, train=False: (inputs @ params["w"], extra),
)
LOSS = optax.softmax_cross_entropy_with_integer_labels
NAMES = {"inputs": "x", "targets": "y"}


def make(layout=None, across=True, **parts) -> Recipe:
    """A recipe that is whole, with some of its parts replaced."""
    layout = layout or parallel.jit()
    optimizer = optax.sgd(0.1)
    gradients = updates.gradients(objectives.classification(MODEL, LOSS, num_classes=3, **NAMES))
    gradients = layout.across(gradients) if across else gradients
    source = data.arrays({"x": np.zeros((9, 4), np.float32), "y": np.zeros(9, np.int32)}, num_classes={"y": 3})

    def never():
        raise AssertionError("the preflight opened the data")

    closed = Source(source.name, source.schema, never)
    whole = Recipe(
        data={"train": closed, "test": closed},
        init=lambda key: updates.init_state(*MODEL.init(key, jnp.zeros((1, 4))), optimizer),
        update=updates.step(gradients, optimizer),
        evaluate=objectives.evaluation(MODEL, LOSS, **NAMES),
        predict=lambda params, extra, batch: {"logits": batch["x"] @ params["w"]},
        layout=layout,
    )
    return whole._replace(**parts)


BROKEN = {
    "no train split": ({"data": {"test": None}}, "config.data: came ['test'], wanted a split called 'train'"),
    "init raises": ({"init": lambda key: jnp.zeros(3) @ jnp.zeros(4)}, "init: "),
    "init gives no state": ({"init": lambda key: {}}, "init: came dict, wanted a State"),
    "update gives no pair": ({"update": lambda s, b, k: s}, "update: came State, wanted (state, metrics)"),
    "update changes a dtype": (
        {"update": lambda s, b, k: (s._replace(params={"w": s.params["w"].astype(jnp.bfloat16)}), {})},
        "update: state.params['w']: went in as float32[4,3], came out as bfloat16[4,3]",
    ),
    "update loses a leaf": (
        {"update": lambda s, b, k: (s._replace(params={}), {})},
        "update: state.params['w']: went in as float32[4,3], came out as nothing",
    ),
    "a metric that cannot be added": (
        {"update": lambda s, b, k: (s, {"accuracy": jnp.zeros(())})},
        "update: metric 'accuracy': came float32[], wanted an additive state",
    ),
    "evaluate looks for what is not there": (
        {"evaluate": lambda p, e, b: b["nothing"]},
        f"evaluate: KeyError: 'nothing' ({__file__}:",
    ),
    "an objective of data without its field": (
        {"evaluate": objectives.evaluation(MODEL, LOSS)},
        "evaluate: batch: came fields ['mask', 'x', 'y'], wanted 'image' among them",
    ),
    "evaluate is nothing": ({"evaluate": None}, "recipe(config): evaluate: came NoneType, wanted a function"),
    "one source": ({"data": data.arrays({"x": np.zeros(3)})}, "data: came Source, wanted {split: Source}"),
    "arrays for a source": (
        {"data": {"train": np.zeros(3)}},
        "config.data.train: came float64[3], wanted a Source",
    ),
    "predict gives an array": (
        {"predict": lambda p, e, b: b["x"]},
        "predict: came float32[8,4], wanted {name: array[batch, ...]}",
    ),
    "predict gives lists": (
        {"predict": lambda p, e, b: {"labels": [b["x"], b["x"]]}},
        "predict: labels: came list, wanted one for each of 8 examples",
    ),
    "evaluate gives no dict": ({"evaluate": lambda p, e, b: b["x"]}, "evaluate: came "),
    "predict reduces": (
        {"predict": lambda p, e, b: {"mean": b["x"].mean()}},
        "predict: mean: came float32[], wanted one for each of 8 examples",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_part_that_breaks_its_contract_is_named(name):
    parts, message = BROKEN[name]
    with pytest.raises(UsageError) as caught:
        plan(make(**parts), batch_size=8)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


MASKS = {"bool[3,3]": np.ones((9, 3), bool), "int32[3]": np.ones(9, int), "float32[3]": np.ones(9, np.float32)}


@pytest.mark.parametrize("came", MASKS)
def test_a_mask_of_the_data_is_one_bool_for_each_example(came):
    """Behind the padding of an evaluation it would be broadcast, or be an error at the end of a training."""
    arrays = {"x": np.zeros((9, 4), np.float32), "y": np.zeros(9, np.int32)}
    masked = data.arrays({**arrays, "mask": MASKS[came]}, num_classes={"y": 3})
    whole = make()
    with pytest.raises(UsageError) as caught:
        plan(whole._replace(data={"train": whole.data["train"], "test": masked}), batch_size=3)
    assert str(caught.value) == f"config.data.test: mask: came {came}, wanted bool[3]: one for each example"
    good = data.arrays({**arrays, "mask": np.ones(9, bool)}, num_classes={"y": 3})
    plan(whole._replace(data={"train": good, "test": good}), batch_size=3)


@pytest.mark.parametrize("name", ["test/easy", "../test", "", "té\n", "a\0b", 3])
def test_a_held_out_split_has_the_name_of_a_file(name):
    """What it comes to is written into one, after the training."""
    source = make().data["train"]
    made = make(data={"train": source, name: source})
    with pytest.raises(
        UsageError, match=r"^config\.data: came a split called .*, wanted a name that a file can have"
    ):
        feeding.check(made, plan(made, batch_size=8))


@pytest.mark.parametrize("name", ["step", "wall", "speed", "digest", "test/loss"])
def test_a_metric_of_training_does_not_take_the_place_of_something_else_in_a_row(name):
    metrics = {name: lambda logits, labels, mask=None: mean(labels, mask)}
    objective = objectives.classification(MODEL, LOSS, num_classes=3, metrics=metrics, **NAMES)
    made = make(update=updates.step(updates.gradients(objective), optax.sgd(0.1)))
    with pytest.raises(UsageError, match=f"^update: metric '{name}': a row of the record has that already"):
        feeding.check(made, plan(made, batch_size=8))


@pytest.mark.parametrize("made", [None, {"data": {}}])
def test_what_is_no_recipe_is_refused_before_any_part_is_used(made):
    with pytest.raises(UsageError, match=r"recipe\(config\): came \w+, wanted a Recipe"):
        compose(lambda config: made, configs.freeze({}))


def test_an_attribute_that_a_part_lacks_is_one_line():
    def recipe(config):
        return config.rate.value

    with pytest.raises(UsageError, match="AttributeError: 'float' object has no attribute 'value'"):
        compose(recipe, configs.freeze({"rate": 0.1}))


@pytest.mark.parametrize("mistake", ["optimiser", "1 / 0", "open('/no/such/file')", "next(iter([]))"])
def test_whatever_a_recipe_raises_is_one_line_with_its_place(mistake, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"def recipe(config):\n    return {mistake}\n")
    names: dict = {}
    exec(compile(path.read_text(), path, "exec"), names)
    with pytest.raises(UsageError, match=rf"^{path}:2: \w+: ?[^\n]*$"):
        compose(names["recipe"], configs.freeze({}))


def test_a_layout_by_its_name_is_none():
    with pytest.raises(UsageError, match=r"recipe\(config\): layout: came 'jit' \(str\), wanted a Layout"):
        plan(make()._replace(layout="jit"), batch_size=8)


@pytest.mark.parametrize("layout", [parallel.jit, parallel.pmap])
def test_a_whole_recipe_is_counted(layout):
    found = plan(make(layout()), batch_size=8)
    assert found.num_parameters == 12
    assert found.parameter_bytes == 48
    # The parameters and the step; sgd keeps nothing.
    assert found.state_bytes == 52
    assert found.batch_bytes == 8 * 4 * 4 + 8 * 4
    assert found.parameters["w"].shape == (4, 3)
    assert found.predictions["logits"].shape == (8, 3)


def test_an_update_that_forgets_to_sum_over_the_devices_is_named():
    with pytest.raises(UsageError, match=r"nothing sums over them; compose it with layout\.across"):
        plan(make(parallel.pmap(), across=False), batch_size=8)
    plan(make(parallel.jit(), across=False), batch_size=8)


def test_a_batch_that_does_not_divide_over_the_devices_is_named():
    with pytest.raises(UsageError, match=r"config\.batch_size: 6 does not divide over the 4 parts"):
        plan(make(parallel.pmap()), batch_size=6)


def test_the_flops_are_those_of_the_products():
    # Forward 2 * 8 * 4 * 3 = 192, and the same for the gradient of the weights.
    found = plan(make(), batch_size=8)
    assert (found.flops, found.model_flops) == (2 * 192, 3 * 192)


LAYOUTS = {
    "jit": parallel.jit,
    "pmap": parallel.pmap,
    "mesh": lambda: parallel.mesh(data=2, fsdp=2),
    "exact": parallel.exact,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_bytes_of_a_device_are_what_the_compiler_says(name):
    made = make(LAYOUTS[name]())
    found = memory(made, plan(made, batch_size=8), batch_size=8)
    kernel = 24 if name == "mesh" else 48  # of [4, 3], fsdp splits the first axis in two
    examples = 8 // made.layout.num_devices
    key = 8
    assert found.arguments == pytest.approx(4 + kernel + examples * (4 * 4 + 4) + key, abs=8 * 20 + 16)
    assert found.total == found.arguments + found.outputs - found.aliases + found.temporaries
    assert 0 < found.aliases <= found.outputs


def test_rules_that_do_not_fit_are_named_by_the_preflight():
    rules = parallel.by_path([("kernel$", (None, "tensor"))])
    with pytest.raises(UsageError, match="rules: no pattern matches the parameter w"):
        plan(make(parallel.mesh(data=4, rules=rules)), batch_size=8)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_metric_that_counts_padding_is_said(compiled):
    right = lambda outputs, targets: (outputs.argmax(-1) == targets).astype(jnp.float32)
    of_batch = objectives.evaluation(
        MODEL,
        LOSS,
        metrics={
            "masked": lambda outputs, targets, mask: mean(right(outputs, targets), mask),
            "padded": lambda outputs, targets, mask: mean(right(outputs, targets)),
        },
        **NAMES,
    )

    def evaluate(params, extra, batch):
        # What is no sum over examples needs no mask.
        return {**of_batch(params, extra, batch), "norm": mean(jnp.linalg.norm(params["w"])[None])}

    (said,) = plan(make(evaluate=jax.jit(evaluate) if compiled else evaluate), batch_size=8).notes
    assert said.startswith("warning: test: metric 'padded' does not look at its mask")
