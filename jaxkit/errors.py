"""The one error for a user's mistake, and the nearest name; without jax, so that a config is read quickly."""

from collections.abc import Iterable


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
