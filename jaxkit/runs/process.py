"""What a run asks of its process: signals, a thread beside it, the cache of compiled programs."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def cache_programs() -> None:
    """Compiled programs are kept between processes, under the user's cache directory."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxkit" / "programs"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@contextlib.contextmanager
def signals() -> Iterator[threading.Event]:
    """SIGTERM, SIGHUP and Ctrl-C ask the loop to stop after the step it is in; a second Ctrl-C does not ask."""
    stopped = threading.Event()

    def stop(number, frame):
        if stopped.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stopped.set()

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    # What is ignored stays so: nohup means that.
    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    numbers = [number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def in_background(function: Callable[[], None]) -> Callable[[], None]:
    """Starts a function on a thread; what is returned waits for it, and raises what it raised."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()

    def wait() -> None:
        thread.join()
        if errors:
            raise errors[0]

    return wait


def started_at() -> float:
    """When this process was started, in seconds since the epoch.

    Example:
        >>> import time
        >>> started_at() < time.time()
        True
    """
    try:
        # Since the machine was, to a hundredth of a second; when that was is known to whole seconds only.
        after_boot = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - after_boot / os.sysconf("SC_CLK_TCK")
        return time.time() - age
    except (OSError, AttributeError):
        import psutil

        return psutil.Process().create_time()


def discard_output() -> None:
    """What is printed from now on goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
