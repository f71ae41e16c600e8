"""One contract suite over the table of all models: a new model is one row."""

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxkit
from jaxkit import models
from jaxkit.models.residual import BasicBlock, Bottleneck, Norm, ResNet
from jaxkit.types import Model


class Small(nn.Module):
    """A user's module with all that a Model may carry: batch statistics and dropout."""

    @nn.compact
    def __call__(self, inputs, deterministic):
        x = nn.Dense(8, use_bias=False)(inputs)  # the mean that is taken away would take a bias with it
        x = nn.relu(nn.BatchNorm(use_running_average=deterministic)(x))
        x = nn.Dropout(0.5, deterministic=deterministic)(x)
        return nn.Dense(3)(x)


class Row(NamedTuple):
    make: Callable[[], Model]
    shape: tuple[int, ...]  # of one example
    dtype: type = np.float32
    wrong: tuple[int, ...] = ()  # a shape of inputs that is refused; () where every rank is the user's business
    draws: bool = False  # needs a key in training
    slow: bool = False  # to compile
    outputs: tuple[int, ...] = (3,)  # of one example
    tolerance: float = 1e-5  # of one program's numbers against another's
    level: tuple[str, ...] = ()  # parameters that no output depends on


TINY_CNN = {"num_classes": 3, "features": (4, 6), "dense": (8,)}
TINY_RESNET = {"num_classes": 3, "depth": 18, "width": 8, "small_images": True}
TINY_MLP = {"num_classes": 3, "features": (8, 6)}
SMALL_RESNET = {"num_classes": 3, "stages": (1,), "width": 8, "small_images": True}
BLOCKS = SMALL_RESNET | {"block": BasicBlock, "norm": Norm("batch", None)}
BOTTLENECKS = SMALL_RESNET | {"block": Bottleneck, "norm": Norm("group", None)}
TINY_TRANSFORMER = {"vocabulary_size": 11, "max_length": 9, "num_layers": 2, "num_heads": 4, "features": 32}
TINY_LLAMA = TINY_TRANSFORMER | dict(
    positions="rotary", norm="rms", activation="swiglu", bias=False, tied=False, num_kv_heads=2
)
# A bias of the keys adds the same to all scores of a query, which the softmax takes away.
KEY_BIASES = tuple(f"['block_{i}']['attention']['key']['bias']" for i in range(2))
BY_CHANNEL = {"mean": (9.0, 7.0), "std": (64.0, 32.0)}
TABLE = {
    "mlp": Row(lambda: models.mlp(**TINY_MLP), (4, 2), wrong=(8,)),
    "mlp linear": Row(lambda: models.mlp(num_classes=3, features=()), (5,), wrong=(5,)),
    "mlp dropout": Row(lambda: models.mlp(**TINY_MLP, dropout=0.5), (5,), wrong=(5,), draws=True),
    "cnn": Row(lambda: models.cnn(**TINY_CNN), (8, 8, 2), wrong=(4, 8, 8)),
    "cnn dropout": Row(lambda: models.cnn(**TINY_CNN, dropout=0.5), (8, 8, 1), wrong=(8, 8), draws=True),
    "cnn batch norm": Row(lambda: models.cnn(**TINY_CNN, norm="batch"), (8, 8, 2), wrong=(4, 8, 8)),
    "cnn without dense": Row(lambda: models.cnn(num_classes=3, features=(4,), dense=(), pool=3), (8, 7, 1)),
    "resnet group": Row(lambda: models.resnet(**TINY_RESNET, norm="group"), (8, 8, 3), wrong=(4, 8, 8), slow=True),
    # The parts that this one lacks, in one block each, because compiling eighteen layers, or fifty, takes a while.
    "from_linen blocks batch": Row(lambda: models.from_linen(ResNet(**BLOCKS)), (8, 8, 3), wrong=(4, 8, 8)),
    "from_linen bottlenecks group": Row(
        lambda: models.from_linen(ResNet(**BOTTLENECKS)), (8, 8, 3), wrong=(4, 8, 8)
    ),
    # What rank a user's module takes is the user's.
    "from_linen": Row(lambda: models.from_linen(Small()), (5,), draws=True),
    "standardized": Row(
        lambda: models.standardized(models.mlp(**TINY_MLP), **BY_CHANNEL), (4, 4, 2), np.uint8, wrong=(4,)
    ),
    "standardized from_linen": Row(
        lambda: models.standardized(models.from_linen(Small()), std=255.0), (5,), np.uint8, draws=True
    ),
    "transformer gpt2": Row(
        lambda: models.transformer(**TINY_TRANSFORMER, dropout=0.5),
        (5,),
        np.int32,
        wrong=(5,),
        draws=True,
        outputs=(5, 11),
        level=KEY_BIASES,
    ),
    "transformer llama": Row(
        lambda: models.transformer(**TINY_LLAMA, scan=True, remat=True),
        (5,),
        np.int32,
        wrong=(5,),
        outputs=(5, 11),
    ),
    # bfloat16 rounds by 2^-9 of a number, in one order here and in another there.
    "precision": Row(
        lambda: models.precision(models.mlp(**TINY_MLP, dropout=0.5)), (5,), wrong=(5,), draws=True, tolerance=2e-2
    ),
}


