"""Every experiment runs with each of its real configs, shrunk; parts are swapped by the config alone."""

import base64
import importlib.util
import io
import json
import sys
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxkit import configs, data, objectives
from jaxkit.errors import UsageError
from jaxkit.runs import command, directory, picture, record
from jaxkit.types import Model

TOP = Path(__file__).parent.parent
SHRUNK = {
    "num_steps": 4,
    "log_every": 2,
    "eval_every": 4,
    "checkpoint_every": 4,
    "batch_size": 16,
    "picture": False,
}
PMAP = {"call": "jaxkit.parallel.pmap", "num_devices": 4}
CNN = {"call": "jaxkit.models.cnn", "features": (4, 4), "dense": (8,), "num_classes": 10}
# Of eighteen layers four, because compiling them takes long; the digits have all of them.
RESNET = {
    "call": "jaxkit.models.from_linen",
    "module": {
        "call": "jaxkit.models.residual.ResNet",
        "num_classes": 10,
        "stages": (1,),
        "block": {"function": "jaxkit.models.residual.BasicBlock"},
        "norm": {"call": "jaxkit.models.residual.Norm", "kind": "group", "group_size": None},
        "width": 4,
        "small_images": True,
    },
}
# config file and variants -> what is changed besides to make it small. A new config is one row.
RUNS = {
    "digits.py": {"model": CNN},
    "digits.py:model=mlp": {"model.features": (8,)},
    "digits.py:model=resnet": {"model.width": 4},
    "mnist.py": {"model": CNN},
    "mnist.py:model=mlp": {"model.features": (8,)},
    "cifar10.py": {"model": RESNET},
    "cifar10.py:layout=pmap": {"model": CNN},
}
# Swaps of one part each, on the digits.
SWAPS = {
    "loss": {"loss": {"function": "jaxkit.losses.focal", "gamma": 2.0}},
    "a loss of optax": {"loss": {"function": "optax.softmax_cross_entropy_with_integer_labels"}},
    "optimizer": {"optimizer": {"call": "optax.sgd", "learning_rate": 0.1, "momentum": 0.9}},
    "schedule": {
        "optimizer.learning_rate": {"call": "optax.cosine_decay_schedule", "init_value": 0.1, "decay_steps": 4}
    },
    "layout": {"layout": PMAP},
    "accumulation": {"microbatches": 4},
    "augmentation": {"augment": {"call": "jaxkit.data.shift", "max_pixels": 1}},
    "steps in a call": {"steps_per_call": 2},
    "a part of the data": {"data.train": {"call": "jaxkit.data.digits", "split": "train[:50%]"}},
    "a model of the user's own": {"model": {"call": "own_package.linear", "num_classes": 10}},
}
MLP = {"model.features": (8,)}
# What is in "train" and in "test" by its name, with enough text for some windows of each.
LIBRARY = {"abc.py": "def first(values):\n    return values[0]\n" * 20, "zipfile.py": "import abc\n" * 20}
SAMPLES = {"samples.num_tokens": 4, "samples.prompts": ("import ", "a")}
SMALL_MODEL = {"num_layers": 1, "num_heads": 2, "features": 8, "max_length": 32}
SYNTHETIC = {"call": "jaxkit.data.synthetic_tokens", "vocabulary_size": 300, "length": 16, "size": 40, "seed": 0}


def small_model(prefix="model", **changes):
    return {f"{prefix}.{name}": value for name, value in (SMALL_MODEL | changes).items()}


def small_text(root, tokenizer):
    text = {
        "call": "jaxkit.data.text",
        "corpus": {"call": "jaxkit.data.stdlib", "root": str(root)},
        "tokenizer": tokenizer,
        "length": 16,
    }
    return {f"data.{split}": {**text, "split": split} for split in ("train", "test")} | SAMPLES


BYTES, BPE = {"call": "jaxkit.data.byte_level"}, {"call": "jaxkit.data.bpe", "vocabulary_size": 300}
SMALL_GPT2 = small_model("model.model", vocabulary_size=300)
# As RUNS, of text generation: (tokenizer or None where the tokens are synthetic, what is changed besides).
SMALL_LLAMA = SMALL_GPT2 | {"model.model.num_kv_heads": 1, "model.model.mlp_features": 16}
TEXT_RUNS = {
    "stdlib_gpt.py": (BYTES, small_model()),
    "stdlib_gpt.py:tokenizer=bpe": (BPE, small_model(vocabulary_size=300) | {"samples": None}),
    "gpt2_124m.py": (None, SMALL_GPT2),
    "llama_1b.py": (None, SMALL_LLAMA),
    "llama_1b.py:layout=fsdp": (None, SMALL_LLAMA | {"layout.fsdp": 4}),
    "llama_1b.py:layout=tensor": (None, SMALL_LLAMA | {"layout.fsdp": 2}),
}


