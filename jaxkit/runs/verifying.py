"""Which checkpoints there are, and which of them are what their manifests say."""

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxkit.errors import UsageError
from jaxkit.runs import arrays, files

MANIFEST = "manifest.json"
# Stands beside the checkpoints from the first whole one on: where there is none any more, they were lost.
FIRST = "first"
# What is wrong with the file, and not with the way to it: time does not mend it.
_DAMAGE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def steps(directory: Path) -> list[int]:
    """The steps with a complete checkpoint, oldest first.

    Example:
        >>> steps(Path("there_is_no_such_directory"))
        []
    """
    return [step for step in _named(directory) if _exists(directory / str(step) / MANIFEST)]


def _named(directory: Path) -> list[int]:
    """The steps that something is named after, with a manifest or without, oldest first."""
    # Not by a glob: that takes what it may not, or cannot, look into for empty.
    try:
        found = [directory / name for name in os.listdir(directory)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(path.name) for path in found if is_step(path))


def _exists(path: Path) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def is_step(path: Path) -> bool:
    """Whether something is named like a step's checkpoint.

    Example:
        >>> is_step(Path("checkpoints/30")), is_step(Path("checkpoints/030"))
        (True, False)
    """
    return re.fullmatch(r"0|[1-9][0-9]*", path.name) is not None


def manifest(directory: Path, step: int) -> dict[str, Any]:
    """The manifest of a step's checkpoint, empty where there is none.

    Example:
        >>> manifest(Path("there_is_no_such_directory"), 3)
        {}
    """
    return files.read_json(directory / str(step) / MANIFEST) or {}


def newest(directory: Path, warn: Callable[[str], None]) -> int:
    """The step of the newest checkpoint that is whole, -1 where there never was one; names others through `warn`.

    Raises:
        UsageError: none is whole, but one is damaged, or one was whole once; or one cannot be read now.
    """
    damaged: list[str] = []
    try:
        once, whole = _exists(directory / FIRST), steps(directory)
        without = [step for step in reversed(_named(directory)) if step not in whole]
        for step in without:
            warn(
                f"checkpoint {step} has no {MANIFEST} and is passed over: it was being written or deleted when a"
                " process was killed, or the file was lost"
            )
        for step in reversed(whole):
            damage = verify(directory / str(step))
            if damage is None:
                return step
            damaged.append(f"{step}: {damage}")
            warn(f"checkpoint {step} is damaged ({damage}) and passed over")
    except OSError as error:
        raise UsageError(
            f"{error.filename or directory}: cannot be read ({error.strerror}), and may be whole; start the same"
            " command again when it can, or move that checkpoint away to go on from the one before"
        ) from error
    # A kill in the very first save leaves one without a manifest, too: there is nothing to lose yet.
    if damaged or once:
        damaged += [f"{step}: {MANIFEST} is missing" for step in without]
        raise UsageError(
            f"{directory}: none of the checkpoints is whole ({'; '.join(damaged) or 'all are gone'}); restore one"
            " from a copy, or move the directory away to start again from step 0"
        )
    return -1


def verify(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, None where every file is what the manifest says.

    Raises:
        OSError: a file is there and cannot be read now.
    """
    try:
        manifest = files.read_json(checkpoint / MANIFEST) or {}
        wanted = manifest.get("files")
        found = hashes(checkpoint, wanted if isinstance(wanted, dict) else {})
    except _DAMAGE as error:
        return f"{error.filename or checkpoint}: {error.strerror}"
    except UsageError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, _DAMAGE):
            raise error.__cause__ from None
        return f"{MANIFEST} is not readable"
    if not isinstance(wanted, dict) or not wanted:
        return f"{MANIFEST} names no files"
    if str(manifest.get("step")) != checkpoint.name:
        return f"it is that of step {manifest.get('step')}"
    for name in sorted({*wanted, *found}):
        if name not in found:
            return f"{name} is missing"
        if wanted.get(name) != found[name]:
            return f"{name} is not what was written"
    return None


def hashes(checkpoint: Path, like: Mapping[str, Any] = {}) -> dict[str, str]:
    """The hash of every file of a checkpoint but its manifest, by its place in it.

    Of the kind that stands in `like`: "blake3:..."; without a name it is SHA-256, as earlier versions wrote it.

    Raises:
        OSError: one cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    found = (Path(top, name) for top, _, names in os.walk(checkpoint, onerror=fail) for name in names)
    paths = sorted(path for path in found if path.is_file() and path != checkpoint / MANIFEST)
    names = [str(path.relative_to(checkpoint)) for path in paths]
    return dict(zip(names, arrays.on_threads(_hash, paths, [str(like.get(name, "")) for name in names])))


def _hash(path: Path, like: str) -> str:
    # By blocks and not by mapping it: where a disk fails, that is an error and not the end of the process.
    with path.open("rb") as file:
        if like and ":" not in like:
            return hashlib.file_digest(file, "sha256").hexdigest()
        import blake3

        kind: Any = blake3.blake3  # names its arguments in its own way
        return arrays.BLAKE3 + hashlib.file_digest(file, kind).hexdigest()
