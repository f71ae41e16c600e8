"""Pinned data opens only where its content is what the config says; copies of remote data are what is there."""

import json

import fsspec
import numpy as np
import pytest

from jaxkit import cli, configs, data
from jaxkit.data import locations, pinning
from jaxkit.errors import UsageError


def sources(last: int = 9):
    return {
        "train": data.arrays({"x": np.arange(5)}, name="mine", split="train"),
        "test": data.arrays({"x": np.array([1, last])}, name="mine", split="test"),
    }


def manifests(**splits):
    return {split: source.open().manifest for split, source in splits.items()}


def test_the_same_content_opens():
    ref = pinning.reference(manifests(**sources()))
    found = data.pinned(ref=ref, **sources())
    assert found["test"].open().read(np.array([1]))["x"].tolist() == [9]
    assert found["train"].schema == sources()["train"].schema


def test_other_content_is_refused_by_every_split():
    found = data.pinned(ref=pinning.reference(manifests(**sources())), **sources(last=8))
    for split in found:
        with pytest.raises(
            UsageError, match=r"config\.data\.ref: other data is here: wanted mine@sha256:.*train: 5 examples"
        ):
            found[split].open()


def test_a_file_of_manifests_says_what_differs(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(manifests(**sources())))
    data.pinned(ref=str(tmp_path / "mine.json"), **sources())["train"].open()
    longer = sources() | {"test": data.arrays({"x": np.arange(3)}, name="mine", split="test")}
    with pytest.raises(UsageError, match=r"here: test: size: recorded 2, found 3; sha256: recorded"):
        data.pinned(ref=str(tmp_path / "mine.json"), **longer)["train"].open()


@pytest.mark.parametrize("ref", ["digits", "digits@sha256:abc", "no/such/file.json", "digits@md5:" + "0" * 32])
def test_what_is_no_reference_is_refused_at_once(ref):
    with pytest.raises(UsageError, match=r"config\.data\.ref: came .*, wanted NAME@sha256:HEX or a JSON file"):
        data.pinned(ref=ref, **sources())


def test_the_command_names_the_reference_and_a_config_pins_by_it(capsys, tmp_path):
    arguments = ["data", "experiments/image_classification.py", "--config=configs/digits.py"]
    assert cli.main([*arguments, "--json", f"--write={tmp_path / 'digits.json'}"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ref"].startswith("digits@sha256:")
    assert found["manifests"] == json.loads((tmp_path / "digits.json").read_text())
    splits = {split: {"call": "jaxkit.data.digits", "split": split} for split in ("train", "test")}
    for ref in (found["ref"], str(tmp_path / "digits.json")):
        pinned = configs.build(configs.freeze({"call": "jaxkit.data.pinned", "ref": ref, **splits}))
        assert pinned["test"].open().size == 360
    assert cli.main(arguments) == 0
    assert found["ref"] in capsys.readouterr().out


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """A bucket of fsspec's own, in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.pipe({"/bucket/data/a.txt": b"one", "/bucket/data/deep/b.txt": b"two"})
    locations.local.cache_clear()
    yield system
    locations.local.cache_clear()
    if system.exists("/bucket"):
        system.rm("/bucket", recursive=True)


def test_what_is_in_a_bucket_is_copied_once_and_anew_when_it_changes(bucket):
    copy = locations.local("memory://bucket/data")
    assert (copy / "deep/b.txt").read_text() == "two"
    (copy / "mark").touch()
    locations.local.cache_clear()
    assert (locations.local("memory://bucket/data") / "mark").exists()
    bucket.pipe("/bucket/data/a.txt", b"three")
    locations.local.cache_clear()
    assert (locations.local("memory://bucket/data") / "a.txt").read_text() == "three"
    assert not (copy / "mark").exists()


def test_without_a_network_the_copy_serves(bucket, monkeypatch):
    copy = locations.local("memory://bucket/data")
    locations.local.cache_clear()

    def fails(*arguments, **named):
        raise ConnectionError("no network")

    with monkeypatch.context() as patch:
        patch.setattr(type(bucket), "find", fails)
        assert locations.local("memory://bucket/data") == copy
        with pytest.raises(UsageError, match=r"memory://other cannot be read \(ConnectionError: no network\)"):
            locations.local("memory://other")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("memory://nothing/there", "there is nothing at memory://nothing/there"),
        ("nonsense://a/b", r"cannot be opened \(.*nonsense"),
        ("gs://bucket/data", r"pip install jaxkit\[gcs\]"),
        ("s3://bucket/data", r"pip install jaxkit\[s3\]"),
        ("dvc:data", r"pip install jaxkit\[dvc\]"),
    ],
)
def test_a_place_that_cannot_be_is_one_line(bucket, monkeypatch, place, message):
    for library in ("gcsfs", "s3fs", "dvc"):
        monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(UsageError, match=message):
        data.digits(split="train", data_dir=place)


def test_a_data_set_in_a_bucket_is_read_from_its_copy(bucket, tmp_path):
    here = data.digits(split="test", data_dir=tmp_path / "data")
    wanted = here.open().manifest
    for path in (tmp_path / "data/digits").rglob("*"):
        if path.is_file():
            bucket.pipe(f"/bucket/data/{path.relative_to(tmp_path / 'data')}", path.read_bytes())
    assert data.digits(split="test", data_dir="memory://bucket/data").open().manifest == wanted