def test_every_model_has_a_row():
    assert {name.split()[0] for name in TABLE} == set(models.__all__)


BATCH = 4
# Half the time to compile; for what is not compared with another form of itself.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
every_model = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * row.slow) for name, row in TABLE.items()]
)


class Begun(NamedTuple):
    row: Row
    model: Model
    init: Callable
    apply: Callable
    params: dict
    extra: dict
    inputs: np.ndarray


@functools.cache
def begin(name: str) -> Begun:
    """A model and its parameters, compiled once for all tests."""
    row = TABLE[name]
    model = row.make()
    init = quick_jit(model.init)
    inputs = examples(row, 0)
    return Begun(row, model, init, jax.jit(model.apply), *init(jax.random.key(0), inputs), inputs)


def examples(row: Row, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (BATCH, *row.shape)
    if row.dtype is np.uint8:
        return rng.integers(0, 256, shape, np.uint8)
    if row.dtype is np.int32:
        return rng.integers(0, 11, shape, np.int32)
    return rng.normal(size=shape).astype(np.float32)


def draw(row: Row, seed: int = 1):
    return jax.random.key(seed) if row.draws else None


def form(tree):
    """The structure, shapes and dtypes of a tree: what a scan holds its carry to."""
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


def get(tree, path):
    for part in path:
        tree = tree[part.key]
    return tree


@every_model
def test_init_is_known_from_shapes_alone(name):
    begun = begin(name)
    spec = jax.ShapeDtypeStruct(begun.inputs.shape, begun.inputs.dtype)
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(begun.model.init, key, spec)
    assert form(shapes) == form((begun.params, begun.extra))
    # Closed over, the spec stays a spec: no array comes in its place.
    assert form(jax.eval_shape(lambda key: begun.model.init(key, spec), key)) == form(shapes)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))


@every_model
def test_init_is_a_function_of_the_key(name):
    begun = begin(name)
    # On the host, because comparing on the device is compiled anew for every shape.
    same, _ = jax.device_get(begun.init(jax.random.key(0), examples(begun.row, 1)))
    other, _ = jax.device_get(begun.init(jax.random.key(1), begun.inputs))
    for path, leaf in leaves(jax.device_get(begun.params)):
        assert np.array_equal(leaf, get(same, path))
        if path[-1].key == "kernel":
            assert not np.any(leaf == get(other, path)), path


@every_model
def test_no_two_kernels_are_the_same_draw(name):
    kernels = [np.ravel(leaf)[:8] for path, leaf in leaves(begin(name).params) if path[-1].key == "kernel"]
    # Scaled to one size, for the same draw under two scales would be as bad.
    unit = [kernel / np.linalg.norm(kernel) for kernel in kernels]
    for i, a in enumerate(unit):
        assert not any(np.allclose(a, b, atol=1e-3) for b in unit[:i])


@every_model
def test_init_maps_over_keys(name):
    begun = begin(name)
    params, extra = jax.eval_shape(
        lambda seeds: jax.vmap(lambda seed: begun.model.init(jax.random.key(seed), begun.inputs))(seeds),
        np.arange(5),
    )
    one = form((begun.params, begun.extra))
    assert form((params, extra)) == (one[0], [((5, *shape), dtype) for shape, dtype in one[1]])


@every_model
def test_outputs_are_float32_and_jit_equals_eager(name):
    begun = begin(name)
    eager, extra = begun.model.apply(begun.params, begun.extra, begun.inputs)
    jitted, _ = begun.apply(begun.params, begun.extra, begun.inputs)
    assert (eager.shape, eager.dtype) == ((BATCH, *begun.row.outputs), jnp.float32)
    assert (jitted.shape, jitted.dtype) == ((BATCH, *begun.row.outputs), jnp.float32)
    assert extra is begun.extra  # evaluation changes nothing
    np.testing.assert_allclose(jitted, eager, atol=begun.row.tolerance, rtol=begun.row.tolerance)


@every_model
def test_a_batch_equals_the_stack_of_its_examples(name):
    begun = begin(name)
    outputs, _ = begun.apply(begun.params, begun.extra, begun.inputs)
    alone = quick_jit(begun.model.apply)
    stack = [alone(begun.params, begun.extra, begun.inputs[i : i + 1])[0] for i in range(BATCH)]
    tolerance = begun.row.tolerance
    np.testing.assert_allclose(outputs, np.concatenate(stack), atol=tolerance, rtol=tolerance)
    # The tolerance guards something: examples differ by far more.
    assert np.ptp(outputs, axis=0).max() > max(1e-2, 5 * tolerance)


