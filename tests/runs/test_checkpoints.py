"""Checkpoints in both forms: what is restored is what was saved, whatever the training does meanwhile."""

import errno
import hashlib
import json
import os

import blake3
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxkit.runs import arrays, checkpoints, files, saving, verifying

TREE = {
    "state": {
        "kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
        "short": np.linspace(0, 1, 5).astype(ml_dtypes.bfloat16),
        "step": np.array(7, np.int32),
        "seen": np.array([True, False]),
        "nan": np.array([np.nan, -0.0, np.inf], np.float32),
    },
    "interval": {"loss": (np.array(0.1, np.float64), np.array(2**60 + 1, np.int64))},
}


def same(one, other) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        assert (a.dtype, a.shape, np.asarray(a).tobytes()) == (b.dtype, b.shape, np.asarray(b).tobytes())


def like(tree):
    """As a run asks for it: float64 and int64 are what it has on the host."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)


@pytest.mark.parametrize("sharded", [False, True])
def test_what_is_restored_is_what_was_saved(tmp_path, sharded):
    checkpoints.save(tmp_path, 7, TREE, sharded=sharded)
    step, found = checkpoints.restore(tmp_path, like(TREE), pytest.fail)
    assert step == 7
    same(found, TREE)


@pytest.mark.parametrize("sharded", [False, True])
def test_damage_to_either_form_is_seen(tmp_path, sharded):
    checkpoints.save(tmp_path, 7, TREE, sharded=sharded)
    assert checkpoints.verify(tmp_path / "7") is None
    for path in sorted((tmp_path / "7").rglob("*")):
        if path.is_file() and path.name != checkpoints.MANIFEST:
            content = path.read_bytes()
            path.write_bytes(content[:-1])
            assert "is not what was written" in (checkpoints.verify(tmp_path / "7") or ""), path
            path.write_bytes(content)


def test_keys_and_complex_numbers_and_eight_bit_floats_and_nothing_are_kept(tmp_path):
    tree = {
        "none": np.zeros((0, 3)),
        "complex": np.array([[1 + 2j, -0.0j]], np.complex64),
        "key": jax.random.key(3),
        "small": np.array([0.5, 1.0]).astype(ml_dtypes.float8_e4m3fn),
    }
    arrays.write(tmp_path, arrays.pack(tree))
    found = arrays.read(tmp_path, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree))
    assert found["none"].shape == (0, 3)
    assert found["key"] == tree["key"]
    same(found["complex"], tree["complex"])
    assert found["small"].dtype == tree["small"].dtype
    np.testing.assert_array_equal(found["small"].astype(np.float32), [0.5, 1.0])


def test_a_large_state_is_many_files_which_other_programs_read(tmp_path, monkeypatch):
    safetensors = pytest.importorskip("safetensors.numpy")
    monkeypatch.setattr(arrays, "PART_BYTES", 100)
    tree = {f"layer_{n}": np.full((5, 4), n, np.float32) for n in range(4)}
    hashes = arrays.write(tmp_path, arrays.pack(tree))
    assert list(hashes) == [f"state-{n}.safetensors" for n in range(4)]
    assert hashes == verifying.hashes(tmp_path)
    assert {kind for kind, _, _ in (found.partition(":") for found in hashes.values())} == {"blake3"}
    same(arrays.read(tmp_path, tree), tree)
    np.testing.assert_array_equal(
        safetensors.load_file(tmp_path / "state-2.safetensors")["layer_2"], tree["layer_2"]
    )


@pytest.mark.parametrize("where", ["the disk", "refuses at open", "refuses at write", "has no such flag"])
def test_a_file_system_that_wants_its_cache_gets_the_same_bytes(tmp_path, monkeypatch, where):
    packed = arrays.pack({"w": np.arange(3000, dtype=np.float32), "b": np.array([True])})
    opened, written, ways = os.open, os.write, []

    def open_it(path, flags, *rest):
        ways.append(flags & os.O_DIRECT)
        if where == "refuses at open" and ways[-1]:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        return opened(path, flags, *rest)

    def write_it(file, content):
        if where == "refuses at write" and ways[-1]:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return written(file, content[:4096])

    monkeypatch.setattr(os, "open", open_it)
    monkeypatch.setattr(os, "write", write_it)
    if where == "has no such flag":
        monkeypatch.setattr(os, "O_DIRECT", 0)
    hashes = arrays.write(tmp_path, packed)
    monkeypatch.undo()
    (part,) = packed.parts
    content = (tmp_path / part.name).read_bytes()
    assert content == part.image[: part.size].tobytes()
    assert len(content) % 4096 != 0
    assert hashes == {part.name: f"blake3:{blake3.blake3(content).hexdigest()}"}
    assert len(ways) == (2 if "refuses" in where else 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree | {"more": np.zeros(2)}, r"has no more, which this config makes"),
        (lambda tree: {"a": tree["a"]}, r"holds b, which this config does not make"),
        (
            lambda tree: tree | {"b": np.zeros((3, 2))},
            r"b: holds float64\[2, 3\], this config makes .*\[3, 2\]",
        ),
        (
            lambda tree: tree | {"a": np.zeros(2, np.int32)},
            r"a: holds float32\[2\], this config makes int32",
        ),
    ],
)
def test_another_tree_is_refused_with_the_place(tmp_path, change, message):
    tree = {"a": np.zeros(2, np.float32), "b": np.zeros((2, 3))}
    arrays.write(tmp_path, arrays.pack(tree))
    with pytest.raises(ValueError, match=message):
        arrays.read(tmp_path, change(tree))


def test_the_hash_of_a_checkpoint_is_one_of_names_types_shapes_and_bits(tmp_path):
    leaves = {"a": np.zeros((2, 3), np.float32), "b": np.ones(6, np.int32)}
    others = [
        leaves | {"a": np.array([[0, 0, 0], [0, 0, -0.0]], np.float32)},
        leaves | {"a": np.zeros((3, 2), np.float32)},
        leaves | {"a": np.zeros((2, 3), np.int32)},
        {"a": leaves["a"], "c": leaves["b"]},
        {"a": leaves["b"], "b": leaves["a"]},
    ]
    found = []
    for number, tree in enumerate([leaves, {name: leaf.copy() for name, leaf in leaves.items()}, *others]):
        checkpoints.save(tmp_path / str(number), 1, tree)
        found.append(checkpoints.manifest(tmp_path / str(number), 1)["files"]["state-0.safetensors"])
    assert found[0] == found[1]
    assert len(set(found)) == 1 + len(others)


def test_a_manifest_of_an_earlier_version_has_sha256_and_is_held_to_it(tmp_path):
    checkpoints.save(tmp_path, 1, {"w": np.arange(9.0)})
    name, kept = "state-0.safetensors", tmp_path / "1" / "state-0.safetensors"
    earlier = {"step": 1, "files": {name: hashlib.sha256(kept.read_bytes()).hexdigest()}}
    files.write_json(tmp_path / "1" / checkpoints.MANIFEST, earlier)
    assert checkpoints.verify(tmp_path / "1") is None
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    assert checkpoints.verify(tmp_path / "1") == f"{name} is not what was written"


@pytest.mark.parametrize("noted", [3, None, "", "md5:00", "blake3:00"])
def test_a_manifest_with_a_hash_of_no_kind_that_is_known_is_not_trusted(tmp_path, noted):
    checkpoints.save(tmp_path, 1, {"w": np.arange(9.0)})
    edited = {"step": 1, "files": {"state-0.safetensors": noted}}
    files.write_json(tmp_path / "1" / checkpoints.MANIFEST, edited)
    assert checkpoints.verify(tmp_path / "1") == "state-0.safetensors is not what was written"


HEADERS = ["", "{", "[]", '{"w": 3}', '{"w": {}}', '{"w": {"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}}']


@pytest.mark.parametrize("header", [*HEADERS, '{"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}'])
@pytest.mark.parametrize("length", [None, 2**62, 2**64 - 1])
def test_what_holds_no_arrays_is_said_in_one_line(tmp_path, header, length):
    begin = (len(header) if length is None else length).to_bytes(8, "little")
    (tmp_path / "state-0.safetensors").write_bytes(begin + header.encode() + b"\0\0\0\0")
    with pytest.raises(ValueError, match=r"state-0\.safetensors: holds no arrays that this jaxkit reads \(.+\)$"):
        arrays.read(tmp_path, {"w": np.zeros(1, np.float32)})


def test_two_arrays_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the same path"):
        arrays.pack({"a.b": np.zeros(2), "a": {"b": np.ones(2)}})


def test_a_form_of_many_processes_is_read_by_one_and_the_other_way_round(tmp_path):
    mesh = jax.make_mesh((4,), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    tree = {"state": {"w": np.arange(8, dtype=np.float32)}}
    for sharded in (False, True):
        checkpoints.save(tmp_path, 1, tree, sharded=sharded)
        _, found = checkpoints.restore(tmp_path, like(tree), pytest.fail, {"state": {"w": sharding}})
        assert found["state"]["w"].sharding == sharding
        np.testing.assert_array_equal(found["state"]["w"], tree["state"]["w"])


def test_the_training_goes_on_without_changing_what_is_saved(tmp_path):
    step = jax.jit(lambda state: state + 1, donate_argnums=0)
    state = jnp.zeros(1000)
    saver = saving.saver(tmp_path)
    for number in range(1, 6):
        state = step(state)
        saver.save(number, {"state": state}, {"digest": f"digest {number}"})
        state = step(state)
    saver.wait()
    assert checkpoints.steps(tmp_path) == [4, 5]
    assert checkpoints.manifest(tmp_path, 5)["digest"] == "digest 5"
    _, found = checkpoints.restore(tmp_path, {"state": np.zeros(1000, np.float32)}, pytest.fail)
    np.testing.assert_array_equal(found["state"], np.full(1000, 9))
    assert saver.stalled() > 0


def test_a_copy_takes_the_memory_of_one_that_is_not_needed_any_more(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "PART_BYTES", 8_000)
    small, large = {"a": np.zeros(2000, np.float32)}, {"a": np.ones(2000, np.float32), "b": np.full(2000, 2.0)}
    first = arrays.pack(large)
    again = arrays.pack({name: leaf + 5 for name, leaf in large.items()}, first)
    assert [part.image.ctypes.data for part in again.parts] == [part.image.ctypes.data for part in first.parts]
    hashes = arrays.write(tmp_path, again)
    assert hashes == verifying.hashes(tmp_path)
    same(arrays.read(tmp_path, large), {"a": large["a"] + 5, "b": large["b"] + 5})
    # One that needs less, and one that needs more: what fits is taken, and the rest is its own.
    for tree, room in ((small, again), (large, arrays.pack(small))):
        folder = tmp_path / f"{len(tree)} parts"
        folder.mkdir()
        arrays.write(folder, arrays.pack(tree, room))
        same(arrays.read(folder, tree), tree)


def test_what_goes_wrong_beside_the_training_is_said_at_the_next_save(tmp_path, monkeypatch):
    saver = saving.saver(tmp_path)
    saver.save(1, {"w": np.ones(3)}, {})
    saver.wait()
    write = os.write
    with monkeypatch.context() as patch:

        def full(file, content):
            if "/2/state-1." in os.readlink(f"/proc/self/fd/{file}"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(file, content)

        patch.setattr(os, "write", full)
        patch.setattr(arrays, "PART_BYTES", 8)
        saver.save(2, {name: np.ones(3) for name in "abc"}, {})
        with pytest.raises(OSError, match=r"No space left on device: '.*/2/state-1\.safetensors'"):
            saver.save(3, {"w": np.ones(3)}, {})
    saver.wait()
    assert checkpoints.steps(tmp_path) == [1]
    assert not (tmp_path / "2").exists()
    manifest = json.loads((tmp_path / "1" / checkpoints.MANIFEST).read_text())
    assert (manifest["step"], list(manifest["files"])) == (1, ["state-0.safetensors"])