def load_recipe(name: str):
    spec = importlib.util.spec_from_file_location(name, TOP / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.recipe


def linear(*, num_classes: int):
    """What a user writes in a module of their own."""

    def init(key, inputs):
        return jnp.zeros((int(np.prod(inputs.shape[1:])), num_classes)), {}

    def apply(params, extra, inputs, *, key=None, train=False):
        return inputs.reshape(len(inputs), -1).astype(jnp.float32) @ params, extra

    return Model(init, apply)


def train(config_name: str, changes: dict, workdir: Path, experiment: str = "image_classification"):
    config = configs.read(str(TOP / "configs" / config_name))
    shrunk = {path: value for path, value in SHRUNK.items() if path in config}
    config = configs.check_fields(configs.replace(config, shrunk | changes))
    assert command.run(load_recipe(experiment), config, experiment="x", workdir=workdir) == command.OK
    return directory.summary(workdir), record.read(workdir / directory.METRICS)


@pytest.fixture
def mocked():
    """Fake data of the right shapes for what would be downloaded."""
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=40):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_config_runs_shrunk(name, tmp_path, request):
    if not name.startswith("digits"):
        request.getfixturevalue("mocked")
    found, rows = train(name, RUNS[name], tmp_path / "run")
    assert found["status"] == "finished"
    assert [row["step"] for row in rows] == [2, 4]
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert 0 <= found["evaluation"]["test"]["accuracy"] <= 1


@pytest.fixture
def library(tmp_path):
    """A small library of modules, at a place of its own: what is prepared is named by its content."""
    root = tmp_path / "library"
    root.mkdir()
    for name, text in LIBRARY.items():
        (root / name).write_text(text)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXT_RUNS)
def test_a_config_of_text_runs_shrunk(name, tmp_path, library):
    tokenizer, changes = TEXT_RUNS[name]
    synthetic = {"data.train": SYNTHETIC, "data.test": SYNTHETIC | {"seed": 1, "size": 5}}
    changes = (small_text(library, tokenizer) if tokenizer else synthetic) | changes
    if "samples" in changes:
        changes = {path: value for path, value in changes.items() if not path.startswith("samples.")}
    found, rows = train(name, changes, tmp_path / "run", experiment="text_generation")
    assert found["status"] == "finished"
    assert all(np.isfinite(row["loss"]) for row in rows)
    # Nothing is learned in four steps: all of some 300 tokens are about as likely.
    assert found["evaluation"]["test"]["loss"] == pytest.approx(
        np.log(257 if tokenizer == BYTES else 300), abs=0.3
    )
    assert 0 <= found["evaluation"]["test"]["accuracy"] <= 1
    assert ("bits_per_byte" in found["evaluation"]["test"]) == (tokenizer is not None)
    if tokenizer is not None:
        assert (tmp_path / "run/assets/tokenizer.json").stat().st_size > 20
    if tokenizer == BYTES:
        assert (tmp_path / "run/samples.txt").read_text().startswith("--- 'import '\nimport ")


def test_the_variants_of_a_config_of_text_are_of_one_vocabulary():
    for name in ("gpt2_124m.py:data=stdlib,layout=pmap", "stdlib_gpt.py:tokenizer=bpe"):
        config = configs.read(str(TOP / "configs" / name))
        model = config.model.model if "model" in config.model else config.model
        assert objectives.vocabulary_of(configs.build(config.data)) == model.vocabulary_size


TEXT_MISTAKES = {
    "model.vocabulary_size": (256, r"update: vocabulary: came a model of 256 tokens for data of 257; is the"),
    "samples.prompts": (("import ", ""), r"prompts\[1\]: came '', wanted a text of at least one character"),
    "samples.num_tokens": (31, r"config\.samples: num_tokens: came 31, wanted at most 30: .*max_length of 32"),
    "data.test.tokenizer": (BPE, r"config\.data: came vocabularies of .*, wanted one tokenizer for all splits"),
    "data.train.length": (0, r"length: came 0, wanted a number >= 1"),
    "model.max_length": (15, r"init: inputs: came int32\[1,16\], wanted .* length of 1 to 15"),
}


@pytest.mark.parametrize("path", TEXT_MISTAKES)
def test_a_mistake_in_text_is_seen_before_anything_is_read(path, tmp_path):
    value, message = TEXT_MISTAKES[path]
    # There is nothing at that place, which would be said as soon as it was read.
    changes = small_text(tmp_path / "nowhere", BYTES) | small_model() | {path: value}
    with pytest.raises(UsageError, match=message):
        train("stdlib_gpt.py", changes, tmp_path / "run", experiment="text_generation")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", SWAPS)
def test_a_part_is_swapped_by_the_config_alone(name, tmp_path, monkeypatch):
    own = types.ModuleType("own_package")
    own.linear = linear
    monkeypatch.setitem(sys.modules, "own_package", own)
    changes = SWAPS[name] if "model" in SWAPS[name] else MLP | SWAPS[name]
    found, rows = train("digits.py:model=mlp", changes, tmp_path / "run")
    assert found["status"] == "finished"
    assert np.isfinite(rows[-1]["loss"])


