"""Where things of the user's are kept, where nobody says another place."""

import os
from pathlib import Path

from jaxkit.errors import UsageError


def home() -> Path:
    """The user's home directory.

    Raises:
        UsageError: there is none, as for a user of a container whom its system does not know.
    """
    try:
        return Path.home()
    except RuntimeError:
        raise UsageError("HOME: is not set, and this user has no home directory; set it to one") from None


def cache() -> Path:
    """Jaxkit's part of the user's cache directory: XDG_CACHE_HOME, or ~/.cache.

    Raises:
        UsageError: there is no home directory.

    Example:
        >>> cache().name
        'jaxkit'
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache") / "jaxkit"
