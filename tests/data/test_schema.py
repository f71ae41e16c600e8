import numpy as np
import pytest

from jaxkit import errors
from jaxkit.data import schema
from jaxkit.types import Field, Source

SCHEMA = {"image": Field((8, 8, 1), np.uint8), "label": Field((), np.int32, 10)}

MEND = "correct the data, or the number of classes"


def good():
    return {"image": np.zeros((4, 8, 8, 1), np.uint8), "label": np.array([0, 9, 3, 1], np.int32)}


def test_good_examples_pass():
    schema.check(good(), SCHEMA, where="mine/all")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "mine/all: came without 'label', wanted the fields image, label"),
        ({"more": np.zeros(4)}, "mine/all: came with 'more', wanted the fields image, label"),
        (
            {"image": np.zeros((4, 8, 7, 1), np.uint8)},
            "mine/all: image: came uint8[4,8,7,1], wanted uint8[n,8,8,1]",
        ),
        (
            {"image": np.zeros((4, 8, 8, 1), np.float32)},
            "mine/all: image: came float32[4,8,8,1], wanted uint8[n,8,8,1]",
        ),
        (
            {"label": np.zeros((4, 1), np.int32)},
            "mine/all: label: came int32[4,1], wanted int32[n]",
        ),
        (
            {"label": np.array([0, 9, 12, 1], np.int32)},
            "mine/all: label: came 12 at example 2, wanted 0..9 (10 classes); " + MEND,
        ),
        (
            {"label": np.array([0, -1, 12, 1], np.int32)},
            "mine/all: label: came -1 at example 1, wanted 0..9 (10 classes); " + MEND,
        ),
    ],
)
def test_the_field_that_is_off_is_named(change, message):
    arrays = {name: array for name, array in (good() | change).items() if array is not None}
    with pytest.raises(errors.UsageError) as caught:
        schema.check(arrays, SCHEMA, where="mine/all")
    assert str(caught.value) == message


def test_fields_of_different_lengths_are_no_batch():
    with pytest.raises(errors.UsageError, match=r"label: came int32\[3\].*4,.*3"):
        schema.check(good() | {"label": np.zeros(3, np.int32)}, SCHEMA, where="mine/all")


def test_cast_keeps_values_or_raises():
    assert schema.cast(np.array([2**31 - 1]), dtype=np.int32, where="x").tolist() == [2**31 - 1]
    with pytest.raises(errors.UsageError, match="x: came 2147483648, which does not fit into int32"):
        schema.cast(np.array([0, 2**31]), dtype=np.int32, where="x")
    with pytest.raises(errors.UsageError, match="came -1, which does not fit into uint8"):
        schema.cast(np.array([-1]), dtype=np.uint8, where="x")
    with pytest.raises(errors.UsageError, match=r"came float64\[1\], wanted int32"):
        schema.cast(np.array([0.5]), dtype=np.int32, where="x")


def of(**fields):
    return Source("mine", {name: Field(shape, np.float32) for name, shape in fields.items()}, lambda: None)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (of(image=(8,)), "config.data: came Source, wanted {split: Source}"),
        ({"test": of(image=(8,))}, r"config.data: came \['test'\], wanted a split called 'train'"),
        ({"train": None}, "config.data.train: came NoneType, wanted a Source, such as jaxkit.data.arrays gives"),
        (
            {"train": of(tokens=(9,))},
            r"config.data.train: came the fields \['tokens'\], but the experiment reads 'image'; is it the right",
        ),
        (
            {"train": of(image=(8,)), "test": of(image=(9,))},
            r"config.data.test: image: came the shape \(9,\), wanted that of config.data.train, \(8,\)",
        ),
    ],
)
def test_the_fields_that_an_experiment_reads_are_there_in_every_split(sources, message):
    with pytest.raises(errors.UsageError, match=message):
        schema.fields(sources, "image")
