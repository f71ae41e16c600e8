"""What two runs differ in by their code: the commits that git has, with the patches that the runs keep."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxkit.runs import files, repository

PATCH = "dirty.patch"


def state(workdir: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The commit that a run was started on, whether it was the whole code, and its patch; why that says nothing.

    Example:
        >>> state(Path("there_is_no_such_directory"), {"git": {"commit": "0a1b", "dirty": False}})
        {'commit': '0a1b', 'dirty': False, 'patch': ''}
    """
    git = files.part(provenance, "git")
    try:
        patch = files.content(workdir / PATCH).decode(errors="replace")
    except OSError:
        patch = ""
    said = {"commit": git.get("commit"), "dirty": git.get("dirty"), "patch": patch}
    # None of these says what code such a run is of.
    if "error" in git:
        said["reason"] = f"of {workdir} git said: {git['error']}"
    elif "commit" not in git:
        said["reason"] = f"{workdir} was not started in a git repository"
    elif any(_code(start) != _code(provenance) for start in files.parts(provenance, "resumed")):
        said["reason"] = f"{workdir} was resumed with other code"
    return said


def _code(start: Mapping[str, Any]) -> tuple[Any, Any]:
    return files.part(start, "git").get("commit"), files.part(start, "patch").get("sha256")


def difference(a: Path, b: Path, codes: tuple[Mapping[str, Any], Mapping[str, Any]]) -> dict[str, Any]:
    """How the code of run `a` becomes that of run `b`, asked of the repository of the working directory.

    Returns:
        {"same": bool or None where it cannot be said, "stat": str, "diff": str, "reason": str or None}
    """
    empty = {"stat": "", "diff": "", "reason": None}
    for run, code in zip((a, b), codes):
        if "reason" in code:
            return {"same": None, **empty, "reason": code["reason"]}
        if not re.fullmatch(r"[0-9a-f]{40,64}", str(code["commit"])):
            return {"same": None, **empty, "reason": f"{run} names no commit that git could have"}
        if code["patch"].startswith("# left out: "):
            return {"same": None, **empty, "reason": f"the patch of {run} leaves files out"}
    if codes[0] == codes[1]:
        return {"same": True, **empty}
    # From the top: a patch names its files from there.
    root = repository.top(Path.cwd()) or Path.cwd()
    with repository.beside(root) as environment:
        trees = []
        for run, code in zip((a, b), codes):
            tree = _tree(root, code["commit"], run / PATCH if code["patch"] else None, environment)
            if tree is None:
                said = f"git here has no commit {code['commit'][:12]}, or the patch of {run} does not apply to it"
                return {"same": None, **empty, "reason": said}
            trees.append(tree)
        if trees[0] == trees[1]:
            return {"same": True, **empty}
        shown = ("diff", "--no-color", "--no-ext-diff", "--no-textconv")
        stat, text = (
            (repository.git(root, *shown, *more, *trees, environment=environment) or b"").decode(errors="replace")
            for more in (["--stat"], [])
        )
    return {"same": False, "stat": stat.rstrip(), "diff": text, "reason": None}


def _tree(root: Path, commit: str, patch: Path | None, environment: Mapping[str, str]) -> str | None:
    """The name of the tree of a commit with a patch on it; None where there is none."""
    steps: list[tuple[str, ...]] = [("read-tree", f"{commit}^{{tree}}")]
    if patch is not None:
        steps.append(("apply", "--cached", "--whitespace=nowarn", str(patch.absolute())))
    for step in (*steps, ("write-tree",)):
        found = repository.git(root, *step, environment=environment)
        if found is None:
            return None
    return found.decode().strip() if found else None
