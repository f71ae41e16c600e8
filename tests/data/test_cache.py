import json

import numpy as np
import pytest

from jaxkit.data import cache, manifests
from jaxkit.types import Field

SCHEMA = {
    "image": Field((3, 3), np.dtype(np.uint8)),
    "label": Field((), np.dtype(np.int32), 10),
    "weight": Field((2,), np.dtype(np.float32)),
    "flag": Field((), np.dtype(bool)),
}


def arrays(size=5):
    generator = np.random.default_rng(0)
    return {
        name: generator.integers(0, 2, (size, *field.shape)).astype(field.dtype) for name, field in SCHEMA.items()
    }


def header(size=5):
    manifest = manifests.manifest(name="a", version="1", split="s", size=size, schema=SCHEMA, sha256="0")
    return {"manifest": manifest, "prepared": "/some/where", "stamp": [["1"], [["f", 1, 2]]]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "file"


def test_what_was_written_is_read(path):
    cache.write(path, header(), arrays())
    found = cache.read_header(path)
    assert {name: found[name] for name in header()} == header()
    held = cache.read_arrays(path, found)
    assert held.keys() == SCHEMA.keys()
    for name, array in arrays().items():
        np.testing.assert_array_equal(held[name], array, strict=True)
        assert held[name].flags.aligned
        assert not held[name].flags.writeable
    assert [file.name for file in path.parent.iterdir()] == ["file"]  # nothing temporary is left


def test_a_manifest_alone_is_kept_too(path):
    cache.write(path, header(), None)
    found = cache.read_header(path)
    assert found["manifest"] == header()["manifest"]
    assert cache.read_arrays(path, found) is None


def test_any_flipped_byte_is_noticed(path):
    cache.write(path, header(), arrays())
    whole = path.read_bytes()
    start = cache.read_header(path)["start"]
    padding = range(start, start + -start % 64)  # before the arrays: says nothing, may be anything
    for place in sorted(set(range(len(whole))) - set(padding)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        found = cache.read_header(path)
        assert found is None or cache.read_arrays(path, found) is None, place


@pytest.mark.parametrize("keep", [0, 1, 80, 300, -1])
def test_a_file_cut_short_is_noticed(path, keep):
    cache.write(path, header(), arrays())
    path.write_bytes(path.read_bytes()[:keep])
    found = cache.read_header(path)
    assert found is None or cache.read_arrays(path, found) is None


def test_no_file_is_no_error(path):
    assert cache.read_header(path) is None


def test_what_cannot_be_written_is_no_error(path, monkeypatch):
    path.parent.write_text("a file where a directory should be")
    cache.write(path, header(), arrays())
    path.parent.unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    cache.write(path, header(), arrays())
    before = path.read_bytes()
    monkeypatch.setattr(cache.os, "replace", full)
    cache.write(path, header(size=4), arrays(4))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_the_stamp_tells_when_files_change(tmp_path):
    prepared = tmp_path / "digits" / "1.0.0"
    assert cache.stamp(prepared) is None
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").write_text("{}")
    assert cache.stamp(prepared) is None  # no records
    (prepared / "digits-train.array_record-00000-of-00001").write_text("12")
    first = cache.stamp(prepared)
    assert json.loads(json.dumps(first)) == first == cache.stamp(prepared)
    (tmp_path / "digits" / "incomplete.XYZ_1.0.0").mkdir()
    assert cache.stamp(prepared) == first  # another process prepares
    (prepared / "digits-train.array_record-00000-of-00001").write_text("123")
    second = cache.stamp(prepared)
    assert second != first
    (tmp_path / "digits" / "1.1.0").mkdir()
    assert cache.stamp(prepared) != second  # a newer version


def test_the_place_is_beside_the_data_or_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    beside = cache.location(tmp_path, title="a/b", key=[1])
    assert beside.parent == tmp_path / ".jaxkit"
    assert cache.location(tmp_path, title="a/b", key=[2]) != beside
    elsewhere = cache.location(tmp_path / "missing", title="a/b", key=[1])
    assert elsewhere.parent == tmp_path / "cache" / "jaxkit"
