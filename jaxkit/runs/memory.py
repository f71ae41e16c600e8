"""What the process does with memory that XLA gives back."""

import ctypes
import platform

# Of malloc.h; mallopt(3) says what they mean.
_ARENA_MAX, _MMAP_MAX, _TRIM_THRESHOLD = -8, -4, -1


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
