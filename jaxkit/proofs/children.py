"""Processes that a proof starts: each in a group of its own, so that a kill takes all of it and nothing else."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jaxkit


@contextlib.contextmanager
def started(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    directory: Path | None = None,
) -> Iterator[subprocess.Popen]:
    """A process whose output goes to the end of `log`; it is killed where the context ends before it does."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=directory,
            process_group=0,
        )
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen) -> None:
    """Sends SIGKILL to the process and its group; waits for its end."""
    # While it is not waited for, its number cannot be another's.
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def environment(*first: Path) -> dict[str, str]:
    """This process's environment, in which Python looks in `first`, and then where this very jaxkit is."""
    places = [*map(str, first)]
    ours = Path(jaxkit.__file__).parent.parent
    if ours.name != "site-packages":
        places.append(str(ours))
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*places, *filter(None, [os.environ.get("PYTHONPATH")])])}


def last_words(log: Path) -> str:
    """The last line that a process printed, for a message.

    Example:
        >>> last_words(Path("there_is_no_such_file"))
        'it printed nothing'
    """
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except FileNotFoundError:
        lines = []
    return lines[-1] if lines else "it printed nothing"
