"""Where data is: a directory here; or a bucket (gs://, s3://) or a DVC repository (dvc:), copied on use."""

import fcntl
import functools
import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from jaxkit import errors, homes

_COPY = "jaxkit.json"
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "dvc": "dvc"}


def is_remote(text: str) -> bool:
    """Whether a place is not a directory of this machine.

    Example:
        >>> is_remote("gs://bucket/data"), is_remote("dvc:data@v1"), is_remote("/data")
        (True, True, False)
    """
    return "://" in text or text.startswith("dvc:")


@functools.cache
def local(text: str) -> Path:
    """A directory of this machine with what is at a place: copied once, and anew when it has changed there.

    Args:
        text: "gs://...", "s3://...", or any other address that fsspec knows; "dvc:PATH" or "dvc:PATH@REVISION"
            of the DVC repository that the command is given in.

    Raises:
        UsageError: there is nothing there, it cannot be reached and was not copied before, or the library for such
            places is not installed.

    Example:
        >>> import fsspec
        >>> fsspec.filesystem("memory").pipe({"/docs/a.txt": b"text"})
        >>> (local("memory://docs") / "a.txt").read_text()
        'text'
    """
    copy = _cache() / hashlib.sha256(text.encode()).hexdigest()[:24]
    # Of many processes that begin together one copies, and the others find what it has copied.
    with copy.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _copied(text, copy)


def _copied(text: str, copy: Path) -> Path:
    before = _listing_of(copy)
    try:
        system, path = _open(text)
        listing = _list(system, path)
    except Exception as error:  # each library has errors of its own
        if isinstance(error, errors.UsageError):
            raise
        if before is None:
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise errors.UsageError(f"data_dir: {text} cannot be read ({type(error).__name__}: {line})") from error
        return copy  # what was read is checked by its content, wherever it was copied from
    if not listing:
        raise errors.UsageError(
            f"data_dir: there is nothing at {text}; is it the directory that holds the data set?"
        )
    if listing != before:
        _fetch(system, path, listing, copy)
    return copy


def _open(text: str) -> tuple[Any, str]:
    scheme = text.partition(":")[0]
    try:
        if scheme == "dvc":
            from dvc.api import DVCFileSystem

            path, _, revision = text.removeprefix("dvc:").partition("@")
            return DVCFileSystem(rev=revision or None), path
        import fsspec

        return fsspec.core.url_to_fs(text)
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(scheme)
        how = f"pip install jaxkit[{extra}]" if extra else "is the address right?"
        raise errors.UsageError(f"data_dir: {text} cannot be opened ({error}); {how}") from error


def _list(system: Any, path: str) -> dict[str, list[Any]]:
    """{name below the path: what would change with the file}."""
    found = system.find(path, detail=True)
    marks = ("size", "etag", "ETag", "md5Hash", "md5", "mtime", "created")
    # DVC says the digest of a file beside it, where the file lies in the working tree.
    told = lambda info: {**(info.get("dvc_info") or {}), **info}
    top = path.rstrip("/").lstrip("/")
    below = lambda name: name.lstrip("/").removeprefix(top).lstrip("/")
    return {below(name): [str(told(info).get(mark)) for mark in marks] for name, info in sorted(found.items())}


def _fetch(system: Any, path: str, listing: dict[str, list[Any]], copy: Path) -> None:
    """Copies everything into a new directory, which takes the place of the old one whole."""
    new = copy.with_name(f".{copy.name}.{secrets.token_hex(4)}")
    try:
        for name in listing:
            if not (target := (new / name).resolve()).is_relative_to(new.resolve()):
                raise errors.UsageError(f"data_dir: came a file named {name!r}, which leads out of the directory")
            target.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(f"{path.rstrip('/')}/{name}", str(target))
        (new / _COPY).write_text(json.dumps(listing))
        shutil.rmtree(copy, ignore_errors=True)
        os.replace(new, copy)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _listing_of(copy: Path) -> dict[str, list[Any]] | None:
    try:
        return json.loads((copy / _COPY).read_text())
    except (OSError, ValueError):
        return None


def _cache() -> Path:
    folder = homes.cache() / "copies"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
