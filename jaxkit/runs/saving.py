"""Checkpoints written beside the training: the loop stands still for a copy of the state, and no longer.

The memory of the copy stays the saver's from one save to the next: memory that is new to a process the system
clears page by page, which can take longer than the copy.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxkit.runs import arrays, checkpoints, process


class Saver(NamedTuple):
    """Saves one checkpoint at a time; `save` and `wait` raise what went wrong with the one before.

    save:    (step, tree, noted) -> None; waits for the one before, takes a copy, and returns; `noted` says what
             the record holds
    wait:    () -> None; until the last one is on the disk
    stalled: () -> seconds that the caller has stood still for all of them
    """

    save: Callable[[int, Any, Mapping[str, str]], None]
    wait: Callable[[], None]
    stalled: Callable[[], float]


@contextlib.contextmanager
def finished(saver: Saver) -> Iterator[None]:
    """Waits for what a saver has under way when a run ends by an error of its own: that checkpoint is a good one.

    Example:
        >>> with finished(Saver(lambda step, tree, noted: None, lambda: print("waited"), lambda: 0.0)):
        ...     pass
    """
    try:
        yield
    except Exception:
        with contextlib.suppress(Exception):
            saver.wait()
        raise


def saver(directory: Path, damaged: Collection[int] = ()) -> Saver:
    """A saver for one run. Many processes write together, and none goes on before all have.

    `damaged` are the steps whose checkpoints were passed over: the first new one takes their place.

    Raises:
        OSError: by `save` and `wait`: a checkpoint could not be written; the older ones are as they were.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = saver(Path(folder))
        ...     found.save(3, {"w": jax.numpy.zeros(2)}, {})
        ...     found.wait()
        ...     checkpoints.steps(Path(folder))
        [3]
    """
    under_way: Callable[[], None] | None = None
    copy: arrays.Packed | None = None
    stalled = 0.0

    def done() -> None:
        nonlocal under_way, stalled
        began, waiting, under_way = time.monotonic(), under_way, None
        try:
            if waiting is not None:
                waiting()
        finally:
            stalled += time.monotonic() - began

    def save(step: int, tree: Any, noted: Mapping[str, str]) -> None:
        nonlocal under_way, stalled, damaged, copy
        done()
        began = time.monotonic()
        write = functools.partial(checkpoints.save, directory, step, noted=noted, damaged=damaged)
        damaged = ()
        if jax.process_count() > 1:
            write(tree)
        else:
            # The next step takes over the memory of this state, the next copy that of this one.
            copy = arrays.pack(jax.device_get(tree), copy)
            under_way = process.in_background(functools.partial(write, copy))
        stalled += time.monotonic() - began

    return Saver(save, done, lambda: stalled)
