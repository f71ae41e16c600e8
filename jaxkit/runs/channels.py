"""Messages between processes: JSON, one a line, over a socket."""

import contextlib
import json
import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

# Every process is heard of this often.
SECONDS_BETWEEN_SIGNS = 1.0
TICK = 0.2
_LONGEST_LINE = 2**16


class Channel(NamedTuple):
    """Messages to and from another process.

    send:    (message) -> None; does nothing where nobody listens any more
    receive: () -> the messages that have come; raises EOFError where no more can come
    """

    socket: socket.socket
    send: Callable[[Mapping[str, Any]], None]
    receive: Callable[[], list[dict[str, Any]]]


def channel(connection: socket.socket) -> Channel:
    """Messages over a connected socket.

    Example:
        >>> here, there = map(channel, socket.socketpair())
        >>> here.send({"begun": 3})
        >>> there.receive()
        [{'begun': 3}]
        >>> here.socket.close(), there.socket.close()
        (None, None)
    """
    connection.settimeout(SECONDS_BETWEEN_SIGNS)
    rest = b""

    def send(message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(message).encode() + b"\n")

    def receive() -> list[dict[str, Any]]:
        nonlocal rest
        try:
            came = connection.recv(_LONGEST_LINE)
        except TimeoutError:
            return []
        except OSError as error:
            raise EOFError from error
        *lines, rest = (rest + came).split(b"\n")
        if not came or len(rest) > _LONGEST_LINE:
            raise EOFError
        try:
            found = [json.loads(line) for line in lines]
        except ValueError as error:
            raise EOFError from error
        return [message for message in found if isinstance(message, dict)]

    return Channel(connection, send, receive)


def part(channels: Iterable[Channel]) -> None:
    """Ends what is said over channels; it waits until all is read, since what a reset overtakes is lost."""
    until = time.monotonic() + 2 * SECONDS_BETWEEN_SIGNS
    open_ = {channel.socket for channel in channels if channel.socket.fileno() >= 0}
    for connection in open_:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
    while open_ and time.monotonic() < until:
        for connection in select.select(list(open_), [], [], TICK)[0]:
            with contextlib.suppress(OSError):
                if connection.recv(_LONGEST_LINE):
                    continue
            open_.discard(connection)
