"""Decoded data, kept in one file: a later start reads it in milliseconds and imports no TFDS.

A line with the SHA-256 of the next line; a line of JSON (manifest, prepared directory and the stamp of its
files, SHA-256 of the rest); the arrays by name, each at a multiple of 64 bytes. A file that is damaged, or
whose data set has changed, is as good as none; one that cannot be written is no error.
"""

import contextlib
import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxkit import homes
from jaxkit.data import manifests

_MAGIC = b"jaxkit data 1 "


def location(directory: Path, *, title: str, key: Any) -> Path:
    """Where the decoded form of one request is: beside the data, or in the user's cache if that is read-only.

    Example:
        >>> location(Path("/nowhere"), title="digits/train[:80%]", key=["1.0"]).name
        'digits-train-80-...'
    """
    words = "".join(c if c.isalnum() else " " for c in title).split()
    digest = hashlib.sha256(json.dumps([str(directory), key]).encode()).hexdigest()[:16]
    folder = directory / ".jaxkit" if os.access(directory, os.W_OK) else homes.cache()
    return folder / "-".join([*words, digest])


def stamp(prepared: Path) -> list[Any] | None:
    """Names, sizes and times of the files of a prepared data set, and the names beside it (its versions).

    None where there are no records: nothing is prepared there.
    """
    try:
        files: list[Any] = sorted(
            [f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in os.scandir(prepared) if f.is_file()
        )
        beside = sorted(n for n in os.listdir(prepared.parent) if not n.startswith((".", "incomplete")))
    except OSError:
        return None
    return [beside, files] if any(".array_record" in name for name, *_ in files) else None


def _places(manifest: Mapping[str, Any], start: int) -> Iterator[tuple[str, int, int]]:
    for name, field in manifests.schema_of(manifest).items():
        start += -start % 64
        size = manifest["size"] * math.prod(field.shape) * np.dtype(field.dtype).itemsize
        yield name, start, size
        start += size


def write(path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None) -> None:
    """Writes a cache file whole or not at all; does nothing where it cannot.

    header: {"manifest", "prepared", "stamp"}; arrays: by name, or None to keep the manifest only.
    """
    payload, digest = [], hashlib.sha256()
    for name in sorted(arrays or {}):
        raw = np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8)  # type: ignore[index]
        payload += [raw, np.zeros(-len(raw) % 64, np.uint8)]
    for block in payload:
        digest.update(block.data)
    text = json.dumps({**header, "payload": digest.hexdigest() if arrays is not None else None}).encode()
    first = _MAGIC + hashlib.sha256(text).hexdigest().encode() + b"\n"
    before = len(first) + len(text) + 1
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(first + text + b"\n" + bytes(-before % 64))
            for block in payload:
                file.write(block.data)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def read_header(path: Path) -> dict[str, Any] | None:
    """The header of a cache file, or None where there is no whole one."""
    try:
        with open(path, "rb") as file:
            first, text = file.readline(), file.readline().removesuffix(b"\n")
    except OSError:
        return None
    if first != _MAGIC + hashlib.sha256(text).hexdigest().encode() + b"\n":
        return None
    return {**json.loads(text), "start": len(first) + len(text) + 1}


def read_arrays(path: Path, header: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """{name: array[size, ...]}, read-only, or None where they are not whole and unchanged."""
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError:
        return None
    start = header["start"] + -header["start"] % 64
    if header["payload"] is None or hashlib.sha256(raw[start:].data).hexdigest() != header["payload"]:
        return None
    raw.flags.writeable = False
    fields = manifests.schema_of(header["manifest"])
    return {
        name: raw[place : place + size].view(fields[name].dtype).reshape(-1, *fields[name].shape)
        for name, place, size in _places(header["manifest"], start)
    }
