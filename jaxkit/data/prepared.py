"""Sources over TFDS data sets: prepared on first use, read at random through `tfds.data_source`.

What fits in memory is decoded once and kept (cache.py), so that a later start does not import TFDS.
"""

import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkit import checks, errors, homes
from jaxkit.data import cache, locations, manifests, preparing, schema, sources
from jaxkit.types import Examples, Field, Source

DIGITS_VERSION = "1.0.0"  # a part of the cache's key, so it must be known without importing the builder
_CHUNK = 1024  # examples decoded at a time


class _Request(NamedTuple):
    name: str
    split: str
    directory: Path
    fields: tuple[str, ...] | None
    in_memory_limit: int
    made_by: str  # another version of this may give other data
    builder: Callable[[], Any]

    @property
    def where(self) -> str:
        return f"{self.name}/{self.split}"

    @property
    def cached(self) -> Path:
        key = [self.name, self.split, self.fields, self.made_by]
        return cache.location(self.directory, title=self.where, key=key)


def data_directory(data_dir: str | os.PathLike | None) -> Path:
    """Where data sets are: what was given, else JAXKIT_DATA, TFDS_DATA_DIR or ~/tensorflow_datasets.

    What is elsewhere ("gs://...", "s3://...", "dvc:...") is copied to this machine first (`data.locations`).

    Example:
        >>> data_directory("/data")
        PosixPath('/data')
    """
    variables = os.environ.get("JAXKIT_DATA") or os.environ.get("TFDS_DATA_DIR")
    chosen = data_dir or variables or homes.home() / "tensorflow_datasets"
    if locations.is_remote(str(chosen)):
        return locations.local(str(chosen))
    return Path(chosen).expanduser().absolute()


def digits(*, split: str, data_dir: str | os.PathLike | None = None) -> Source:
    """Scikit-learn's 1,797 handwritten digits: 1,437 in "train", a stratified 360 in "test".

    image uint8[8, 8, 1] of 0..16, label int32[] of 10 classes. Prepared on first use, without TensorFlow.

    Args:
        split: "train", "test", or a part such as "train[:80%]".
        data_dir: where data sets are; otherwise JAXKIT_DATA, TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        UsageError: it is not prepared and cannot be; by `open`: there is no such split.

    Example:
        >>> import tempfile
        >>> digits(split="train", data_dir=tempfile.mkdtemp()).schema["label"]
        Field(shape=(), dtype=dtype('int32'), num_classes=10)
    """
    directory = data_directory(data_dir)

    @preparing.no_folder_left()
    def builder() -> Any:
        from jaxkit.data import digits_builder

        return digits_builder.Digits(data_dir=str(directory), file_format="array_record")

    return _source(_Request("digits", split, directory, None, 2**30, DIGITS_VERSION, builder))


def tfds(
    *,
    name: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    fields: Sequence[str] | None = None,
    in_memory_limit: int = 2**30,
) -> Source:
    """Any TFDS data set, prepared (downloaded) on first use as ArrayRecord where it can be.

    ClassLabel -> int32[] with its classes, Image -> uint8[height, width, channels], numbers as they are but
    in 32 bits. A field of no fixed shape (Text; Image or Sequence of any size) cannot be batched: say by
    `fields` which ones are wanted. What does not fit in memory is read through once, at the first `open`, for
    its hash and the check of its labels.

    Args:
        name: as TFDS has it: "mnist", "cifar10:3.0.2", "glue/cola".
        split: "train", "test", or a part such as "train[:80%]".
        data_dir: where data sets are; otherwise JAXKIT_DATA, TFDS_DATA_DIR or ~/tensorflow_datasets.
        fields: the fields wanted; all, if not given.
        in_memory_limit: bytes; the decoded split is held in memory if it is no larger.

    Raises:
        UsageError: there is no such data set or field; a field has no fixed shape; by `open`: it is not
            prepared and cannot be (no network, a missing package); there is no such split; it is prepared
            in a format without random access; an example is not what the schema says.

    Example:
        >>> source = tfds(name="mnist", split="train", data_dir="/nowhere")
        >>> source.schema["image"]
        Field(shape=(28, 28, 1), dtype=dtype('uint8'), num_classes=None)
    """
    checks.at_least(0, in_memory_limit=in_memory_limit)
    if fields is not None and (isinstance(fields, str) or not fields):
        raise errors.UsageError(f"{name}/{split}: fields: came {fields!r}, wanted a tuple of names; None for all")
    directory = data_directory(data_dir)
    request = _Request(
        name=name,
        split=split,
        directory=directory,
        fields=None if fields is None else tuple(fields),
        in_memory_limit=in_memory_limit,
        made_by=importlib.metadata.version("tensorflow-datasets"),
        builder=partial(preparing.named, name, directory),
    )
    return _source(request)


