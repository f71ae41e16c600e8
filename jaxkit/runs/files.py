"""Writing files so that a reader sees the whole of one, or none of it."""

import contextlib
import errno
import json
import os
import re
import stat
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from jaxkit.errors import UsageError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}")


def write_text(path: Path, text: str) -> None:
    """Replaces a file's text at once: on the disk before its name is.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file's content at once.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    sync_directory(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file at once.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    write_text(path, json.dumps(value, indent=1, sort_keys=False) + "\n")


def opened(path: Path) -> IO[bytes]:
    """A file of a run, opened for reading: a run may come from anywhere, and a pipe or a device have no end.

    Raises:
        OSError: it cannot be read, or is no regular file.

    Example:
        >>> opened(Path("/dev/zero"))
        Traceback (most recent call last):
        OSError: [Errno 6] is no regular file: '/dev/zero'
    """
    # A pipe that nobody writes into is not waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENXIO, "is no regular file", str(path))
    return os.fdopen(descriptor, "rb")


def content(path: Path) -> bytes:
    """What is in a file of a run.

    Raises:
        OSError: it cannot be read, is no regular file, or more than the memory holds.
    """
    with opened(path) as file:
        try:
            return file.read()
        except MemoryError:
            raise OSError(errno.EFBIG, "is larger than the memory", str(path)) from None


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None where there is no such file.

    Raises:
        UsageError: the file cannot be read, or does not hold one JSON object.
    """
    try:
        found = json.loads(content(path).decode())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); move it away") from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from error
    if not isinstance(found, dict):
        raise damaged(path, f"came {type(found).__name__}, wanted an object")
    return found


def part(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What stands under a name of a file that hands may have edited: a dict, empty where it is none.

    Example:
        >>> part({"git": None}, "git")
        {}
    """
    found = tree.get(name)
    return found if isinstance(found, dict) else {}


def parts(tree: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The dicts of a list that stands under such a name, empty where it is none.

    Example:
        >>> parts({"resumed": [{"seed": 0}, 3]}, "resumed"), parts({"resumed": 3}, "resumed")
        ([{'seed': 0}], [])
    """
    found = tree.get(name)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def damaged(path: Path, what: str) -> UsageError:
    """One line for a file that does not hold what was written into it.

    Example:
        >>> str(damaged(Path("status.json"), "has no step"))
        'status.json: is damaged (has no step); was it edited by hand? Restore it, or move it away'
    """
    return UsageError(f"{path}: is damaged ({what}); was it edited by hand? Restore it, or move it away")


def is_temporary(path: Path) -> bool:
    """Whether a file is one that `write_text` had not finished when its process was killed.

    Example:
        >>> is_temporary(Path("run/.status.json.0a1b2c3d")), is_temporary(Path("run/status.json"))
        (True, False)
    """
    return _TEMPORARY.fullmatch(path.name) is not None


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain(error: OSError, doing: str) -> UsageError:
    """One line for an error of the file system: what was being done, what is wrong, what to do.

    Example:
        >>> str(explain(PermissionError(13, "Permission denied", "/data"), "writing the run directory"))
        'writing the run directory: no permission (/data); change that, or choose another place'
    """
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UsageError(f"{doing}: the disk is full{where}; free some room and start the same command again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UsageError(f"{doing}: no permission{where}; change that, or choose another place")
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO):
        return UsageError(f"{doing}: {error.strerror}{where}; move away what is in the place")
    return UsageError(f"{doing}: {error.strerror or error}{where}")
