"""A pytree of arrays as files: what one process writes of a state, fast, and hashed.

The files are in the safetensors format (a length, a header in JSON, the bytes), so that other programs read them.
They are written here because what is hashed must be what is in memory, and a write must take little of the
training beside it: what is written does not go through the system's cache, where it can do without.
"""

import concurrent.futures
import errno
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from jaxkit.checks import path_of

T = TypeVar("T")
# Parts are written, hashed and read at once, one a core; a larger array is a part of its own.
PART_BYTES = 2**26
# Not SHA-256: without the processor's own instructions for that, hashing takes longer than writing and reading.
BLAKE3 = "blake3:"
# What is written past the system's cache is, in memory and on the disk, whole blocks of at least the disk's size.
_BLOCK = 4096
# What the format has a name for; anything else is stored as bytes, and read as what the program says it is.
_BITS = {"uint": (8, 16, 32, 64), "int": (8, 16, 32, 64), "float": (16, 32, 64)}
_NAMES = {"bool": "BOOL", "bfloat16": "BF16"} | {
    f"{kind}{bits}": f"{kind[0].upper()}{bits}" for kind, sizes in _BITS.items() for bits in sizes
}


class Part(NamedTuple):
    """One file that is to be: its name, and what will be in it.

    image: u8[...]: the file, and zeros up to a whole number of blocks; it begins where a block of memory does
    size:  of the file, in bytes
    """

    name: str
    image: np.ndarray
    size: int


class Packed(NamedTuple):
    """A copy of every array of a tree, laid out as the files that `write` makes of it."""

    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> int:
        """Of all files."""
        return sum(part.size for part in self.parts)


def pack(tree: Any, room: Packed | None = None) -> Packed:
    """Copies every array of a tree; into the memory of `room`, which nobody needs any more, where it fits.

    Raises:
        ValueError: two arrays have the same path.

    Example:
        >>> [part.name for part in pack({"w": np.zeros(3, np.float32)}).parts]
        ['state-0.safetensors']
    """
    groups: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for path, array in _named(tree).items():
        if size and size + array.nbytes > PART_BYTES:
            groups.append({})
            size = 0
        groups[-1][path] = array
        size += array.nbytes
    names = [f"state-{number}.safetensors" for number in range(len(groups))]
    free = {part.name: part.image for part in room.parts} if room is not None else {}
    return Packed(tuple(on_threads(_pack, names, groups, [free.get(name) for name in names])))


def write(folder: Path, packed: Packed) -> dict[str, str]:
    """Writes what was packed into files of a folder; they are on the disk when it returns.

    Returns:
        {name of a file: BLAKE3 of what is in it}.

    Raises:
        OSError: they cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     list(write(Path(folder), pack({"w": np.zeros(3, np.float32)})))
        ['state-0.safetensors']
    """
    names = [part.name for part in packed.parts]
    return dict(zip(names, on_threads(_write, [folder / name for name in names], packed.parts)))


def read(folder: Path, abstract: Any) -> Any:
    """The tree that was written into a folder, as numpy arrays of the shapes and dtypes of `abstract`.

    Raises:
        ValueError: another tree was written.
    """
    found = read_all(folder)
    wanted = {path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(abstract)}
    if wanted != found.keys():
        name = min(wanted ^ found.keys())
        holds, makes = ("has no", "makes") if name in wanted else ("holds", "does not make")
        raise ValueError(f"{folder}: {holds} {name}, which this config {makes}")
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _as(leaf, found[path_of(path)], f"{folder}: {path_of(path)}"), abstract
    )


def read_all(folder: Path) -> dict[str, np.ndarray]:
    """Every array that was written into a folder, by its path: "state.params.dense_0.kernel"."""
    parts = on_threads(_read_part, sorted(folder.glob("state-*.safetensors")))
    return {name: array for part in parts for name, array in part.items()}


