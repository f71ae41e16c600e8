"""Digests: whatever bit changes, they change."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit.runs import digest, record

VALUES = np.linspace(-1, 1, 600, dtype=np.float32)


@pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.bfloat16, jnp.complex64, jnp.int32, jnp.uint8, jnp.int4, jnp.bool_]
)
def test_one_changed_value_changes_the_fold(dtype):
    values = np.arange(600) % 2
    array = jnp.asarray(values, dtype)
    values[300] = 1 - values[300]
    changed = jnp.asarray(values, dtype)
    assert int(digest.fold({"w": array})) != int(digest.fold({"w": changed}))


def test_of_a_complex_number_both_parts_count():
    numbers = [1, 1j, 1 + 1j, -1j, 0]
    assert len({int(digest.fold({"w": jnp.array([number], jnp.complex64)})) for number in numbers}) == 5


@pytest.mark.parametrize("distance", [1, 2, 64, 256, 512])
def test_values_that_change_places_change_the_fold(distance):
    # 1.0 and 2.0 differ in bits 23 to 29: places a power of two apart can cancel in a plain weighted sum.
    array = np.ones(600, np.float32)
    array[distance] = 2.0
    moved = array.copy()
    moved[0], moved[distance] = 2.0, 1.0
    assert int(digest.fold(jnp.asarray(array))) != int(digest.fold(jnp.asarray(moved)))


def test_every_single_bit_counts():
    bits = VALUES[:8].view(np.uint32)
    folds = {int(digest.fold(jnp.asarray(bits)))}
    for place in range(8):
        for bit in range(32):
            flipped = bits.copy()
            flipped[place] ^= np.uint32(1) << np.uint32(bit)
            folds.add(int(digest.fold(jnp.asarray(flipped))))
    assert len(folds) == 1 + 8 * 32


@pytest.mark.parametrize("shape", [(), (0,), (7,), (1, 9), (16, 5), (257, 3), (3, 3, 62, 4), (2, 1, 31, 1)])
def test_of_any_shape_every_value_and_every_exchange_counts(shape):
    size = int(np.prod(shape))
    # Zeros and ones throughout are what no turn of the bits changes.
    for low, high in ((0, -1), (0, 1), (1, 2), (0, -(2**31))):
        folds = {int(digest.fold(jnp.full(shape, low, jnp.int32)))}
        places = np.unique(np.linspace(0, size - 1, min(size, 40)).astype(int)) if size else []
        for place in places:
            array = np.full(size, low, np.int32)
            array[place] = high
            folds.add(int(digest.fold(jnp.asarray(array.reshape(shape)))))
        assert len(folds) == 1 + len(places)


def test_the_fold_of_a_matrix_needs_little_memory():
    """A run folds its parameters while it holds all that an update needs."""
    matrix = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    compiled = jax.jit(digest.fold).lower(matrix).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 512 * 512 * 4 / 10


def test_the_chain_depends_on_all_before():
    first = digest.chain("", 1, {"loss": 0.5}, 7)
    assert digest.chain(first, 2, {"loss": 0.5}, 7) != digest.chain("", 2, {"loss": 0.5}, 7)
    assert (
        len({digest.chain("", 1, {"loss": value}, 7) for value in (0.5, np.nextafter(0.5, 1), 1, "nan", None)})
        == 5
    )


def test_of_the_speed_five_digits_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(record.time, "time", lambda: 1.5)
    recorder = record.recorder(tmp_path / "a", after=0)
    recorder.append(7, {"loss": 1 / 3, "none": None}, 0, {"steps": 123.456})
    recorder.close()
    row = json.loads((tmp_path / "a").read_text())
    assert row.pop("digest") == recorder.noted()["digest"]
    assert row == {"step": 7, "wall": 1.5, "loss": 1 / 3, "none": None, "speed": {"steps": 123.46}}


def test_rows_that_come_together_are_those_that_come_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(record.time, "time", lambda: 1.5)
    rows, noted = [(step, {"loss": 1 / step, "none": None}, 7 * step) for step in (1, 2, 3)], []
    for name, ways in {"a": [rows], "b": [[row] for row in rows]}.items():
        recorder = record.recorder(tmp_path / name, after=0)
        for some in ways:
            recorder.extend(some)
        recorder.close()
        noted.append(recorder.noted())
    assert noted[0] == noted[1]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_sha256_depends_on_names_shapes_and_dtypes():
    trees = [{"a": VALUES}, {"b": VALUES}, {"a": VALUES.reshape(2, -1)}, {"a": VALUES.view(np.int32)}]
    assert len({digest.sha256(tree) for tree in trees}) == 4
