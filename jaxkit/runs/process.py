"""What a run asks of its process: signals, output, a thread beside it."""

import contextlib
import io
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TextIO, TypeVar

from jaxkit.errors import UsageError
from jaxkit.runs.peers import TRY_AGAIN

STOP_SECONDS = "JAXKIT_STOP_SECONDS"

Result = TypeVar("Result")


def keep_to_itself(file: IO[Any]) -> None:
    """What user code forks off does not hold the file open: others wait for its end, not for that of a child."""
    number, kept = file.fileno(), weakref.ref(file)

    def let_go() -> None:
        file = kept()
        if file is not None and not file.closed:
            # Closing it would write once more what waits to be written, or for a thread that is not there.
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number, inheritable=False)
            os.close(null)

    os.register_at_fork(after_in_child=let_go)


@contextlib.contextmanager
def handled(handler: Callable[[int, Any], None], *numbers: signal.Signals) -> Iterator[None]:
    """Signals go to a handler while the context lasts; those that are ignored stay so: nohup means that.

    On any other thread than the main one, nothing is changed.
    """
    main = threading.current_thread() is threading.main_thread()
    wanted = [number for number in numbers if main and signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


# Python drops what a handler raises within a callback of its garbage collector, and jax has one: so it is noted.
_asked = threading.Event()


@contextlib.contextmanager
def asked_to_stop() -> Iterator[None]:
    """SIGTERM and SIGHUP end what is inside as Ctrl-C does, so that it can clean up behind itself."""

    def stop(number, frame):
        _asked.set()
        raise KeyboardInterrupt

    _asked.clear()
    try:
        with handled(stop, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            yield
    finally:
        _asked.clear()


def check_asked() -> None:
    """Ends what `asked_to_stop` is to end, where that was asked and came to nothing.

    Raises:
        KeyboardInterrupt: it was.

    Example:
        >>> check_asked()
    """
    if _asked.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def signals() -> Iterator[threading.Event]:
    """SIGTERM, SIGHUP and Ctrl-C ask the loop to stop after the step it is in; a second Ctrl-C does not ask.

    Where JAXKIT_STOP_SECONDS sets a time and the loop has not stopped and saved by then, the process ends without:
    the checkpoint before is whole.

    Raises:
        UsageError: what it is set to is no number of seconds.
    """
    stopped, limit, timers = threading.Event(), seconds_of(STOP_SECONDS), list[threading.Timer]()

    def stop(number, frame):
        if stopped.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        if limit is not None and not timers:
            timers.append(threading.Timer(limit, _give_up, [limit]))
            timers[0].daemon = True
            timers[0].start()
        stopped.set()

    try:
        with handled(stop, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if _asked.is_set():
                stopped.set()
            yield stopped
    finally:
        for timer in timers:
            timer.cancel()


def seconds_of(name: str) -> float | None:
    """The number of seconds that an environment variable says, None where it is not set.

    Raises:
        UsageError: it says something else.

    Example:
        >>> seconds_of("JAXKIT_THERE_IS_NO_SUCH_TIME")
    """
    text = os.environ.get(name, "")
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"{name}: came {text!r}, wanted a number of seconds above 0")
    return seconds


def _give_up(seconds: float) -> None:
    text = (
        f"error: was asked to stop, and has not saved in {seconds:g} s ({STOP_SECONDS}); the same command goes on"
    )
    print(f"{text} from the checkpoint before", file=sys.stderr, flush=True)
    os._exit(TRY_AGAIN)


def in_background(function: Callable[[], Result]) -> Callable[[], Result]:
    """Starts a function on a thread; what is returned waits for it, and returns or raises what it did."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()

    def wait() -> Result:
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    return wait


def age() -> float:
    """For how long this process has been there, in seconds, by a clock that nobody sets.

    Example:
        >>> 0 < age() <= age()
        True
    """
    try:
        after_boot = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - after_boot / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):  # not Linux: the clock of the wall is all there is
        import psutil

        return time.time() - psutil.Process().create_time()


def outlive_readers() -> None:
    """Whoever reads what this process prints may leave, and it goes on; also where the terminal hangs up."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # Not what has been put in its place, as by a test or a notebook.
        if stream is not None and stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, unheard(stream))


def unheard(stream: TextIO) -> TextIO:
    """A stream to the same place, from which what is written goes nowhere as soon as it cannot be written.

    Example:
        >>> with open("/dev/full", "w") as full:
        ...     print("to a disk without room", file=unheard(full), flush=True)
    """
    with contextlib.suppress(OSError):
        stream.flush()
    raw = _Unheard(stream.fileno(), "w", closefd=False)
    buffer: Any = raw if getattr(stream, "write_through", False) else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=getattr(stream, "line_buffering", True),
        write_through=buffer is raw,
    )


class _Unheard(io.FileIO):
    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError:
            # A pipe without a reader, a terminal that has hung up, a full disk.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return memoryview(content).nbytes
