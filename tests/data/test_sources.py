import re

import numpy as np
import pytest

from jaxkit import data, errors
from jaxkit.data import opening


def test_arrays_reads_in_the_order_asked_for():
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    examples = data.arrays({"x": x, "y": np.arange(6)}).open()
    batch = examples.read(np.array([4, 0, 4]))
    np.testing.assert_array_equal(batch["x"], x[[4, 0, 4]])
    assert batch["y"].tolist() == [4, 0, 4]
    assert examples.size == 6
    with pytest.raises(IndexError):
        examples.read(np.array([6]))


def test_the_schema_is_known_before_open_and_holds():
    source = data.arrays(
        {"x": np.zeros((3, 2)), "flag": [True, False, True], "y": [0, 1, 9]},
        name="mine",
        split="train",
        num_classes={"y": 10},
    )
    assert source.name == "mine/train"
    assert {n: (f.shape, np.dtype(f.dtype).name, f.num_classes) for n, f in source.schema.items()} == {
        "x": ((2,), "float32", None),
        "flag": ((), "bool", None),
        "y": ((), "int32", 10),
    }
    batch = source.open().read(np.arange(2))
    assert {n: (a.shape[1:], a.dtype) for n, a in batch.items()} == {
        n: (f.shape, f.dtype) for n, f in source.schema.items()
    }


def test_the_manifest_tells_contents_apart():
    first, same, other = (data.arrays({"x": x}).open().manifest for x in ([1, 2], [1, 2], [1, 3]))
    assert first == same
    assert first["sha256"] != other["sha256"]
    assert (first["name"], first["split"], first["size"]) == ("arrays", "all", 2)


def test_the_users_array_stays_writable_and_ours_is_not():
    x = np.zeros((3, 2), np.float32)
    examples = data.arrays({"x": x}).open()
    x[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        examples.arrays["x"][0] = 2


def test_numbers_of_another_machine_become_those_of_this_one():
    values = np.array([1.5, np.inf, -2.0])
    source = data.arrays({"x": values.astype(">f4"), "y": np.arange(3, dtype=">i2")})
    assert [np.dtype(field.dtype).isnative for field in source.schema.values()] == [True, True]
    np.testing.assert_array_equal(source.open().arrays["x"], values.astype(np.float32))
    ours = data.arrays({"x": values.astype(np.float32), "y": np.arange(3, dtype=np.int16)})
    assert source.open().manifest == ours.open().manifest


@pytest.mark.parametrize(
    ("fields", "num_classes", "message"),
    [
        ({}, None, "at least one field"),
        (np.zeros(3), None, r"fields: came float64\[3\], wanted a dict"),
        ({"x": [1, 2]}, 3, "num_classes: came 3 .*, wanted a dict"),
        ({"x": []}, None, "no examples"),
        ({"x": 3}, None, "x: came int64"),
        ({"x": ["a", "b"]}, None, "x: came <U1"),
        ({"x": [[1, 2], [3]]}, None, "x: setting an array element with a sequence"),
        ({"x": [1, 2], "y": [1, 2, 3]}, None, "y: came int32"),
        ({"x": [1, 2]}, {"y": 2}, "classes only for fields"),
        ({"x": [1, 2]}, {"x": 2}, "x: came 2 at example 1, wanted 0..1"),
        ({"x": [2**40]}, None, "does not fit into int32"),
        ({"x": [1.0, 1e300]}, None, "x: came a number that does not fit into float32"),
        ({"x": np.ma.masked_array([1.0, 2.0], [True, False])}, None, "x: came a masked array"),
        ({"x": np.zeros(3, [("a", "f4")])}, None, r"x: came \[\('a'"),
        ({"x": np.zeros(3, np.longdouble)}, None, "x: came (longdouble|float128)"),
    ],
)
def test_what_is_no_data_is_named(fields, num_classes, message):
    with pytest.raises(errors.UsageError, match=message) as caught:
        data.arrays(fields, name="mine", num_classes=num_classes)
    assert str(caught.value).startswith("mine/all: ")
    assert "\n" not in str(caught.value)


def own(*, in_memory=True, **changes):
    """A source of one's own, and what is off in it."""
    source = data.arrays({"x": np.zeros((5, 2)), "y": np.arange(5)}, name="mine", num_classes={"y": 5})
    examples = source.open()
    more = {} if in_memory else {"arrays": None}
    return source._replace(open=lambda: examples._replace(**more, **changes))


X, Y = np.zeros((5, 2), np.float32), np.arange(5, dtype=np.int32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"manifest": None}, "its manifest lacks 'name'; jaxkit.data.manifests.manifest makes one"),
        ({"manifest": {"name": "mine"}}, "its manifest lacks 'version'"),
        # Indices are promised to be within bounds on the devices: the last example would be read again and again.
        ({"size": 7}, "size: came 7, but its arrays have 5 examples"),
        ({"arrays": {"x": X}}, "came without 'y', wanted the fields x, y"),
        ({"arrays": {"x": X, "y": Y + 1}}, "y: came 5 at example 4, wanted 0..4"),
    ],
)
def test_a_source_of_ones_own_that_is_off_is_named_when_it_is_opened(changes, message):
    with pytest.raises(errors.UsageError, match="config.data.train: mine/all: " + re.escape(message)):
        opening.opened({"train": own(**changes)})


def test_what_opens_to_something_else_is_named():
    with pytest.raises(errors.UsageError, match=r"mine/all: open: came dict, wanted types\.Examples"):
        opening.opened({"train": own()._replace(open=dict)})
