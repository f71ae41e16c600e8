"""What two runs differ in by their code: the commits that git has, with the patches that the runs keep."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATCH = "dirty.patch"


def state(workdir: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The commit that a run was started on, whether it was the whole code, and its patch.

    Example:
        >>> state(Path("there_is_no_such_directory"), {"git": {"commit": "0a1b", "dirty": False}})
        {'commit': '0a1b', 'dirty': False, 'patch': ''}
    """
    git = provenance.get("git")
    git = git if isinstance(git, dict) else {}
    try:
        patch = (workdir / PATCH).read_text(encoding="utf-8", errors="replace")
    except OSError:
        patch = ""
    return {"commit": git.get("commit"), "dirty": git.get("dirty"), "patch": patch}


def difference(a: Path, b: Path, codes: tuple[Mapping[str, Any], Mapping[str, Any]]) -> dict[str, Any]:
    """How the code of run `a` becomes that of run `b`, asked of the repository of the working directory.

    Returns:
        {"same": bool or None where it cannot be said, "stat": str, "diff": str, "reason": str or None}
    """
    empty = {"stat": "", "diff": "", "reason": None}
    for run, code in zip((a, b), codes):
        if not re.fullmatch(r"[0-9a-f]{40,64}", str(code["commit"])):
            return {"same": None, **empty, "reason": f"{run} was not started in a git repository"}
        if code["patch"].startswith("# left out: "):
            return {"same": None, **empty, "reason": f"the patch of {run} leaves files out"}
    if codes[0] == codes[1]:
        return {"same": True, **empty}
    with _objects() as environment:
        trees = []
        for run, code in zip((a, b), codes):
            tree = _tree(code["commit"], run / PATCH if code["patch"] else None, environment)
            if tree is None:
                said = f"git here has no commit {code['commit'][:12]}, or the patch of {run} does not apply to it"
                return {"same": None, **empty, "reason": said}
            trees.append(tree)
        if trees[0] == trees[1]:
            return {"same": True, **empty}
        shown = ("diff", "--no-color", "--no-ext-diff", "--no-textconv")
        stat = _git(*shown, "--stat", *trees, environment=environment)
        text = _git(*shown, *trees, environment=environment)
    return {"same": False, "stat": (stat or "").rstrip(), "diff": text or "", "reason": None}


@contextmanager
def _objects() -> Iterator[dict[str, str]]:
    """An environment in which git writes beside the repository, not into it."""
    with tempfile.TemporaryDirectory() as folder:
        objects = (
            _git("rev-parse", "--path-format=absolute", "--git-path", "objects", environment=None) or ""
        ).strip()
        yield {
            **os.environ,
            "GIT_INDEX_FILE": str(Path(folder) / "index"),
            "GIT_OBJECT_DIRECTORY": folder,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }


def _tree(commit: str, patch: Path | None, environment: dict[str, str]) -> str | None:
    """The name of the tree of a commit with a patch on it; None where there is none."""
    steps: list[tuple[str, ...]] = [("read-tree", f"{commit}^{{tree}}")]
    if patch is not None:
        steps.append(("apply", "--cached", "--whitespace=nowarn", str(patch.absolute())))
    for step in (*steps, ("write-tree",)):
        found = _git(*step, environment=environment)
        if found is None:
            return None
    return found.strip() if found else None


def _git(*arguments: str, environment: Mapping[str, str] | None) -> str | None:
    # From the top: a patch names its files from there.
    top = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=False)
    if top.returncode:
        return None
    command = ["git", "-C", top.stdout.strip(), *arguments]
    try:
        done = subprocess.run(command, check=True, capture_output=True, env=environment, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")
