import socket
import sys
import tempfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxkit import data, errors
from jaxkit.data import cache, digits_builder, manifests
from jaxkit.data import prepared as prepared_module


class JaxkitMixed(tfds.core.GeneratorBasedBuilder):
    """Every kind of field."""

    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES = {}  # noqa: RUF012
    code_path = None
    size = 50

    def _info(self):
        features = {
            "vector": tfds.features.Tensor(shape=(3,), dtype=np.float64),
            "number": tfds.features.Scalar(dtype=np.int64),
            "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
            "text": tfds.features.Text(),
            "many": tfds.features.Sequence(tfds.features.Scalar(dtype=np.int32)),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(self.size):
            yield (
                i,
                {
                    "vector": np.full(3, i / 2),
                    "number": i,
                    "label": i % 3,
                    "text": "x" * i,
                    "many": [i] * (i % 4),
                },
            )


class JaxkitPicture(tfds.core.GeneratorBasedBuilder):
    """What TFDS encodes with TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {}  # noqa: RUF012
    code_path = None

    def _info(self):
        features = {"image": tfds.features.Image(shape=(4, 4, 1))}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"image": np.zeros((4, 4, 1), np.uint8)}


MIXED = {"name": "jaxkit_mixed", "split": "train", "fields": ("vector", "number", "label")}


@pytest.fixture
def mocked(monkeypatch):
    with tfds.testing.mock_data(num_examples=20):
        yield


@pytest.fixture
def offline(monkeypatch):
    def unresolved(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


def test_two_processes_prepare_at_the_same_time_and_agree(prepared):
    first, second = prepared.hashes
    assert first == second
    assert [path.name for path in (prepared.directory / "digits").iterdir()] == ["1.0.0"]


def test_the_digits_are_those_of_scikit_learn_split_by_class(prepared):
    from sklearn import datasets

    train, test = (data.digits(split=s, data_dir=prepared.directory).open() for s in ("train", "test"))
    assert (train.size, test.size) == (1437, 360)
    whole = {n: np.concatenate([train.arrays[n], test.arrays[n]]) for n in ("image", "label")}
    digits = datasets.load_digits()
    # The same multiset of (image, label): sorted rows of 65 numbers.
    found = np.concatenate([whole["image"].reshape(-1, 64), whole["label"][:, None]], axis=1)
    wanted = np.concatenate([digits.data, digits.target[:, None]], axis=1).astype(found.dtype)
    np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(wanted, axis=0))
    # The counts that the docstring states; of every class a fifth, give or take one.
    counts = {
        name: np.bincount(examples.arrays["label"]).tolist()
        for name, examples in (("train", train), ("test", test))
    }
    for numbers in counts.values():
        stated = " ".join(digits_builder.Digits.__doc__.split())
        assert ", ".join(map(str, numbers)) in stated
    for one, other in zip(counts["train"], counts["test"]):
        assert abs(other - (one + other) / 5) < 1


def test_the_held_out_fifth_is_fixed():
    # Recorded: another choice would make every published number incomparable.
    labels = np.arange(50) % 5
    assert np.flatnonzero(digits_builder.held_out(labels)).tolist() == [5, 8, 21, 24, 29, 32, 33, 35, 36, 47]


def test_digits_schema_and_manifest(prepared):
    source = data.digits(split="test", data_dir=prepared.directory)
    examples = source.open()
    assert source.name == "digits/test"
    assert examples.arrays["image"].dtype == np.uint8
    assert examples.arrays["image"].shape == (360, 8, 8, 1)
    assert examples.arrays["image"].max() == 16
    assert source.schema == manifests.schema_of(examples.manifest)
    assert source.schema["label"].num_classes == 10
    manifest = examples.manifest
    assert (manifest["name"], manifest["version"], manifest["split"]) == ("digits", "1.0.0", "test")
    assert manifest["sha256"] == manifests.content_hash([examples.arrays], schema=source.schema)


def test_slices_of_a_split(prepared):
    whole = data.digits(split="train", data_dir=prepared.directory).open().arrays["label"]
    part = data.digits(split="train[:10%]", data_dir=prepared.directory).open()
    assert part.size == 144
    np.testing.assert_array_equal(part.arrays["label"], whole[:144])


WARM = """
import sys
from jaxkit import data
source = data.digits(split="train", data_dir=sys.argv[1])
examples = source.open()
data.shuffled(examples, batch_size=8, seed=0)[0]
heavy = {"tensorflow_datasets", "tensorflow", "grain", "sklearn", "flax", "orbax"} & set(sys.modules)
print(examples.manifest["sha256"], examples.size, sorted(heavy))
"""


def test_a_warm_start_imports_no_tfds(prepared, run):
    assert run(WARM, prepared.directory) == f"{prepared.hashes[0]} 1437 []"


def test_a_damaged_cache_is_made_again(prepared):
    source = data.digits(split="train", data_dir=prepared.directory)
    wanted = source.open()
    (path,) = (prepared.directory / ".jaxkit").glob("digits-train-????????????????")
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    path.write_bytes(damaged)
    again = source.open()
    assert again.manifest == wanted.manifest
    np.testing.assert_array_equal(again.arrays["image"], wanted.arrays["image"])
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_error(prepared, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cache, "location", lambda *_, **__: tmp_path / "file" / "below")
    examples = data.digits(split="train", data_dir=prepared.directory).open()
    assert examples.manifest["sha256"] == prepared.hashes[0]


def test_what_is_too_large_for_memory_reads_the_same(prepared):
    held = data.digits(split="test", data_dir=prepared.directory).open()
    request = {"name": "digits", "split": "test", "data_dir": prepared.directory, "in_memory_limit": 1000}
    for _ in range(2):  # the second time, the manifest is remembered
        examples = data.tfds(**request).open()
        assert examples.arrays is None
        assert examples.manifest == held.manifest
        indices = np.array([3, 359, 3, 0])
        for name, values in examples.read(indices).items():
            np.testing.assert_array_equal(values, held.arrays[name][indices], strict=True)
        assert examples.read(np.array([], int))["image"].shape == (0, 8, 8, 1)
    stream, wanted = (data.shuffled(e, batch_size=100, seed=0) for e in (examples, held))
    for n, batch in enumerate(data.prefetch(stream, 2, 6), 2):
        np.testing.assert_array_equal(batch["image"], wanted[n]["image"])
    # Asked to be held after all, it is.
    assert data.tfds(**request | {"in_memory_limit": 2**20}).open().arrays is not None


def test_every_kind_of_field(tmp_path):
    source = data.tfds(data_dir=tmp_path, **MIXED)
    assert {n: (f.shape, f.dtype.name, f.num_classes) for n, f in source.schema.items()} == {
        "vector": ((3,), "float32", None),
        "number": ((), "int32", None),
        "label": ((), "int32", 3),
    }
    assert not (tmp_path / "jaxkit_mixed").exists()  # known before anything is prepared
    arrays = source.open().arrays
    order = np.argsort(arrays["number"])
    np.testing.assert_array_equal(arrays["vector"][order], np.arange(50)[:, None] / np.full(3, 2))
    np.testing.assert_array_equal(arrays["label"][order], np.arange(50) % 3)
    assert source.open().manifest["version"] == "1.2.0"


def test_no_folder_is_left_among_the_temporary_ones(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    data.tfds(data_dir=tmp_path, **MIXED).open()
    assert data.digits(split="test", data_dir=tmp_path / "none").schema
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_new_version_of_the_builder_is_not_answered_from_the_cache(tmp_path, monkeypatch):
    data.tfds(data_dir=tmp_path, **MIXED).open()
    monkeypatch.setattr(JaxkitMixed, "VERSION", tfds.core.Version("1.3.0"))
    monkeypatch.setattr(JaxkitMixed, "size", 7)
    examples = data.tfds(data_dir=tmp_path, **MIXED).open()
    assert (examples.size, examples.manifest["version"]) == (7, "1.3.0")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (None, r"text: is Text of .*fields=\('vector', 'number', 'label'\)"),
        (("many",), r"many: is Sequence of shape \(None,\)"),
        (("lable",), "fields: came 'lable', wanted some of vector, number, label"),
    ],
)
def test_a_field_that_cannot_be_batched_is_named(tmp_path, fields, message):
    with pytest.raises(errors.UsageError, match=message) as caught:
        data.tfds(data_dir=tmp_path, **MIXED | {"fields": fields})
    assert "\n" not in str(caught.value)


def test_an_example_that_is_not_as_promised_is_named(tmp_path, monkeypatch):
    def off(self, wrong=tfds.core.GeneratorBasedBuilder.as_data_source, **arguments):
        records = [dict(wrong(self, **arguments)[i]) for i in range(10)]
        records[7]["label"] = 12
        return records

    monkeypatch.setattr(JaxkitMixed, "as_data_source", off, raising=False)
    for limit in (0, 2**30):
        with pytest.raises(
            errors.UsageError,
            match=r"^jaxkit_mixed/train: label: came 12 at example 7, wanted 0..2 \(3 classes\); correct the ",
        ):
            data.tfds(data_dir=tmp_path, in_memory_limit=limit, **MIXED).open()


@pytest.mark.parametrize("split", ["valid", "train[:200%]", "train[:0]"])
def test_a_split_that_is_not_there(prepared, split):
    with pytest.raises(errors.UsageError, match=r"^digits/") as caught:
        data.digits(split=split, data_dir=prepared.directory).open()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["train[:0]", "test[:0%]", "train[90%:10%]"])
def test_a_part_without_examples_is_said_to_be_one(prepared, split):
    with pytest.raises(errors.UsageError, match=r"^digits/.*: came no examples, wanted at least one$"):
        data.digits(split=split, data_dir=prepared.directory).open()


def test_an_unknown_name_gets_the_nearest(tmp_path):
    with pytest.raises(errors.UsageError, match="did you mean 'mnist'") as caught:
        data.tfds(name="mnsit", split="train", data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_not_prepared_and_no_network_is_one_line(tmp_path, offline, capsys):
    source = data.tfds(name="mnist", split="train", data_dir=tmp_path)
    with pytest.raises(errors.UsageError, match=r"'mnist'.*needs") as caught:
        source.open()
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_what_needs_tensorflow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(errors.UsageError, match=r"tensorflow: pip install 'jaxkit\[tensorflow\]'$") as caught:
        data.tfds(name="jaxkit_picture", split="train", data_dir=tmp_path).open()
    assert "\n" not in str(caught.value)


def test_a_builder_that_needs_tensorflow_names_the_extra_too(tmp_path, monkeypatch):
    def builder(*_, **__):
        try:
            raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")
        except ImportError as error:
            # As TFDS does it, with words of its own.
            raise ModuleNotFoundError("Failed to construct dataset") from error

    monkeypatch.setattr(tfds, "builder", builder)
    with pytest.raises(
        errors.UsageError, match=r"'coco/2017': it needs .* tensorflow: pip install 'jaxkit\[tensorf"
    ):
        data.tfds(name="coco/2017", split="train", data_dir=tmp_path)


@pytest.mark.parametrize("fields", ["image", (), ""])
def test_fields_are_the_names_of_some(fields, tmp_path):
    with pytest.raises(errors.UsageError, match=r"mnist/train: fields: came .*, wanted a tuple of names"):
        data.tfds(name="mnist", split="train", data_dir=tmp_path, fields=fields)


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        errors.UsageError, match=r"'jaxkit_mixed'.*failed: .*; mend that, or name the dir"
    ) as caught:
        data.tfds(data_dir=tmp_path / "file" / "below", **MIXED).open()
    assert "\n" not in str(caught.value)


def test_a_format_without_random_access_says_so(tmp_path, monkeypatch):
    def refuse(self, **_):
        raise NotImplementedError("Random access data source for file format tfrecord is not supported.")

    monkeypatch.setattr(JaxkitMixed, "as_data_source", refuse, raising=False)
    with pytest.raises(errors.UsageError, match="no random access: take another data_dir"):
        data.tfds(data_dir=tmp_path, **MIXED).open()


@pytest.mark.parametrize(
    ("name", "shape"), [("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))], ids=["mnist", "cifar10"]
)
@pytest.mark.parametrize("limit", [0, 2**30], ids=["read", "in memory"])
def test_mnist_and_cifar10_go_the_same_way(mocked, name, shape, limit, tmp_path):
    source = data.tfds(
        name=name, split="train", data_dir=tmp_path, fields=("image", "label"), in_memory_limit=limit
    )
    assert source.schema["image"][:2] == (shape, np.uint8)
    assert source.schema["label"] == ((), np.int32, 10)
    examples = source.open()
    assert examples.size == 20
    assert (examples.arrays is None) == (limit == 0)
    batch = data.shuffled(examples, batch_size=8, seed=0)[3]
    assert batch["image"].shape == (8, *shape)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    assert not (tmp_path / ".jaxkit").exists()  # fake data is not remembered


def test_fake_data_beside_real_data_is_not_remembered_either(tmp_path):
    real = data.tfds(data_dir=tmp_path, **MIXED | {"split": "train[:20]"}).open()
    part = MIXED | {"split": "train[:30]"}
    with tfds.testing.mock_data(num_examples=20, data_dir=str(tmp_path)):
        assert data.tfds(data_dir=tmp_path, **part).open().size == 20
    assert data.tfds(data_dir=tmp_path, **part).open().size == 30
    np.testing.assert_array_equal(
        data.tfds(data_dir=tmp_path, **part).open().arrays["number"][:20], real.arrays["number"]
    )


def test_where_data_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXKIT_DATA", "/a")
    monkeypatch.setenv("TFDS_DATA_DIR", "/b")
    assert str(prepared_module.data_directory("/c")) == "/c"
    assert str(prepared_module.data_directory(None)) == "/a"
    monkeypatch.delenv("JAXKIT_DATA")
    assert str(prepared_module.data_directory(None)) == "/b"
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prepared_module.data_directory(None) == tmp_path / "tensorflow_datasets"
