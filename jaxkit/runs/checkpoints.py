"""Checkpoints: written by Orbax, valid only with a manifest of every file's SHA-256, which comes last.

A directory without a manifest is something that a kill left behind, whatever is in it. Deleting goes
the other way round: the manifest goes first.
"""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxkit.errors import UsageError
from jaxkit.runs import files

MANIFEST = "manifest.json"


def save(directory: Path, step: int, tree: Any, *, keep: int = 2) -> None:
    """Writes `tree` as the checkpoint of a step, then deletes all but the newest `keep`.

    Waits until everything is on the disk.

    Raises:
        OSError: it cannot be written; the older checkpoints are as they were.
    """
    import orbax.checkpoint as ocp

    target = directory / str(step)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            checkpointer.save(target.absolute() / "state", args=ocp.args.PyTreeSave(jax.device_get(tree)))
        files.write_json(target / MANIFEST, {"step": step, "files": _hashes(target)})
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    files.sync_directory(directory)
    for old in steps(directory)[:-keep]:
        (directory / str(old) / MANIFEST).unlink()
        shutil.rmtree(directory / str(old))


def check_room(directory: Path, state_bytes: int) -> None:
    """Checks before any work that the disk has room for the checkpoints of a state of that size.

    Raises:
        UsageError: it has not.
    """
    # The one that is being written beside those that are kept, and a little for everything else.
    wanted, free = 3 * state_bytes + 2**20, shutil.disk_usage(directory).free
    if free < wanted:
        raise UsageError(
            f"workdir: the disk has {free / 2**20:,.1f} MiB free, the checkpoints of this run take"
            f" {wanted / 2**20:,.1f} MiB ({directory}); free some room, or choose another with --workdir=DIR"
        )


def steps(directory: Path) -> list[int]:
    """The steps with a complete checkpoint, oldest first.

    Example:
        >>> steps(Path("there_is_no_such_directory"))
        []
    """
    found = directory.glob(f"*/{MANIFEST}")
    return sorted(int(path.parent.name) for path in found if path.parent.name.isdigit())


def restore(directory: Path, abstract: Any, warn: Callable[[str], None]) -> tuple[int, Any] | None:
    """The newest checkpoint that is what its manifest says, as numpy arrays; None where there is none.

    `abstract` is a pytree of shapes and dtypes. A damaged checkpoint is named through `warn`, and
    passed over.

    Returns:
        (step, tree).

    Raises:
        ValueError: a whole checkpoint holds another structure than `abstract`.
    """
    for step in reversed(steps(directory)):
        damage = verify(directory / str(step))
        if damage is None:
            return step, _read(directory / str(step), abstract)
        warn(f"checkpoint {step} is damaged ({damage}) and passed over")
    return None


def verify(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, None where every file is what the manifest says."""
    try:
        wanted = (files.read_json(checkpoint / MANIFEST) or {})["files"]
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is not readable"
    found = _hashes(checkpoint)
    for name in sorted({*wanted, *found}):
        if name not in found:
            return f"{name} is missing"
        if wanted.get(name) != found[name]:
            return f"{name} is not what was written"
    return None


def _read(checkpoint: Path, abstract: Any) -> Any:
    import orbax.checkpoint as ocp

    arguments = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), abstract)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.restore(
            checkpoint.absolute() / "state", args=ocp.args.PyTreeRestore(abstract, restore_args=arguments)
        )
    for (path, leaf), wanted in zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(abstract)):
        if leaf.shape != wanted.shape:
            raise ValueError(
                f"{checkpoint}: {jax.tree_util.keystr(path)}: holds {leaf.shape}, this config makes {wanted.shape}"
            )
    return tree


def _hashes(checkpoint: Path) -> dict[str, str]:
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path != checkpoint / MANIFEST)
    return {str(path.relative_to(checkpoint)): _sha256(path) for path in paths}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