def test_every_config_file_has_a_row():
    files = {path.name for path in (TOP / "configs").glob("*.py")}
    assert files == {name.partition(":")[0] for name in RUNS | TEXT_RUNS}


@pytest.mark.parametrize("path", sorted((TOP / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_the_variant_of_the_steps_moves_the_schedule_too(path):
    config = configs.read(f"{path}:num_steps=40", [])
    assert (config.num_steps, config.optimizer.learning_rate.decay_steps) == (40, 40)


def test_experiments_are_short():
    for path in (TOP / "experiments").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 250, path


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    from matplotlib.figure import Figure

    figures, savefig = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, path: (figures.append(self), savefig(self, path)))
    return figures


def check_curves(axes, rows):
    """A curve for training and one for the held-out split, through all that the record has."""
    for one, name in zip(axes, ("loss", "accuracy")):
        assert one.get_ylabel() == name
        curves = {line.get_label(): line.get_xydata().tolist() for line in one.get_lines()}
        keys = {"training batches": name, "test": f"test/{name}"}
        assert curves == {
            label: [[row["step"], row[key]] for row in rows if key in row] for label, key in keys.items()
        }
        assert all(len(points) > 1 for points in curves.values())


def check_mistakes(cells, found, accuracy):
    """The sheet shows what `mistakes.json` names: test images with their own labels, worst first."""
    examples = data.digits(split="test").open()
    test = examples.read(np.arange(examples.size))
    assert len(cells) == 12
    assert (found["examples"], found["wrong"]) == (360, round(360 * (1 - accuracy)))
    assert len({each["index"] for each in found["worst"]}) == 24
    # All that are wrong, for they have less than a half on their label; of the rest the least sure.
    right = [each["probability"] for each in found["worst"] if each["guess"] == each["label"]]
    assert len(right) == 24 - found["wrong"]
    assert right == sorted(right)
    for each in found["worst"]:
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(each["image"]))))
        # 0 to 16 as 0 to 255, rounded down.
        np.testing.assert_array_equal(image, (test["image"][each["index"], ..., 0] * (255 / 16)).astype(np.uint8))
        assert each["label"] == test["label"][each["index"]]
    for cell, each in zip(cells, found["worst"], strict=False):
        np.testing.assert_array_equal(cell.get_images()[0].get_array(), test["image"][each["index"], ..., 0])
        assert cell.get_title().startswith(f"{each['label']} as {each['guess']} (")


def test_colours_are_shown_whatever_numbers_they_are(tmp_path, drawn):
    """Of floats matplotlib takes what is above 1 for white, and what is below 0 for black."""
    images = np.linspace(-2.0, 255.0, 4 * 4 * 4 * 3, dtype=np.float32).reshape(4, 4, 4, 3)
    batch, predictions = {"image": images, "label": np.zeros(4, int)}, {"probabilities": np.eye(4)}
    picture.classification(
        tmp_path / "picture.png", [{"step": 1, "loss": 1.0, "accuracy": 0.5}], batch, predictions
    )
    (figure,) = drawn
    # The first is right, so it is the last.
    shown = np.stack([figure.axes[2 + place].get_images()[0].get_array() for place in (3, 0, 1, 2)])
    np.testing.assert_allclose(shown, np.linspace(0, 1, images.size).reshape(images.shape), atol=1e-6)


@pytest.mark.slow
def test_the_digits_are_learned(tmp_path, drawn):
    # A sixth of the real config; all of it, with the mean over five seeds, is benchmarks/accuracy.py. So many
    # steps are worth optimising what they are compiled to.
    options = {"xla_backend_optimization_level": 2}
    changes = {"num_steps": 160, "layout": {"call": "jaxkit.parallel.jit", "compiler_options": options}}
    config = configs.replace(configs.read(str(TOP / "configs/digits.py")), changes)
    code = command.run(load_recipe("image_classification"), config, experiment="x", workdir=tmp_path / "run")
    assert code == command.OK
    found = directory.summary(tmp_path / "run")
    assert found["evaluation"]["test"]["accuracy"] >= 0.95
    assert found["evaluation"]["test"]["calibration"]["ece"] < 0.1
    (figure,) = drawn
    check_curves(figure.axes[:2], record.read(tmp_path / "run/metrics.jsonl"))
    found_mistakes = json.loads((tmp_path / "run/mistakes.json").read_text())
    check_mistakes(figure.axes[2:], found_mistakes, found["evaluation"]["test"]["accuracy"])
    with Image.open(tmp_path / "run/picture.png") as opened:
        assert opened.format == "PNG"
        # Lines in the left half, images in the right: neither is empty.
        left, right = (np.asarray(opened)[:, part] for part in (slice(None, 500), slice(-400, None)))
    assert (left < 128).any()
    assert (right < 128).any()
