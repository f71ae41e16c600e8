"""The code of a run, as its provenance says: its commit and its patch, in a git worktree of their own."""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from jaxkit.errors import UsageError
from jaxkit.runs import repository
from jaxkit.runs.repository import git

PREFIX = "jaxkit-reproduce-"
_CODE, _LOCK, _CHILD = "code", "lock", "child"
# What Python and tools leave behind is not data that a run could have read.
_NOT_LINKED = re.compile(r"(^|/)(__pycache__|\.venv[^/]*|[^/]+\.egg-info|\.[a-z]+_cache)/?$|\.pyc$")


@contextlib.contextmanager
def room() -> Iterator[Path]:
    """A directory for one reproduction, locked while its process lives, and deleted afterwards."""
    top = Path(tempfile.mkdtemp(prefix=PREFIX))
    with (top / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield top
        finally:
            shutil.rmtree(top, ignore_errors=True)


@contextlib.contextmanager
def checkout(repository: Path, commit: str, patch: bytes, top: Path) -> Iterator[Path]:
    """A worktree of the repository with a commit and a patch on it, under `top`; gone afterwards.

    What git ignores (data, as a rule) is linked to where it is in the repository, for no commit says what is in
    it. Worktrees that a killed process has left behind are removed first.

    Raises:
        UsageError: there is no such commit, or the patch does not fit it.
    """
    root = top_of(repository)
    sweep(root)
    if not re.fullmatch(r"[0-9a-f]{7,64}", commit) or git(root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        raise UsageError(f"git: {root} has no commit {commit}; fetch it, or stand in the repository of the run")
    code = top / _CODE
    # No hooks: they are not part of the run.
    if (
        git(root, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", str(code), commit, seconds=300)
        is None
    ):
        raise UsageError(f"git: cannot make a worktree of {root} at {commit}; try git worktree add yourself")
    try:
        if (
            b"\ndiff --git " in b"\n" + patch
            and git(code, "apply", "--whitespace=nowarn", "-", given=patch) is None
        ):
            raise UsageError(f"git: the patch of the run does not fit its commit {commit[:12]}; was it edited?")
        _link_ignored(root, code)
        yield code
    finally:
        git(root, "worktree", "remove", "--force", str(code))


def top_of(directory: Path) -> Path:
    """The top of the repository that a directory is in.

    Raises:
        UsageError: it is in none, or there is no git.
    """
    found = repository.top(directory)
    if found is None:
        raise UsageError(f"git: {directory.absolute()} is in no repository; stand in that of the run")
    return found


def project() -> Path:
    """The top of the repository that the command is given in; without one, the directory."""
    return repository.top(Path.cwd()) or Path.cwd()


def experiment(noted: Mapping[str, Any], code: Path, said: str) -> Path:
    """The file of a run's experiment, which must be of the code: a run from elsewhere may name any file.

    `said` is how a message calls the code.

    Raises:
        UsageError: it is no Python file of the code, or not named.
    """
    name = noted.get("experiment") or next(iter(noted.get("command", [])[1:]), "")
    if not name:
        raise UsageError(
            "provenance.json: is missing, or names no experiment: what the run ran is not known; restore it"
        )
    path = code / name
    if path.suffix != ".py" or not path.is_file() or not path.resolve().is_relative_to(code.resolve()):
        raise UsageError(
            f"experiment: {name} is no file of {said}; give the command in the repository of the run,"
            " and look at what it has before it is run"
        )
    return path


def sweep(root: Path) -> None:
    """Removes the worktrees of reproductions that were killed; the locks of the living are held."""
    listed = (git(root, "worktree", "list", "--porcelain") or b"").decode(errors="surrogateescape").splitlines()
    for line in listed:
        code = Path(line.removeprefix("worktree "))
        if not line.startswith("worktree ") or code.name != _CODE or not code.parent.name.startswith(PREFIX):
            continue
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            if (code.parent / _LOCK).exists():
                lock = stack.enter_context((code.parent / _LOCK).open())
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _kill_child(code.parent)
            git(root, "worktree", "remove", "--force", str(code))
            shutil.rmtree(code.parent, ignore_errors=True)


def note_child(top: Path, number: int) -> None:
    """Notes which process works there: should this one be killed, the next reproduction ends that one too."""
    started = psutil.Process(number).create_time()
    (top / _CHILD).write_text(f"{number} {started}", encoding="utf-8")


def _kill_child(top: Path) -> None:
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        number, started = (top / _CHILD).read_text(encoding="utf-8").split()
        # The number may be another's by now; that one began at another time.
        if psutil.Process(int(number)).create_time() == float(started):
            os.killpg(int(number), signal.SIGKILL)


def files_of(patch: bytes) -> list[str]:
    r"""The files that a patch changes.

    Example:
        >>> files_of(b"diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n")
        ['x.py']
    """
    found = re.findall(rb"^diff --git \"?a/(.+?)\"? \"?b/", patch, re.MULTILINE)
    return [name.decode(errors="replace") for name in found]


def left_out_of(patch: bytes) -> list[str]:
    r"""The files that were too large for a patch, and so are not in it.

    Example:
        >>> left_out_of(b"# left out: weights.npy, more than 10485760 bytes\n")
        ['weights.npy']
    """
    found = re.findall(rb"^# left out: (.+), [^,\n]+$", patch, re.MULTILINE)
    return [name.decode(errors="replace") for name in found]


def fill(root: Path, code: Path, patch: bytes) -> list[str]:
    """Links into a worktree what the patch leaves out and the repositories within; what is to be said of those."""
    notes, within, left_out = [], _repositories(code), left_out_of(patch)
    for name in dict.fromkeys((*left_out, *within)):
        if name == "all of the patch":
            notes.append("what the commit does not say was left out of the patch; the commit alone is run")
            continue
        linked = link(root, code, name)
        if linked and name not in left_out and _stands_at(root / name, within[name]):
            continue
        why = "was left out of the patch" if name in left_out else "is a repository of its own"
        notes.append(f"{name} {why}; " + ("it is taken as it is now" if linked else "it is missing"))
    return notes


def _repositories(code: Path) -> dict[str, str]:
    """{path: commit} of the repositories within that a worktree's commit names; git leaves their places empty."""
    listed = os.fsdecode(git(code, "ls-tree", "-r", "-z", "HEAD") or b"").split("\0")
    entries = [row.partition("\t") for row in listed if row.startswith("160000 ")]
    return {name: entry.split()[2] for entry, _, name in entries}


def _stands_at(directory: Path, commit: str) -> bool:
    head, changes = git(directory, "rev-parse", "HEAD"), git(directory, "status", "--porcelain")
    return changes == b"" and head is not None and head.decode().strip() == commit


def link(root: Path, code: Path, name: str) -> bool:
    """Links a file or directory of the working tree into the worktree, where the commit has none of that name."""
    source, target = root / name, code / name
    with contextlib.suppress(OSError):
        target.rmdir()  # the empty place of a repository within
    if not source.exists() or target.is_symlink() or target.exists() or not target.parent.is_dir():
        return False
    target.symlink_to(source)
    return True


def _link_ignored(root: Path, code: Path) -> None:
    listed = git(root, "ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z") or b""
    for name in filter(None, listed.decode(errors="surrogateescape").split("\0")):
        if not _NOT_LINKED.search(name):
            link(root, code, name.rstrip("/"))
