"""Manifests: what exactly was read, by a hash over decoded records, whatever files they came from."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxkit.types import Field

_CHUNK_BYTES = 2**22


def _records(chunk: Mapping[str, np.ndarray]) -> Iterable[memoryview]:
    """{name: array[n, ...]} -> the bytes of record 0, of record 1, ..., each its fields by name."""
    columns = []
    for name in sorted(chunk):
        array = chunk[name]
        flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(len(array), -1)
        columns.append(flat.view(np.uint8))
    size = len(columns[0]) if columns else 0
    rows = max(1, _CHUNK_BYTES // max(1, sum(column.shape[1] for column in columns)))
    for start in range(0, size, rows):
        block = np.concatenate([column[start : start + rows] for column in columns], axis=1)
        yield block.data


def content_hash(chunks: Iterable[Mapping[str, np.ndarray]], *, schema: Mapping[str, Field]) -> str:
    """SHA-256 over decoded records in order, however they are cut into chunks.

    First the names, dtypes and shapes of the fields, with their own length before them; then record
    after record, the fields by name in C order and little endian. Every record has the same number of
    bytes, so no two fields and no two records can run into each other.

    Args:
        chunks: {name: array[n, ...]}, in order, any n.
        schema: {name: Field}; the order of the names does not matter.

    Example:
        >>> schema = {"x": Field((), np.int32)}
        >>> whole, halves = [{"x": np.arange(4, dtype=np.int32)}], np.arange(4, dtype=np.int32).reshape(2, 2)
        >>> content_hash(whole, schema=schema) == content_hash([{"x": x} for x in halves], schema=schema)
        True
    """
    fields = [[name, np.dtype(f.dtype).name, [int(n) for n in f.shape]] for name, f in sorted(schema.items())]
    header = json.dumps(fields).encode()
    digest = hashlib.sha256(b"jaxkit records 1\n" + len(header).to_bytes(8, "little") + header)
    for chunk in chunks:
        for block in _records({name: chunk[name] for name in schema}):
            digest.update(block)
    return digest.hexdigest()


def manifest(
    *, name: str, version: str, split: str, size: int, schema: Mapping[str, Field], sha256: str
) -> dict[str, Any]:
    """What was read, as plain data that goes to JSON and back.

    Example:
        >>> schema = {"x": Field((2,), np.float32)}
        >>> manifest(name="a", version="1", split="all", size=3, schema=schema, sha256="0")["schema"]
        {'x': {'shape': [2], 'dtype': 'float32', 'num_classes': None}}
    """
    fields = {
        field_name: {
            "shape": [int(n) for n in field.shape],
            "dtype": np.dtype(field.dtype).name,
            "num_classes": field.num_classes,
        }
        for field_name, field in sorted(schema.items())
    }
    return {
        "name": name,
        "version": version,
        "split": split,
        "size": int(size),
        "schema": fields,
        "sha256": sha256,
    }


def schema_of(manifest: Mapping[str, Any]) -> dict[str, Field]:
    """The schema that a manifest was written from.

    Example:
        >>> schema_of({"schema": {"x": {"shape": [2], "dtype": "float32", "num_classes": None}}})
        {'x': Field(shape=(2,), dtype=dtype('float32'), num_classes=None)}
    """
    return {
        name: Field(tuple(field["shape"]), np.dtype(field["dtype"]), field["num_classes"])
        for name, field in manifest["schema"].items()
    }


def differences(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """One line for each entry of two manifests that differs; none where the same records were read.

    Example:
        >>> differences({"size": 3, "sha256": "a"}, {"size": 4, "sha256": "a"})
        ['size: recorded 3, found 4']
    """
    return [
        f"{entry}: recorded {recorded.get(entry)}, found {found.get(entry)}"
        for entry in dict.fromkeys((*recorded, *found))
        if recorded.get(entry) != found.get(entry)
    ]
