"""Git, as runs and proofs ask it: what a command prints, or nothing."""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def git(
    directory: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    given: bytes = b"",
    seconds: float = 60.0,
) -> bytes | None:
    """What a git command prints, None where it fails, or takes longer than some seconds.

    Example:
        >>> git(Path("there_is_no_such_directory"), "status")
    """
    try:
        return _run(directory, *arguments, environment=environment, given=given, seconds=seconds).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _run(directory: Path, *arguments: str, environment=None, given=b"", seconds=60.0) -> Any:
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(command, check=True, capture_output=True, env=environment, input=given, timeout=seconds)


def trouble(directory: Path) -> str | None:
    """Why git does not say on which commit a directory stands, in one line; None where it is in no repository.

    Example:
        >>> trouble(Path("/"))
    """
    if not any((folder / ".git").exists() for folder in (directory.absolute(), *directory.absolute().parents)):
        return None
    try:
        _run(directory, "rev-parse", "--show-toplevel")
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        return " ".join(lines[0].split()) if lines else f"nothing (exit code {error.returncode})"
    except (OSError, subprocess.SubprocessError) as error:
        return f"nothing ({type(error).__name__})"
    return "there is no commit yet"


def top(directory: Path) -> Path | None:
    """The top of the repository that a directory is in, None where it is in none or there is no git.

    Example:
        >>> top(Path("there_is_no_such_directory"))
    """
    found = git(directory, "rev-parse", "--show-toplevel")
    return None if found is None else Path(os.fsdecode(found.removesuffix(b"\n")))


@contextmanager
def beside(root: Path) -> Iterator[dict[str, str]]:
    """An environment in which git writes its index and its objects beside a repository, not into it."""
    objects = git(root, "rev-parse", "--path-format=absolute", "--git-path", "objects") or b""
    with tempfile.TemporaryDirectory() as folder:
        yield {
            **os.environ,
            "GIT_INDEX_FILE": str(Path(folder) / "index"),
            "GIT_OBJECT_DIRECTORY": folder,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": os.fsdecode(objects.removesuffix(b"\n")),
        }
