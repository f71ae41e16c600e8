"""Sources over TFDS data sets: prepared on first use, read at random through `tfds.data_source`.

What fits in memory is decoded once and kept (cache.py), so that a later start does not import TFDS.
"""

import contextlib
import difflib
import importlib.metadata
import io
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkit import checks
from jaxkit.data import cache, manifests, schema, sources
from jaxkit.types import Examples, Field, Source

_CHUNK = 1024  # examples decoded at a time


class _Request(NamedTuple):
    name: str
    split: str
    directory: Path
    fields: tuple[str, ...] | None
    in_memory_limit: int
    builder: Callable[[], Any]

    @property
    def where(self) -> str:
        return f"{self.name}/{self.split}"

    @property
    def cached(self) -> Path:
        key = [self.name, self.split, self.fields, importlib.metadata.version("tensorflow-datasets")]
        return cache.location(self.directory, title=self.where, key=key)


def _directory(data_dir: str | os.PathLike | None) -> Path:
    variables = os.environ.get("JAXKIT_DATA") or os.environ.get("TFDS_DATA_DIR")
    return Path(data_dir or variables or Path.home() / "tensorflow_datasets").expanduser().absolute()


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
    directory = _directory(data_dir)

    def builder() -> Any:
        from jaxkit.data import digits_builder

        return digits_builder.Digits(data_dir=str(directory), file_format="array_record")

    return _source(_Request("digits", split, directory, None, 2**30, builder))


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
        >>> source = tfds(name="mnist", split="train", data_dir="/nowhere")  # doctest: +SKIP
        >>> source.schema["image"]  # doctest: +SKIP
        Field(shape=(28, 28, 1), dtype=dtype('uint8'), num_classes=None)
    """
    checks.at_least(0, in_memory_limit=in_memory_limit)
    directory = _directory(data_dir)
    wanted = None if fields is None else tuple(fields)
    return _source(_Request(name, split, directory, wanted, in_memory_limit, partial(_named, name, directory)))
