"""A source of one's own, too large for the memory, is held to what it promises, in a line."""

import numpy as np
import pytest

from jaxkit import data
from jaxkit.data import manifests, opening, schema
from jaxkit.errors import UsageError
from jaxkit.types import Examples, Field, Source

SCHEMA = {"x": Field((4,), np.float32), "y": Field((), np.int32, 3)}
SIZE = 20


def batch(indices):
    return {"x": np.zeros((len(indices), 4), np.float32), "y": (indices % 3).astype(np.int32)}


def source(**changes):
    found = manifests.manifest(name="mine", version="", split="train", size=SIZE, schema=SCHEMA, sha256="0")
    return Source("mine/train", SCHEMA, lambda: Examples(SIZE, batch, found, None)._replace(**changes))


def failing(indices):
    raise ValueError("record 3\nis corrupt")


def raising():
    raise RuntimeError("no server")


def test_what_is_as_promised_is_read():
    found = opening.opened({"train": source()})["train"]
    np.testing.assert_array_equal(found.read(np.arange(5))["y"], [0, 1, 2, 0, 1])


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint32, np.int64])
def test_a_size_of_any_width_is_a_number(kind):
    examples = opening.opened({"train": source(size=kind(SIZE))})["train"]
    assert type(examples.size) is int
    for given in (examples, examples._replace(size=kind(SIZE))):
        assert len(data.padded(given, batch_size=8)) == 3
        assert data.shuffled(given, batch_size=8, seed=0).indices(10**9).max() < SIZE


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (source(read=lambda indices: None), r"read: came NoneType, wanted {name: array\[2, ...\]}"),
        (source(read=lambda indices: (1, 2)), "read: came tuple, wanted {name: array"),
        (
            source(read=lambda indices: {"x": [[0.0] * 4] * 2, "y": [0, 1]}),
            "read: came dict, wanted {name: array",
        ),
        (
            source(read=lambda indices: {"x": batch(indices)["x"]}),
            "read: y: came nothing, wanted 2 examples",
        ),
        (source(read=lambda indices: batch(indices[1:])), r"read: x: came float32\[1,4\], wanted 2 examples"),
        (
            source(read=lambda indices: {**batch(indices), "x": np.zeros((len(indices), 4))}),
            r"read: x: came float64\[2,4\], wanted float32\[n,4\]",
        ),
        (source(read=lambda indices: batch(indices + 12)[indices]), "read: TypeError: unhashable"),
        (
            source(read=failing),
            r"read: ValueError: record 3 is corrupt \(.*test_opening.py:\d+\); it was asked for 2",
        ),
        (source(size=SIZE / 1), "size: came 20.0, wanted an int >= 1"),
        (source(size=0), "size: came 0, wanted an int >= 1"),
        (source()._replace(open=raising), r"open: RuntimeError: no server \(.*test_opening.py:\d+\)"),
    ],
)
def test_what_is_not_is_named_before_it_is_used(given, message):
    with pytest.raises(UsageError, match=f"^config.data.train: mine/train: {message}"):
        opening.opened({"train": given})


def test_a_later_batch_is_held_to_it_too():
    read = lambda indices: batch(indices[: 2 + len(indices) // 4])
    found = opening.opened({"train": source(read=read)})["train"]
    with pytest.raises(UsageError, match=r"mine/train: read: x: came float32\[3,4\], wanted 5 examples"):
        found.read(np.arange(5))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Source("mine", {"x": Field(4, np.float32)}, raising), r"schema: x: came Field\(shape=4, "),
        (Source("mine", {"x": Field((4,), None)}, raising), "schema: x: came Field"),
        (Source("mine", {"x": ((4,), np.float32)}, raising), "schema: x: came "),
        (Source(SCHEMA, raising, "train"), r"came Source\(dict, function, 'train' \(str\)\), wanted Source"),
        (Source("mine", SCHEMA, None), r"came Source\('mine' \(str\), dict, NoneType\), wanted Source"),
    ],
)
def test_what_no_source_is_made_of_is_named(given, message):
    with pytest.raises(UsageError, match=f"^config.data.train: {message}"):
        schema.fields({"train": given}, "x")
