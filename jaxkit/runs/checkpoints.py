"""Checkpoints: complete or they do not count: the manifest, with the SHA-256 of every file, comes last.

One process writes the arrays itself (`runs.arrays`); what many processes share goes through Orbax. A directory
without a manifest is something that a kill left behind, whatever is in it. Deleting goes the other way round: the
manifest goes first.
"""

import errno
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxkit.checks import path_of
from jaxkit.errors import UsageError
from jaxkit.runs import arrays, files, together

MANIFEST = "manifest.json"


def save(
    directory: Path, step: int, tree: Any, *, keep: int = 2, digest: str = "", sharded: bool | None = None
) -> None:
    """Writes `tree` as the checkpoint of a step, then deletes all but the newest `keep` up to it.

    Waits until everything is on the disk. What is of later steps was passed over as damaged, and what
    has no manifest was left behind by a kill: both go too. `digest` is that of the record at this step.

    With many processes each calls this and writes its part of what is sharded; the directory is one that all
    share. Process 0 does the rest. `sharded`: whether Orbax writes; None: where there are many processes.

    Raises:
        OSError: it cannot be written; the older checkpoints are as they were.
    """
    target, leads = directory / str(step), jax.process_index() == 0
    if jax.process_count() == 1:
        tree = jax.device_get(tree)
    if leads:
        _remove(target)
        target.mkdir(parents=True)
    try:
        if leads:
            _check_free(target, sum(leaf.nbytes for leaf in jax.tree.leaves(tree)))
        if jax.process_count() > 1 if sharded is None else sharded:
            _save_sharded(target, tree)
            hashes = _hashes(target) if leads else {}
        else:
            hashes = arrays.write(target, tree)
        if leads:
            files.write_json(target / MANIFEST, {"step": step, "digest": digest, "files": hashes})
    except BaseException:
        if leads:
            shutil.rmtree(target, ignore_errors=True)
        raise
    if not leads:
        return
    files.sync_directory(directory)
    kept = [found for found in steps(directory) if found <= step][-keep:]
    for path in directory.iterdir():
        if _is_step(path) and int(path.name) not in kept:
            _remove(path)


def _save_sharded(target: Path, tree: Any) -> None:
    import orbax.checkpoint as ocp

    together.wait(f"checkpoint {target.name} is begun")
    try:
        # Returns when all have written.
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            checkpointer.save(target.absolute() / "state", args=ocp.args.PyTreeSave(tree))
    except Exception as error:
        # TensorStore raises a ValueError for what the file system says.
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code:
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(target)) from error
        raise


def _remove(path: Path) -> None:
    """Deletes a checkpoint, the manifest first; of a link, or a file in its place, only that."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    if (path / MANIFEST).is_file():
        (path / MANIFEST).unlink()
    shutil.rmtree(path)


def _check_free(directory: Path, wanted: int) -> None:
    # Asked first: Orbax writes on several threads, and each prints a traceback of its own.
    if shutil.disk_usage(directory).free < wanted + 2**18:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def check_room(directory: Path, state_bytes: int) -> None:
    """Checks before any work that the disk has room for the checkpoints of a state of that size.

    `directory` is the run's; it need not be there yet.

    Raises:
        UsageError: it has not.
    """
    # The one that is being written beside those that are kept, and a little for everything else.
    missing = max(1, 3 - len(steps(directory / "checkpoints")))
    existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    wanted, free = missing * state_bytes + 2**20, shutil.disk_usage(existing).free
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
    return sorted(int(path.parent.name) for path in found if _is_step(path.parent))


def _is_step(path: Path) -> bool:
    return re.fullmatch(r"0|[1-9][0-9]*", path.name) is not None


def record_digest(directory: Path, step: int) -> str | None:
    """The digest that the record had when a step's checkpoint was written; None where it was not noted.

    Example:
        >>> record_digest(Path("there_is_no_such_directory"), 3)
    """
    return (files.read_json(directory / str(step) / MANIFEST) or {}).get("digest")


def restore(
    directory: Path, abstract: Any, warn: Callable[[str], None], shardings: Mapping[str, Any] | None = None
) -> tuple[int, Any] | None:
    """The newest checkpoint that is what its manifest says, as numpy arrays; None where there is none.

    `abstract` is a dict of pytrees of shapes and dtypes; for a name in `shardings` the arrays are put on the
    devices, where it says. A damaged checkpoint is named through `warn`, and passed over. With many processes
    each calls this, and process 0 chooses for all.

    Returns:
        (step, tree).

    Raises:
        ValueError: a whole checkpoint holds another structure than `abstract`.
    """
    step = together.from_first(_newest(directory, warn) if jax.process_index() == 0 else 0)
    return None if step < 0 else (step, _read(directory / str(step), abstract, shardings or {}))


def load(checkpoint: Path, abstract: Any) -> Any:
    """What is in one checkpoint, as numpy arrays of the shapes and dtypes of `abstract`; it is not verified.

    Raises:
        ValueError: it holds another structure.
    """
    return _read(checkpoint, abstract, {})


def _newest(directory: Path, warn: Callable[[str], None]) -> int:
    for step in reversed(steps(directory)):
        damage = verify(directory / str(step))
        if damage is None:
            return step
        warn(f"checkpoint {step} is damaged ({damage}) and passed over")
    return -1


def verify(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, None where every file is what the manifest says."""
    try:
        manifest = files.read_json(checkpoint / MANIFEST) or {}
        found = _hashes(checkpoint)
    except UsageError:
        return f"{MANIFEST} is not readable"
    except OSError as error:
        return f"{error.filename or checkpoint}: {error.strerror}"
    wanted = manifest.get("files")
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


def _read(checkpoint: Path, abstract: Any, shardings: Mapping[str, Any]) -> Any:
    if not (checkpoint / "state").is_dir():
        tree = arrays.read(checkpoint, abstract)
        return {**tree, **{name: _put(tree[name], places) for name, places in shardings.items()}}
    import orbax.checkpoint as ocp

    arguments = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), abstract)
    for name in shardings:
        arguments[name] = jax.tree.map(
            lambda leaf, sharding: ocp.ArrayRestoreArgs(dtype=leaf.dtype, sharding=sharding),
            abstract[name],
            shardings[name],
        )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.restore(
            checkpoint.absolute() / "state", args=ocp.args.PyTreeRestore(abstract, restore_args=arguments)
        )
    for (path, leaf), wanted in zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(abstract)):
        if leaf.shape != wanted.shape:
            raise ValueError(
                f"{checkpoint}: {path_of(path)}: holds {leaf.shape}, this config makes {wanted.shape}"
            )
    return tree


def _put(tree: Any, shardings: Any) -> Any:
    place = lambda leaf, sharding: jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)
    return jax.tree.map(place, tree, shardings)


def _hashes(checkpoint: Path) -> dict[str, str]:
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path != checkpoint / MANIFEST)
    return dict(zip((str(path.relative_to(checkpoint)) for path in paths), arrays.sha256(paths)))