def _named(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    found = {path_of(path): _plain(leaf) for path, leaf in leaves}
    if len(found) < len(leaves):
        raise ValueError("two arrays of the state have the same path; no name of a parameter may hold a point")
    return found


def _plain(leaf: Any) -> np.ndarray:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.ascontiguousarray(leaf).reshape(np.shape(leaf))


def _as(wanted: Any, array: np.ndarray, where: str) -> Any:
    if jax.dtypes.issubdtype(wanted.dtype, jax.dtypes.prng_key):
        return as_key(array, wanted.dtype)
    unnamed = wanted.dtype.name not in _NAMES and array.dtype == np.uint8
    if unnamed and array.shape == (*wanted.shape, *_bytes_within(wanted.dtype)):
        array = array.reshape(-1).view(wanted.dtype).reshape(wanted.shape)
    if array.shape != wanted.shape or array.dtype != wanted.dtype:
        raise ValueError(
            f"{where}: holds {array.dtype.name}{list(array.shape)},"
            f" this config makes {wanted.dtype.name}{list(wanted.shape)}"
        )
    return array


def as_key(data: np.ndarray, dtype: Any) -> jax.Array:
    """The keys of a dtype that consist of these numbers.

    Example:
        >>> key = jax.random.key(3)
        >>> bool(as_key(np.asarray(jax.random.key_data(key)), key.dtype) == key)
        True
    """
    # jax says it of an array only, and what is wanted may be a shape and a dtype.
    impl = jax.random.key_impl(jax.numpy.empty((), dtype))
    return jax.random.wrap_key_data(jax.numpy.asarray(data), impl=impl)


def _bytes_within(dtype: Any) -> tuple[int, ...]:
    """Of what has no name, and more than one byte, those are a dimension of their own."""
    return () if dtype.name in _NAMES or dtype.itemsize == 1 else (dtype.itemsize,)


def _pack(name: str, group: Mapping[str, np.ndarray], room: np.ndarray | None) -> Part:
    header: dict[str, Any] = {}
    offset = 0
    for path, array in group.items():
        kind = _NAMES.get(array.dtype.name, "U8")
        header[path] = {
            "dtype": kind,
            "shape": [*array.shape, *_bytes_within(array.dtype)],
            "data_offsets": [offset, offset := offset + array.nbytes],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    begin = len(text).to_bytes(8, "little") + text
    whole, size = -(-(len(begin) + offset) // _BLOCK) * _BLOCK, len(begin)
    image = room if room is not None and room.size == whole else _blocks(whole)
    image[:size] = np.frombuffer(begin, np.uint8)
    for array in group.values():
        # Copied without the interpreter's lock, as everything here that takes long.
        np.copyto(image[size : size + array.nbytes], array.reshape(-1).view(np.uint8))
        size += array.nbytes
    image[size:] = 0
    return Part(name, image, size)


def _blocks(whole: int) -> np.ndarray:
    """Memory for so many bytes, which are whole blocks."""
    memory = np.empty(whole + _BLOCK, np.uint8)
    skipped = -memory.ctypes.data % _BLOCK
    return memory[skipped : skipped + whole]


def _write(path: Path, part: Part) -> str:
    import blake3  # here, as in `verifying`: what saves nothing needs it not (benchmarks/gpu.py)

    try:
        _put(path, part, getattr(os, "O_DIRECT", 0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _put(path, part, 0)  # a file system that has it go through the cache
    return BLAKE3 + blake3.blake3(part.image[: part.size].data).hexdigest()


def _put(path: Path, part: Part, way: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | way, 0o666)
    try:
        left = part.image.data
        while left:
            left = left[os.write(file, left) :]
        os.ftruncate(file, part.size)
        os.fsync(file)
    except OSError as error:
        error.filename = str(path)  # which those calls do not know
        raise
    finally:
        os.close(file)


def _read_part(path: Path) -> dict[str, np.ndarray]:
    names = {kind: jax.numpy.dtype(name) for name, kind in _NAMES.items()}
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            content = np.fromfile(file, np.uint8)
        return {
            name: content[slice(*entry["data_offsets"])].view(names[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in header.items()
        }
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path}: holds no arrays that this jaxkit reads ({error!r})") from error


def on_threads(function: Callable[..., T], *arguments: Sequence[Any]) -> list[T]:
    """What a function makes of each, in order, several at once; for what leaves the interpreter's lock to others.

    Example:
        >>> on_threads(pow, [2, 3], [3, 2])
        [8, 9]
    """
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(function, *arguments))
