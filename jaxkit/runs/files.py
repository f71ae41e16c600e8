"""Writing files so that a reader sees the whole of one, or none of it."""

import contextlib
import errno
import json
import os
import uuid
from pathlib import Path
from typing import Any

from jaxkit.checks import UsageError


def write_text(path: Path, text: str) -> None:
    """Replaces a file's text at once: on the disk before its name is.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("w") as file:
            file.write(text)
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


def read_json(path: Path) -> Any:
    """The content of a JSON file, None where there is no such file.

    Raises:
        UsageError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not readable as JSON ({error}); was it edited by hand?") from error


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
        'writing the run directory: no permission (/data); choose another with --workdir=DIR'
    """
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UsageError(f"{doing}: the disk is full{where}; free some room and start the same command again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UsageError(f"{doing}: no permission{where}; choose another with --workdir=DIR")
    return UsageError(f"{doing}: {error.strerror or error}{where}")
