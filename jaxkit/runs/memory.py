"""What the process does with memory that XLA gives back."""

import ctypes
import platform

from jaxkit import backends
from jaxkit.recipe import Plan

# Of malloc.h; mallopt(3) says what they mean.
_ARENA_MAX, _MMAP_MAX, _TRIM_THRESHOLD = -8, -4, -1
# The most that an arena beside the first can hold in one block.
_HEAP_BYTES = 2**26
# How much of all that a step computes may be held at once. A guess, and a wrong one costs time alone: the updates
# of configs/digits.py and configs/stdlib_gpt.py hold less, one without an optimizer can hold more.
_HELD = 0.25


def prepare(plan: Plan) -> None:
    """Keeps the memory that this run's steps free, where they are large, and are computed by this process.

    Small ones malloc keeps by itself; there, and where an accelerator has memory of its own, programs compile
    faster when each thread has an arena. It comes too late after a layout that has asked for devices (`mesh`).
    """
    if backends.platform() == "cpu" and plan.intermediate_bytes * _HELD > _HEAP_BYTES:
        keep_freed()


def keep_freed() -> bool:
    """Lets this process keep the memory it frees, for the next step; says whether the C library can.

    All that a step computes on a CPU on the way is one block, which XLA asks for and gives back at each
    step. The GNU C library maps so large a block anew each time, and the kernel clears it page by page, a fifth of
    the time of a small GPT's step. To be called before jax makes its threads, which is with the first array.

    Example:
        >>> keep_freed() in (True, False)
        True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    # One arena, because others cannot hold large blocks; nothing mapped apart; nothing handed back.
    return all([set_option(_ARENA_MAX, 1), set_option(_MMAP_MAX, 0), set_option(_TRIM_THRESHOLD, -1)])