def _source(request: _Request) -> Source:
    header = _warm(request)
    if header is None:
        wanted = preparing.fields_of(request.builder(), request.fields, where=request.where)
    else:
        wanted = manifests.schema_of(header["manifest"])
    return Source(name=request.where, schema=wanted, open=partial(_open, request))


def _warm(request: _Request) -> dict[str, Any] | None:
    """The header of the cache file, if it still tells of what is on the disk."""
    header = cache.read_header(request.cached)
    if header is None or header["stamp"] != cache.stamp(Path(header["prepared"])):
        return None
    # Who has imported TFDS may have defined a builder of this name, or mocked it: its word counts.
    if "tensorflow_datasets" in sys.modules and str(request.builder().data_path) != header["prepared"]:
        return None
    return header


def _open(request: _Request) -> Examples:
    header = _warm(request)
    if header is not None and _decoded_bytes(header["manifest"]) <= request.in_memory_limit:
        arrays = cache.read_arrays(request.cached, header)
        if arrays is not None:
            return sources.in_memory(arrays, manifest=header["manifest"])
        header = None
    builder = preparing.prepared(request.builder, name=request.name, directory=request.directory)
    wanted = preparing.fields_of(builder, request.fields, where=request.where)
    found = records(builder, request.split, where=request.where)
    read = partial(_read, found, wanted, request.where)
    if header is not None:
        return Examples(size=len(found), read=read, manifest=header["manifest"], arrays=None)
    return _first(request, builder, wanted, len(found), read)


def _decoded_bytes(manifest: Mapping[str, Any]) -> int:
    return manifest["size"] * schema.nbytes(manifests.schema_of(manifest))


def records(builder: Any, split: str, *, where: str) -> Sequence[Mapping[str, Any]]:
    """The records of one split of a prepared data set, at random access.

    Raises:
        UsageError: there is no such split, or it is empty; it is prepared in a format without random access.
    """
    try:
        found = builder.as_data_source(split=split)
        size = len(found)
    except NotImplementedError as error:
        said = f"{builder.data_dir} has it as {builder.info.file_format}, which has no random access"
        raise errors.UsageError(f"{where}: {said}: take another data_dir, or move that one away") from error
    except ValueError as error:
        size = 0  # said below; tfds speaks of paths and lengths
        if "0 length" not in str(error) and "__len__" not in str(error):
            raise errors.UsageError(f"{where}: {str(error).splitlines()[0]}") from error
    if not size:
        raise errors.UsageError(f"{where}: came no examples, wanted at least one")
    return found


def _read(
    records: Sequence[Mapping[str, Any]], wanted: Mapping[str, Field], where: str, indices: np.ndarray
) -> dict[str, np.ndarray]:
    # One by one: decoding is nine tenths of it, and happens in the thread of each batch.
    examples = [records[int(index)] for index in indices]
    batch = {}
    for name, field in wanted.items():
        values = [example[name] for example in examples]
        try:
            array = np.asarray(values) if values else np.empty((0, *field.shape), field.dtype)
        except ValueError as error:
            raise errors.UsageError(
                f"{where}: {name}: came examples of several shapes, wanted {field.shape}"
            ) from error
        batch[name] = schema.cast(array, dtype=field.dtype, where=f"{where}: {name}")
    schema.check(batch, wanted, where=where)
    return batch


def _first(
    request: _Request,
    builder: Any,
    wanted: Mapping[str, Field],
    size: int,
    read: Callable[[np.ndarray], dict[str, np.ndarray]],
) -> Examples:
    """Reads all of it once: for the arrays where they fit, for the hash, for the check of every example."""
    chunks: Iterable[dict[str, np.ndarray]] = (
        read(np.arange(start, min(start + _CHUNK, size))) for start in range(0, size, _CHUNK)
    )
    arrays = None
    if size * schema.nbytes(wanted) <= request.in_memory_limit:
        arrays = {name: np.empty((size, *field.shape), field.dtype) for name, field in wanted.items()}
        for number, chunk in enumerate(chunks):
            for name, values in chunk.items():
                arrays[name][number * _CHUNK : number * _CHUNK + len(values)] = values
        for array in arrays.values():
            array.flags.writeable = False
        chunks = [arrays]
    manifest = manifests.manifest(
        name=builder.name,
        version=str(builder.version),
        split=request.split,
        size=size,
        schema=wanted,
        sha256=manifests.content_hash(chunks, schema=wanted),
    )
    prepared = Path(builder.data_path)
    stamp = cache.stamp(prepared)
    # Where there are other examples than the files hold, it is the fake data of a test.
    if stamp is not None and size == builder.info.splits[request.split].num_examples:
        cache.write(request.cached, {"manifest": manifest, "prepared": str(prepared), "stamp": stamp}, arrays)
    if arrays is None:
        return Examples(size=size, read=read, manifest=manifest, arrays=None)
    return sources.in_memory(arrays, manifest=manifest)
