"""What a function decided while it was traced (which kernel, and why), for the preflight to say."""

import contextlib
import contextvars
from collections.abc import Iterator

_collected: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("notes", default=None)


def note(text: str) -> None:
    """Says something once to whoever collects notes; else nothing happens. It changes no number.

    Example:
        >>> note("nobody listens")
    """
    found = _collected.get()
    if found is not None and text not in found:
        found.append(text)


@contextlib.contextmanager
def collect() -> Iterator[list[str]]:
    """Collects the notes of what is traced inside.

    Example:
        >>> with collect() as found:
        ...     note("attention: xla")
        >>> found
        ['attention: xla']
    """
    found: list[str] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)