@every_model
def test_evaluation_ignores_the_key(name):
    begun = begin(name)
    without, _ = begun.model.apply(begun.params, begun.extra, begun.inputs)
    with_key, _ = begun.model.apply(begun.params, begun.extra, begun.inputs, key=jax.random.key(5))
    assert np.array_equal(without, with_key)


@every_model
def test_no_retrace_at_the_second_call(name):
    begun = begin(name)
    traces = []

    @jax.jit
    def train(params, extra, inputs, seed):
        traces.append(inputs.shape)
        key = jax.random.key(seed) if begun.row.draws else None
        return begun.model.apply(params, extra, inputs, key=key, train=True)

    # Traced, not run: the cache of traces is asked the same way, and nothing is compiled.
    _, extra = jax.eval_shape(train, begun.params, begun.extra, begun.inputs, 0)
    jax.eval_shape(train, begun.params, extra, examples(begun.row, 1), 1)
    assert len(traces) == 1
    jax.eval_shape(train, begun.params, extra, begun.inputs[:2], 1)
    assert len(traces) == 2  # so the line above can fail


@every_model
def test_extra_keeps_its_form_in_training(name):
    begun = begin(name)

    def two_steps(params, extra, inputs):
        def step(extra, _):
            _, extra = begun.model.apply(params, extra, inputs, key=draw(begun.row), train=True)
            return extra, ()

        return jax.lax.scan(step, extra, length=2)[0]

    # A scan refuses a carry that changes its form.
    after = jax.eval_shape(two_steps, begun.params, begun.extra, begun.inputs)
    assert form(after) == form(begun.extra)


@every_model
def test_every_parameter_has_a_gradient(name):
    begun = begin(name)
    # Off the initialisation, at which zero scales keep the gradient out of their blocks, as they should.
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), jax.device_get(begun.params)
    )

    @quick_jit
    @jax.grad
    def gradient(params):
        outputs, _ = begun.model.apply(params, begun.extra, begun.inputs, key=draw(begun.row), train=True)
        return outputs.sum()

    for path, leaf in leaves(jax.device_get(gradient(params))):
        assert np.all(np.isfinite(leaf)), path
        level = jax.tree_util.keystr(path) in begun.row.level
        assert np.any(np.abs(leaf) > (1e-5 if level else 1e-6)) != level, path


@every_model
def test_training_needs_a_key_where_it_draws(name):
    begun = begin(name)
    if not begun.row.draws:
        outputs, _ = jax.eval_shape(lambda: begun.model.apply(begun.params, begun.extra, begun.inputs, train=True))
        assert outputs.shape == (BATCH, *begun.row.outputs)
        return
    with pytest.raises(ValueError, match=r"^key: came None, wanted one typed key: .* call apply\(.*key=key"):
        begun.model.apply(begun.params, begun.extra, begun.inputs, train=True)
    train = functools.partial(begun.model.apply, begun.params, begun.extra, begun.inputs, train=True)
    first, again, other = (train(key=jax.random.key(seed))[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other, atol=1e-2)


@every_model
def test_inputs_of_another_size_are_refused_by_name(name):
    begun = begin(name)
    wider = np.concatenate([begun.inputs, begun.inputs], axis=-1)
    with pytest.raises(ValueError, match=r"^inputs: came (float32|uint8|int32)\[.*wanted "):
        begun.model.apply(begun.params, begun.extra, wider)


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.wrong])
def test_inputs_of_another_rank_are_refused_by_name(name):
    begun = begin(name)
    wrong = np.zeros(begun.row.wrong, begun.row.dtype)
    with pytest.raises(ValueError, match=r"^inputs: came (float32|uint8|int32)\[.*wanted "):
        begun.model.init(jax.random.key(0), wrong)
    with pytest.raises(ValueError, match=r"^inputs: came (float32|uint8|int32)\[.*wanted "):
        begun.model.apply(begun.params, begun.extra, wrong)


def test_flax_is_imported_only_when_it_is_used():
    lines = [
        "import sys, jaxkit",
        "model = jaxkit.models.standardized(jaxkit.models.mlp(num_classes=2), std=2.0)",
        "jaxkit.models.cnn(num_classes=2)",
        "assert 'jax' in sys.modules and 'flax' not in sys.modules",
        "jaxkit.models.from_linen",
        "assert 'flax' in sys.modules",  # so the line above can fail
    ]
    root = Path(jaxkit.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_model_is_answered_with_those_there_are():
    with pytest.raises(AttributeError, match="'cn'; it has: cnn, from_linen, mlp"):
        _ = models.cn
    assert {"mlp", "cnn", "resnet", "from_linen", "standardized", "transformer", "precision"} <= set(dir(models))


def test_no_file_of_a_model_hides_the_function_of_its_name():
    # Importing a submodule sets it as an attribute of its package.
    files = {path.stem for path in Path(models.__file__).parent.glob("*.py")}
    assert not files & set(dir(models))
