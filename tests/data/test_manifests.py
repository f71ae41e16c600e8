import hashlib
import json

import numpy as np
import pytest

from jaxkit.data import manifests
from jaxkit.types import Field


def schema_of(arrays):
    return {name: Field(array.shape[1:], array.dtype) for name, array in arrays.items()}


def content_hash(arrays, schema=None):
    return manifests.content_hash([arrays], schema=schema or schema_of(arrays))


def records(size=10):
    generator = np.random.default_rng(0)
    return {
        "image": generator.integers(0, 17, (size, 4, 4, 1)).astype(np.uint8),
        "label": generator.integers(0, 10, size).astype(np.int32),
    }


def test_the_hash_is_the_one_described():
    # Two records, by hand: the header with its length, then a and b of record 0, a and b of record 1.
    header = b'[["a", "uint8", []], ["b", "int16", [2]]]'
    text = b"jaxkit records 1\n" + len(header).to_bytes(8, "little") + header
    text += b"\x05" + b"\x01\x00\x02\x00" + b"\x06" + b"\x03\x00\x04\x00"
    arrays = {"b": np.array([[1, 2], [3, 4]], np.int16), "a": np.array([5, 6], np.uint8)}
    assert content_hash(arrays) == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("cut", [1, 3, 9])
def test_cutting_into_chunks_changes_nothing(cut, monkeypatch):
    arrays = records()
    whole = content_hash(arrays)
    chunks = ({n: a[i : i + cut] for n, a in arrays.items()} for i in range(0, 10, cut))
    assert manifests.content_hash(chunks, schema=schema_of(arrays)) == whole
    monkeypatch.setattr(manifests, "_CHUNK_BYTES", 50)  # two records of 20 bytes at a time
    assert content_hash(arrays) == whole


def test_order_of_fields_and_layout_in_memory_change_nothing():
    arrays = records()
    other = {n: np.asfortranarray(arrays[n]) for n in reversed(arrays)}
    other["label"] = other["label"].astype(">i4")
    assert content_hash(other, schema_of(arrays)) == content_hash(arrays)


def variants():
    arrays = records()
    image, label = arrays["image"], arrays["label"]
    changed = image.copy()
    changed[7, 3, 3, 0] ^= 1
    swapped = np.arange(10)
    swapped[[2, 3]] = 3, 2
    return {
        "one bit": {"image": changed, "label": label},
        "order of records": {"image": image[swapped], "label": label[swapped]},
        "one record less": {"image": image[:-1], "label": label[:-1]},
        "shape": {"image": image.reshape(10, 2, 8, 1), "label": label},
        "dtype": {"image": image, "label": label.view(np.uint32)},
        "name": {"picture": image, "label": label},
        "names exchanged": {"label": image, "image": label},
        "a field less": {"image": image},
    }


def test_every_change_of_content_changes_the_hash():
    hashes = [content_hash(arrays) for arrays in (records(), *variants().values())]
    assert len(set(hashes)) == len(hashes) == 9


def test_fields_do_not_run_into_each_other():
    # The same bytes in the same order, cut elsewhere.
    first = {"a": np.array([[1, 2]], np.uint8), "b": np.array([[3]], np.uint8)}
    second = {"a": np.array([[1]], np.uint8), "b": np.array([[2, 3]], np.uint8)}
    assert content_hash(first) != content_hash(second)


def test_a_manifest_survives_json_and_tells_what_differs():
    arrays = records()
    schema = schema_of(arrays) | {"label": Field((), np.dtype(np.int32), 10)}
    first = manifests.manifest(name="a", version="1", split="s", size=10, schema=schema, sha256="0")
    again = json.loads(json.dumps(first))
    assert again == first
    assert manifests.schema_of(again) == schema
    assert manifests.differences(first, again) == []
    assert manifests.differences(first, again | {"size": 9, "sha256": "1"}) == [
        "size: recorded 10, found 9",
        "sha256: recorded 0, found 1",
    ]
