"""Where a run comes from: code, versions, devices, data, command."""

import fnmatch
import functools
import hashlib
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxkit.errors import UsageError
from jaxkit.runs import directory, files, repository

# A larger patch is data that somebody forgot to ignore.
MAX_PATCH_BYTES = 10 * 2**20
# Files that by their names hold what nobody else may read; and how such content looks.
KEYS = (
    *(".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", "_netrc", ".pgpass", ".pypirc", ".npmrc"),
    *("*credentials", "*credentials*.json", "*credentials*.ini", "*service*account*.json", "*secret*.json"),
    *("*secrets*.y*ml", "*secrets*.toml", "kubeconfig", ".htpasswd"),
)
# Git searches for the same: what its regular expressions (POSIX, extended) and Python's have in common.
_KEY = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----|(^|[^0-9A-Za-z_])"
    rb"((AKIA|ASIA)[0-9A-Z]{16}([^0-9A-Za-z_]|$)|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40}"
    rb"|sk-[A-Za-z0-9_-]{40}|hf_[A-Za-z]{34}|AIza[A-Za-z0-9_-]{35}|xox[abp]-[A-Za-z0-9-]{20})",
    re.MULTILINE,
)
_BY_CONTENT = "it looks like a key by its content"
# The names of the files of which a line that looks so was removed or added, in text or not.
_SEARCH = ("--name-only", "-z", "--text", f"-G{_KEY.pattern.decode()}")
# What changes the numbers; nothing else of the environment is written down, it may hold secrets.
NUMBERS = (
    *("XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64", "JAX_DEFAULT_DTYPE_BITS", "JAX_NUMPY_DTYPE_PROMOTION"),
    *("JAX_DEFAULT_PRNG_IMPL", "JAX_THREEFRY_PARTITIONABLE", "JAX_THREEFRY_GPU_KERNEL_LOWERING"),
    *("JAX_RANDOM_SEED_OFFSET", "JAX_DEFAULT_MATMUL_PRECISION", "NVIDIA_TF32_OVERRIDE", "LIBTPU_INIT_ARGS"),
)
ENVIRONMENT = (*NUMBERS, "CUDA_VISIBLE_DEVICES")

_PACKAGES = {"site-packages", "dist-packages"}
# The types of what is read back; [kind]: a list of those.
_START = {
    "fingerprint": str,
    "command": [str],
    "experiment": str,
    "git": {"commit": str, "directory": str, "error": str},
    "patch": {"sha256": str},
    "packages": dict,
    "environment": dict,
    "data": dict,
}
_KINDS = {**_START, "resumed": [_START], "config_changes": list}


