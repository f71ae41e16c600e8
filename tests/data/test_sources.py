import numpy as np
import pytest

from jaxkit import data, errors


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


@pytest.mark.parametrize(
    ("fields", "num_classes", "message"),
    [
        ({}, None, "at least one field"),
        (np.zeros(3), None, r"fields: came float64\[3\], wanted a dict"),
        ({"x": [1, 2]}, 3, "num_classes: came 3 .*, wanted a dict"),
        ({"x": []}, None, "no examples"),
        ({"x": 3}, None, "x: came int64"),
        ({"x": ["a", "b"]}, None, "x: came <U1"),
        ({"x": [1, 2], "y": [1, 2, 3]}, None, "y: came int32"),
        ({"x": [1, 2]}, {"y": 2}, "classes only for fields"),
        ({"x": [1, 2]}, {"x": 2}, "x: came 2 at example 1, wanted 0..1"),
        ({"x": [2**40]}, None, "does not fit into int32"),
    ],
)
def test_what_is_no_data_is_named(fields, num_classes, message):
    with pytest.raises(errors.UsageError, match=message) as caught:
        data.arrays(fields, name="mine", num_classes=num_classes)
    assert str(caught.value).startswith("mine/all: ")
    assert "\n" not in str(caught.value)
