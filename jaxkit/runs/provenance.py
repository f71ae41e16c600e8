"""Where a run comes from: code, versions, devices, data, command."""

import fnmatch
import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxkit.errors import UsageError
from jaxkit.runs import directory, files

# A larger patch is data that somebody forgot to ignore.
MAX_PATCH_BYTES = 10 * 2**20
# Files that by their names hold what nobody else may read; and how such content looks.
KEYS = (
    *(".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", "_netrc", ".pgpass", ".pypirc", ".npmrc"),
    *("credentials", "*credentials*.json", "*credentials*.ini", "*service*account*.json", "*secret*.json"),
    *("*secrets*.y*ml", "*secrets*.toml", "kubeconfig", ".htpasswd"),
)
_KEY = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\b(AKIA|ASIA)[0-9A-Z]{16}\b"
    rb"|\bgh[pousr]_[A-Za-z0-9]{36}|\bsk-[A-Za-z0-9]{40}"
)
# What changes the numbers; nothing else of the environment is written down, it may hold secrets.
ENVIRONMENT = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64", "CUDA_VISIBLE_DEVICES")

# The types of what is read back; [kind]: a list of those.
_START = {
    "fingerprint": str,
    "command": [str],
    "experiment": str,
    "git": {"commit": str, "directory": str},
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
        found = differences(before[split], manifest) if split in before else []
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
    """The commit that the working tree stands on, whether the tree differs from it, and where in it this is.

    {} without git.
    """
    commit = _git(directory, "rev-parse", "HEAD")
    if commit is None:
        return {}
    return {
        "commit": commit.decode().strip(),
        "dirty": bool(_git(directory, "status", "--porcelain")),
        "directory": (_git(directory, "rev-parse", "--show-prefix") or b"").decode().strip(),
    }


def experiment(path: Path) -> str:
    """The file that was started, as its place in its repository; its whole path where it is in none."""
    top = _git(path.absolute().parent, "rev-parse", "--show-toplevel")
    whole, root = path.resolve(), Path(top.decode().strip()).resolve() if top else None
    return str(whole.relative_to(root) if root and whole.is_relative_to(root) else whole)


def patch(directory: Path, *, leave_out: Path) -> bytes:
    """What the commit does not say: changed and new files as one patch that `git apply` takes.

    Without git, or where nothing differs, it is empty. What is larger than 10 MB is left out, one file or all
    together, and so are files that look like keys; the text says so. Neither `leave_out` (the run directory) nor a
    directory `runs` is part of it.
    """
    top = _git(directory, "rev-parse", "--show-toplevel")
    if top is None:
        return b""
    root = Path(top.decode().strip())
    changed = _changed(root, leave_out.absolute())
    reasons = {path: _why_not(root / path) for path in changed}
    said = "".join(f"# left out: {path}, {why}\n" for path, why in reasons.items() if why).encode(
        errors="surrogateescape"
    )
    found = [path for path in changed if not reasons[path]]
    if not found:
        return said
    with tempfile.TemporaryDirectory() as temporary:
        # An index of its own: the user's staging area is not touched.
        environment = {**os.environ, "GIT_INDEX_FILE": str(Path(temporary) / "index")}
        names = "\0".join(found).encode(errors="surrogateescape")
        from_names = ("--pathspec-from-file=-", "--pathspec-file-nul")
        _git(root, "read-tree", "HEAD", environment=environment)
        _git(root, "add", "--all", *from_names, environment=environment, given=names)
        difference = _git(root, "diff", "--cached", "--binary", "HEAD", environment=environment) or b""
    if len(difference) > MAX_PATCH_BYTES:
        return said + f"# left out: all of the patch, {len(difference)} bytes\n".encode()
    return said + difference


def _why_not(path: Path) -> str:
    """Why a file is no part of a patch; empty where it is."""
    if not path.exists():
        return ""
    if path.stat().st_size > MAX_PATCH_BYTES:
        return f"more than {MAX_PATCH_BYTES} bytes"
    if any(fnmatch.fnmatch(path.name.lower(), pattern) for pattern in KEYS):
        return "it looks like a key by its name"
    with path.open("rb") as file:
        return "it looks like a key by its content" if _KEY.search(file.read()) else ""


def _changed(root: Path, leave_out: Path) -> list[str]:
    """The files that differ from the commit, removed ones too; no pipes, sockets or what is in a run directory."""
    changed = _git(root, "diff", "--name-only", "-z", "HEAD") or b""
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z") or b""
    names = filter(None, (changed + new).decode(errors="surrogateescape").split("\0"))
    wanted = lambda path: not path.exists() or path.is_file()
    outside = lambda path: not path.is_relative_to(root / "runs") and not path.is_relative_to(leave_out)
    return sorted({name for name in names if wanted(root / name) and outside(root / name)})


def _git(
    directory: Path, *arguments: str, environment: Mapping[str, str] | None = None, given: bytes = b""
) -> bytes | None:
    command = ["git", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(command, check=True, capture_output=True, env=environment, input=given, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