def collect(*, fingerprint: str, seed: int, manifests: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance of this process's run; without the patch, which `patch` gives."""
    import jax

    devices = jax.devices()
    return {
        "fingerprint": fingerprint,
        "command": [Path(sys.executable).name, *sys.argv],
        "experiment": experiment(Path(sys.argv[0])),
        "seed": seed,
        "git": git_state(Path.cwd()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages(),
        "devices": [f"{device.platform}:{device.device_kind}" for device in devices],
        "driver": devices[0].client.platform_version,
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        "data": dict(manifests),
    }


def note(folder: Path, noted: Mapping[str, Any]) -> None:
    """Writes the provenance of a start into a run directory, and the patch of the working tree beside it.

    What the run was started with stays; each later start is noted under "resumed", with a patch of its own.

    Raises:
        OSError: it cannot be written.
    """
    text = patch(Path.cwd(), leave_out=folder)
    noted = {**noted, "patch": {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)}}
    if "commit" in noted.get("git", {}):
        noted["git"] = {**noted["git"], "dirty": None if text.startswith(_NO_PATCH) else bool(text)}
    before = read(folder)
    begun = "fingerprint" in before
    resumed = [*before.get("resumed", []), noted] if begun else []
    files.write_bytes(folder / (f"dirty-{len(resumed)}.patch" if resumed else "dirty.patch"), text)
    files.write_json(folder / directory.PROVENANCE, {**({} if begun else noted), **before, "resumed": resumed})


def read(folder: Path) -> dict[str, Any]:
    """What a run directory says of where the run comes from, {} for nothing.

    Raises:
        UsageError: something in it is of another type than a run writes.
    """
    path = folder / directory.PROVENANCE
    found = files.read_json(path) or {}
    _check(found, _KINDS, path)
    return found


def _check(found: Any, kind: Any, path: Path, where: str = "") -> None:
    wanted: Any = kind if isinstance(kind, type) else type(kind)
    if not isinstance(found, wanted):
        raise files.damaged(path, f"{where}: came {found!r}, wanted {wanted.__name__}")
    if isinstance(kind, dict):
        for name in [name for name in kind if name in found]:
            _check(found[name], kind[name], path, f"{where}.{name}".lstrip("."))
    for item in found if isinstance(kind, list) else ():
        _check(item, kind[0], path, where)


def check_same_data(folder: Path, manifests: Mapping[str, Any]) -> None:
    """Refuses to go on with other data than a run was started with."""
    from jaxkit.data.manifests import differences

    before = read(folder).get("data", {})
    for split, manifest in manifests.items():
        found = differences(files.part(before, split), manifest) if split in before else []
        if found:
            raise UsageError(
                f"config.data.{split}: is not the data that this run was started with: {found[0]};"
                " restore it, or start afresh with another --workdir=DIR"
            )


def packages() -> dict[str, str]:
    """The version of every installed package, by its normalised name.

    Source:
        Names and directories as the packaging standards define them (PEP 503, PEP 427).

    Example:
        >>> "jax" in packages()
        True
    """
    found: dict[str, str] = {}
    for place in sys.path:
        # The directory's name says both; to parse what is in it takes a start a fifth of a second.
        for path in Path(place or ".").glob("*.dist-info"):
            name, _, version = path.name.removesuffix(".dist-info").rpartition("-")
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)
    return dict(sorted(found.items()))


def git_state(directory: Path) -> dict[str, Any]:
    """The commit that the working tree stands on, and where in it this is.

    {} where there is no repository, and {"error": why} where git does not say what is in one.
    """
    commit = repository.git(directory, "rev-parse", "--verify", "HEAD")
    if commit is None:
        error = repository.trouble(directory)
        return {} if error is None else {"error": error}
    return {
        "commit": commit.decode().strip(),
        "directory": os.fsdecode(repository.git(directory, "rev-parse", "--show-prefix") or b"").strip(),
    }


def unrecorded(directory: Path, started: Path) -> list[str]:
    """What its provenance does not say of the code of a run that was started there with that file, a line each."""
    found, top = git_state(directory), repository.top(directory)
    if "error" in found:
        return [f"the code of this run is not recorded, git says: {found['error']}"]
    if top is None:
        return []
    # What was installed is recorded by its version.
    of_another = lambda path: not (_PACKAGES & set(path.parts) or path.is_relative_to(top.resolve()))
    started, ours, said = started.resolve(), Path(__file__).resolve().parent.parent, []
    if started.suffix == ".py" and of_another(started):
        said.append(f"{started} is not in {top}, whose commit is recorded, so `jaxkit reproduce` cannot run it")
    if of_another(ours):
        said.append(f"jaxkit itself is that of {ours.parent}, not of {top}, whose commit is recorded")
    return said


def experiment(path: Path) -> str:
    """The file that was started, as its place in its repository; its whole path where it is in none."""
    whole, top = path.resolve(), repository.top(path.absolute().parent)
    return str(whole.relative_to(top.resolve()) if top and whole.is_relative_to(top.resolve()) else whole)


