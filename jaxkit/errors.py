"""The one error for a user's mistake, and the nearest name; without jax, so that a config is read quickly."""

from collections.abc import Iterable
from pathlib import Path


class UsageError(ValueError):
    """A mistake that one line explains: the command line prints the line and exits with code 2."""


class Busy(UsageError):
    """Somebody else is at it: the same command works later, and the exit code says so (75, try again)."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """How a message about an unknown name goes on: with the nearest known one, where there is one.

    Example:
        >>> "no 'feature'" + did_you_mean("feature", ["features", "num_classes"])
        "no 'feature'; did you mean 'features'?"
        >>> "no 'zzz'" + did_you_mean("zzz", ["features"])
        "no 'zzz'."
    """
    import difflib  # here, because only a mistake needs it

    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def place(error: BaseException) -> str:
    """The innermost line of the user's own on the way to an error, in parentheses; "" where there is none.

    Example:
        >>> place(ValueError("was never raised"))
        ''
    """
    import sysconfig  # these two here, because only a mistake needs them
    import traceback

    ours = (str(Path(__file__).parent), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), "<")
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(ours)]
    return f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
