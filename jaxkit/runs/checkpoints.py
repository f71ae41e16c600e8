"""Checkpoints: complete or they do not count: the manifest, with the hash of every file, comes last.

One process writes the arrays itself (`runs.arrays`); what many processes share goes through Orbax. A directory
without a manifest does not count, whatever is in it. Deleting goes the other way round: the manifest goes first.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxkit.checks import path_of
from jaxkit.errors import UsageError
from jaxkit.runs import arrays, files, together, verifying
from jaxkit.runs.verifying import MANIFEST as MANIFEST
from jaxkit.runs.verifying import manifest as manifest
from jaxkit.runs.verifying import steps as steps
from jaxkit.runs.verifying import verify as verify


def save(
    directory: Path,
    step: int,
    tree: Any,
    *,
    noted: Mapping[str, str] = {},
    damaged: Collection[int] = (),
    sharded: bool | None = None,
) -> None:
    """Writes `tree` as the checkpoint of a step, then deletes all but this and the whole one before it.

    `tree` may be packed already (`arrays.pack`). Waits until everything is on the disk. Of other steps those go
    that are `damaged`, and up to this one what a kill has left behind without a manifest. `noted` says what the
    record holds, and stands in the manifest.

    With many processes each calls this and writes its part of what is sharded; the directory is one that all
    share. Process 0 does the rest. `sharded`: whether Orbax writes; None: where there are many processes.

    Raises:
        OSError: it cannot be written; the older checkpoints are as they were.
    """
    target, leads = directory / str(step), jax.process_index() == 0
    sharded = jax.process_count() > 1 if sharded is None else sharded
    packed = tree if isinstance(tree, arrays.Packed) else None
    if packed is None and not sharded:
        packed = arrays.pack(jax.device_get(tree))
    if leads:
        _remove(target)
        target.mkdir(parents=True)
    try:
        if leads:
            _check_free(target, packed.nbytes if packed else sum(leaf.nbytes for leaf in jax.tree.leaves(tree)))
        if packed:
            hashes = arrays.write(target, packed)
        else:
            _save_sharded(target, tree)
            hashes = verifying.hashes(target) if leads else {}
        if leads:
            files.write_json(target / MANIFEST, {"step": step, **noted, "files": hashes})
    except BaseException:
        if leads:
            shutil.rmtree(target, ignore_errors=True)
        raise
    if not leads:
        return
    _note_first(directory, step)
    clear(directory, step, damaged)


def clear(directory: Path, step: int, damaged: Collection[int] = ()) -> None:
    """Deletes all but a step's checkpoint and the whole one before it; newer ones only where they are `damaged`.

    Raises:
        OSError: one cannot be deleted.
    """
    before = [found for found in steps(directory) if found < step and found not in damaged]
    gone = lambda number: (number < step or number in damaged) and number not in (*before[-1:], step)
    for path in directory.iterdir():
        if verifying.is_step(path) and gone(int(path.name)):
            _remove(path)


def _note_first(directory: Path, step: int) -> None:
    """Notes, for good, that a checkpoint is whole: from then on a directory without one has lost it."""
    # With the names of the directory itself, and of the record beside it.
    for folder in (directory, directory.parent):
        files.sync_directory(folder)
    # The checkpoint is as good without the note; the next one tries again.
    with contextlib.suppress(OSError):
        if not (directory / verifying.FIRST).exists():
            files.write_text(directory / verifying.FIRST, f"{step}\n")


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


def restore(
    directory: Path, abstract: Any, warn: Callable[[str], None], shardings: Mapping[str, Any] | None = None
) -> tuple[int, Any] | None:
    """The newest checkpoint that is what its manifest says, as numpy arrays; None where there is none.

    `abstract` is a dict of pytrees of shapes and dtypes; for a name in `shardings` the arrays are put on the
    devices, where it says. A damaged checkpoint, or one without a manifest, is named through `warn`, and passed
    over; where none is whole any more, or one cannot be read, that is for the user to decide. With many
    processes each calls this, and process 0 chooses for all.

    Returns:
        (step, tree).

    Raises:
        UsageError: there were checkpoints and none is whole, or one cannot be read now.
        ValueError: a whole checkpoint holds another structure than `abstract`.
    """
    step = together.from_first(verifying.newest(directory, warn) if jax.process_index() == 0 else 0)
    return None if step < 0 else (step, _read(directory / str(step), abstract, shardings or {}))


def load(checkpoint: Path, abstract: Any) -> Any:
    """What is in one checkpoint, as numpy arrays of the shapes and dtypes of `abstract`; it is not verified.

    Raises:
        ValueError: it holds another structure.
    """
    return _read(checkpoint, abstract, {})


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

    def fitting(path, leaf, wanted):
        # To whoever asks for numpy, Orbax gives the numbers that a key consists of.
        if jax.dtypes.issubdtype(wanted.dtype, jax.dtypes.prng_key) and isinstance(leaf, np.ndarray):
            leaf = arrays.as_key(leaf, wanted.dtype)
        if leaf.shape != wanted.shape:
            raise ValueError(
                f"{checkpoint}: {path_of(path)}: holds {leaf.shape}, this config makes {wanted.shape}"
            )
        return leaf

    return jax.tree_util.tree_map_with_path(fitting, tree, abstract)


def _put(tree: Any, shardings: Any) -> Any:
    place = lambda leaf, sharding: jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)
    return jax.tree.map(place, tree, shardings)