def patch(directory: Path, *, leave_out: Path) -> bytes:
    """What the commit does not say: changed and new files as one patch that `git apply` takes.

    Without git, or where nothing differs, it is empty. Files of more than 10 MB are left out, or the largest,
    where it is more than that in all, and so are files that look like keys, now or in the commit, or that cannot
    be read, and what is a repository of its own; the text says so.
    Neither `leave_out` (the run directory), nor what is in another run's, nor a directory `runs` is part of it.
    """
    root = repository.top(directory)
    if root is None:
        return b""
    changed = _changed(root, leave_out.absolute())
    reasons = {path: _why_not(root / path) for path in changed or ()}
    wanted = lambda: [path for path in reasons if not reasons[path]]
    # A key that was removed stands in the difference all the same.
    removed = None if changed is None else _difference(root, wanted(), *_SEARCH)
    reasons |= {path: _BY_CONTENT for path in os.fsdecode(removed or b"").split("\0") if path}
    names = None if removed is None else _difference(root, wanted(), "--name-only", "-z")
    difference = None if names is None else _difference(root, wanted(), "-p", "--binary")
    if difference is None:
        return _NO_PATCH + b", git could not make it\n"
    parts = _parts(difference, os.fsdecode(names or b"").split("\0")[:-1])
    excess = len(difference) - MAX_PATCH_BYTES
    for path in sorted(parts, key=lambda path: -len(parts[path])):
        if excess > 0:
            excess -= len(parts.pop(path))
            reasons[path] = f"with it the patch would be of more than {MAX_PATCH_BYTES} bytes"
    said = b"".join(os.fsencode(f"# left out: {path}, {why}\n") for path, why in reasons.items() if why)
    return said + b"".join(parts.values())


def _parts(difference: bytes, names: list[str]) -> dict[str, bytes]:
    """The difference file by file; all of it under one name, should git have said it otherwise than it does."""
    # The lines of a file have a sign before them, and those of bytes no space within.
    found = re.split(rb"^(?=diff --git )", difference, flags=re.MULTILINE)[1:]
    return dict(zip(names, found)) if len(names) == len(found) else {"all of the patch": difference}


# How a patch begins that there is none of.
_NO_PATCH = b"# left out: all of the patch"


def _difference(root: Path, names: list[str], *form: str) -> bytes | None:
    """What these files make different from the commit, in a form of git's; None where git cannot say it."""
    if not names:
        return b""
    with repository.beside(root) as environment:
        # One that has gone meanwhile is taken as removed, and no error.
        add = ("update-index", "-z", "--add", "--remove", "--replace", "--stdin")
        given = os.fsencode("".join(f"{name}\0" for name in names))
        # Not `diff`: how users like to see theirs is for nobody to apply.
        for step in (("read-tree", "HEAD"), add, ("diff-index", "--cached", *form, "HEAD")):
            # What is searched for is bytes; what filters make of a file is for the user's own locale.
            env = environment if step is add else {**environment, "LC_ALL": "C"}
            found = repository.git(root, *step, environment=env, given=given if step is add else b"")
            if found is None:
                return None
        return found


def _why_not(path: Path) -> str:
    """Why a file is no part of a patch; empty where it is."""
    # Also of one that was deleted: the patch would hold what was in it.
    if any(fnmatch.fnmatch(path.name.lower(), pattern) for pattern in KEYS):
        return "it looks like a key by its name"
    # Of a link git keeps where it leads to, and not what is there.
    if path.is_symlink():
        return ""
    if path.is_dir():
        return "it is a repository of its own"
    try:
        if path.stat().st_size > MAX_PATCH_BYTES:
            return f"more than {MAX_PATCH_BYTES} bytes"
        return _BY_CONTENT if _KEY.search(path.read_bytes()) else ""
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError:
        return "it cannot be read"


def _changed(root: Path, leave_out: Path) -> list[str] | None:
    """The files that differ from the commit, removed ones too; no pipes, sockets or what is in a run directory."""
    # Not as renames: those name the new file alone.
    shown = ("--name-only", "--no-renames", "--ignore-submodules=none", "-z")
    changed = repository.git(root, "diff", *shown, "HEAD")
    new = repository.git(root, "ls-files", "--others", "--exclude-standard", "-z")
    if changed is None or new is None:
        return None
    names = [name.rstrip("/") for name in os.fsdecode(changed + new).split("\0") if name]
    file = lambda path: not os.path.exists(path) or os.path.isfile(path) or os.path.islink(path)
    wanted = lambda path: file(path) or os.path.exists(path / ".git")
    of_run = functools.cache(directory.holds_run)
    within = lambda path: [folder for folder in path.parents if folder != root and folder.is_relative_to(root)]
    outside = lambda path: not path.is_relative_to(root / "runs") and not path.is_relative_to(leave_out)
    ours = lambda path: outside(path) and not any(map(of_run, within(path)))
    return sorted({name for name in names if wanted(root / name) and ours(root / name)})
