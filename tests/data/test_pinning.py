"""Pinned data opens only where its content is what the config says; copies of remote data are what is there."""

import concurrent.futures
import hashlib
import json
import sys
import time
import types
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest

from jaxkit import cli, configs, data
from jaxkit.data import locations, opening, pinning, schema
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


def test_the_reference_does_not_depend_on_the_order_of_the_splits():
    named = {name: data.arrays({"x": np.arange(3)}, name=f"mine-{name}") for name in ("train", "test")}
    ref = pinning.reference(manifests(**named))
    assert ref == pinning.reference(manifests(**dict(sorted(named.items()))))
    assert ref.startswith("mine-test@")


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


def test_the_split_that_cannot_be_opened_is_named_whichever_is_asked_for():
    labels = data.arrays({"y": np.array([0, 2])}, name="mine", split="test", num_classes={"y": 3})
    off = {**labels.open().arrays, "y": np.array([0, 7], np.int32)}
    check = lambda: schema.check(off, labels.schema, where=labels.name)
    splits = sources() | {"test": labels._replace(open=check)}
    with pytest.raises(
        UsageError, match=r"^config\.data\.test: mine/test: y: came 7 at example 1, wanted 0\.\.2 "
    ):
        opening.opened(data.pinned(ref=f"mine@sha256:{'0' * 64}", **splits))


def test_a_file_that_is_not_there_is_said_to_be_the_data(tmp_path):
    missing = sources()["train"]._replace(open=lambda: np.load(tmp_path / "x.npy"))
    with pytest.raises(UsageError, match=r"^config\.data\.train: mine/train: cannot be read \(.*x\.npy'\); is it"):
        opening.opened({"train": missing})


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


def test_of_two_that_begin_together_one_copies(bucket, monkeypatch):
    copies, get = [], type(bucket).get_file

    def slow(system, source, target, **options):
        copies.append(source)
        time.sleep(0.05)
        get(system, source, target, **options)

    monkeypatch.setattr(type(bucket), "get_file", slow)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        found = list(threads.map(locations.local, ["memory://bucket/data"] * 4))
    assert (found[0] / "deep/b.txt").read_text() == "two"
    assert len(set(found)) == 1
    assert len(copies) == 2


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


class Repository:
    """What `dvc.api.DVCFileSystem` is to a caller: files by revision, their digests, no times."""

    # Version 2 has other bytes of the same size; in the working tree (None) version 2 is checked out.
    versions: ClassVar = {"v1": b"one", "v2": b"two", None: b"two"}

    def __init__(self, *, rev=None):
        if rev not in self.versions:
            raise LookupError(f"unknown Git revision {rev!r}")
        self.rev = rev

    def find(self, path, detail):
        assert detail
        content = self.versions[self.rev]
        md5 = hashlib.md5(content).hexdigest()
        info = {"size": len(content), "type": "file", "repo": self, "dvc_info": {"md5": md5, "size": len(content)}}
        # As DVC has it: of a file in the working tree the digest is told beside it alone.
        return {f"/{path}/deep/a.txt": info if self.rev is None else {**info, "md5": md5}}

    def get_file(self, remote, local):
        assert remote == "data/digits/deep/a.txt"
        Path(local).write_bytes(self.versions[self.rev])


@pytest.fixture
def repository(bucket, monkeypatch):
    """A DVC repository, as far as a stand-in for its library goes."""
    made = type("Changing", (Repository,), {"versions": dict(Repository.versions)})
    api = types.ModuleType("dvc.api")
    api.DVCFileSystem = made
    monkeypatch.setitem(sys.modules, "dvc", types.ModuleType("dvc"))
    monkeypatch.setitem(sys.modules, "dvc.api", api)
    return made


@pytest.mark.parametrize("place", ["dvc:data/digits", "dvc:data/digits@v1", "dvc:data/digits@v2"])
def test_what_is_in_a_dvc_repository_is_copied_at_its_revision(repository, place):
    revision = place.partition("@")[2] or None
    copy = locations.local(place)
    assert (copy / "deep/a.txt").read_bytes() == repository.versions[revision]
    (copy / "mark").touch()
    locations.local.cache_clear()
    assert (locations.local(place) / "mark").exists()
    # Of the same size: only the digest tells.
    repository.versions[revision] = b"six"
    locations.local.cache_clear()
    assert (locations.local(place) / "deep/a.txt").read_bytes() == b"six"
    assert not (copy / "mark").exists()


def test_a_revision_that_dvc_does_not_know_is_one_line(repository):
    with pytest.raises(UsageError, match=r"data_dir: dvc:data/digits@v9 cannot be read \(LookupError: unknown"):
        data.digits(split="train", data_dir="dvc:data/digits@v9")


def test_a_data_set_in_a_bucket_is_read_from_its_copy(bucket, tmp_path):
    here = data.digits(split="test", data_dir=tmp_path / "data")
    wanted = here.open().manifest
    for path in (tmp_path / "data/digits").rglob("*"):
        if path.is_file():
            bucket.pipe(f"/bucket/data/{path.relative_to(tmp_path / 'data')}", path.read_bytes())
    assert data.digits(split="test", data_dir="memory://bucket/data").open().manifest == wanted
