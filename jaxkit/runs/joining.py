"""How the processes of a job find each other: a star of connections around process 0, one message a line.

Process 0 listens at the address that the command names until all have come. jax's own coordinator gets another
port of the same host, so that a port that is taken, a process that does not come and two with one number are
found here, and said; jax would abort.
"""

import contextlib
import select
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxkit.runs.channels import SECONDS_BETWEEN_SIGNS, TICK, Channel, channel, part
from jaxkit.runs.peers import LOST, USAGE


class Settings(NamedTuple):
    """Which process of a job this is, and how long it waits.

    host, port:    where process 0 is to be found by the others
    peer_seconds:  how long a process may be silent or stand still before it counts as lost
    join_seconds:  how long the start waits for all
    """

    host: str
    port: int
    num_processes: int
    process_id: int
    peer_seconds: float
    join_seconds: float


class Job(NamedTuple):
    """All processes, once they have found each other.

    coordinator: the address of jax's own coordinator
    hosts:       the name of each process's machine
    channels:    from process 0 to every other, from any other to process 0
    began:       when, on the monotonic clock
    """

    coordinator: str
    hosts: Mapping[int, str]
    channels: Mapping[int, Channel]
    began: float


class End(Exception):
    """The end of this process: its exit code, one line for it, and the processes that need not print it."""

    def __init__(self, code: int, text: str, silent: tuple[int, ...] = ()):
        super().__init__(text)
        self.code, self.text, self.silent = code, text, silent


@contextlib.contextmanager
def joined(settings: Settings, command: list[str]) -> Iterator[Job]:
    """The job, once all of it has come; the connections close with the context.

    Raises:
        End: the address cannot be used, somebody has not come in time, or does not belong to this job.
    """
    hello = {
        "process_id": settings.process_id,
        "num_processes": settings.num_processes,
        "host": socket.gethostname(),
        "command": [word for word in command[1:] if not word.startswith("--distributed")],
    }
    with contextlib.ExitStack() as stack:
        if settings.process_id:
            to_0 = channel(stack.enter_context(_connected(settings)))
            to_0.send(hello)
            said = _answer(to_0, settings)
            hosts = {int(id): host for id, host in said["hosts"].items()}
            yield Job(said["coordinator"], hosts, {0: to_0}, time.monotonic())
            return
        channels, hosts = _gather(settings, hello, stack)
        coordinator = address(settings.host, _free_port(settings.host))
        for found in channels.values():
            found.send({"coordinator": coordinator, "hosts": hosts})
        yield Job(coordinator, hosts, channels, time.monotonic())


def _gather(
    settings: Settings, hello: Mapping[str, Any], stack: contextlib.ExitStack
) -> tuple[dict[int, Channel], dict[int, str]]:
    """Waits until every other process has come."""
    channels: dict[int, Channel] = {}
    strangers: list[Channel] = []
    refused: dict[int, str] = {}
    hosts = {0: str(hello["host"])}
    until = time.monotonic() + settings.join_seconds
    # Closed once all have come: whoever comes later belongs to another start, and tries again.
    with _listening(settings) as listener:
        while len(hosts) < settings.num_processes:
            if time.monotonic() > until:
                missing = ", ".join(str(id) for id in range(settings.num_processes) if id not in hosts)
                text = f"process {missing} of {settings.num_processes} has not come in {settings.join_seconds:g} s"
                text += "".join(
                    f"; one that came was refused: {why}" for id, why in refused.items() if id not in hosts
                )
                for found in channels.values():
                    found.send({"end": LOST, "text": text})
                part(channels.values())
                raise End(LOST, text)
            waited = [listener, *(found.socket for found in (*channels.values(), *strangers))]
            ready, _, _ = select.select(waited, [], [], TICK)
            for id in [id for id, found in channels.items() if found.socket in ready]:
                # It has nothing to say yet, so it has gone: it may come again.
                del channels[id], hosts[id]
            for found in [found for found in strangers if found.socket in ready]:
                came = _greeting(found)
                if came is None:
                    continue  # the rest of what it says is under way
                strangers.remove(found)
                wrong = _misfit(came, hello, hosts) if came else ""
                if wrong:
                    refused[came["process_id"]] = wrong.removeprefix("--distributed: ")
                    found.send({"end": USAGE, "text": wrong})
                elif came:
                    channels[came["process_id"]], hosts[came["process_id"]] = found, str(came["host"])
            if listener in ready:
                # Whoever has come may take its time to say who it is, and keeps nobody waiting.
                strangers.append(channel(stack.enter_context(listener.accept()[0])))
    for found in strangers:
        found.socket.close()
    return channels, hosts


def _greeting(found: Channel) -> dict[str, Any] | None:
    """What a process says of itself; {} where it is none of ours, None where it has not said it to its end."""
    with contextlib.suppress(EOFError, KeyError):
        for came in found.receive():
            if {"num_processes", "host", "command"} <= came.keys() and isinstance(came["process_id"], int):
                return came
            return {}
        return None
    return {}


def _misfit(came: Mapping[str, Any], hello: Mapping[str, Any], hosts: Mapping[int, str]) -> str:
    id, number = came["process_id"], hello["num_processes"]
    if came["num_processes"] != number:
        return (
            f"--distributed: process {id} is one of {came['num_processes']}, process 0 is one of {number};"
            " give all the same number"
        )
    if id in hosts:
        return f"--distributed: process {id} is there already ({hosts[id]}); give each process its own number"
    if came["command"] != hello["command"]:
        return f"--distributed: process {id} is not started with the command of process 0; start the same on all"
    return ""


@contextlib.contextmanager
def _connected(settings: Settings) -> Iterator[socket.socket]:
    """Process 0, as soon as it is there."""
    until = time.monotonic() + settings.join_seconds
    while True:
        try:
            connection = socket.create_connection((settings.host, settings.port), timeout=5)
            break
        except OSError as error:
            if time.monotonic() > until:
                place = address(settings.host, settings.port)
                why = f"in {settings.join_seconds:g} s ({error.strerror or error})"
                raise End(LOST, f"process 0 was not found at {place} {why}; is it started there?") from None
            time.sleep(TICK)
    with connection:
        yield connection


def _answer(to_0: Channel, settings: Settings) -> dict[str, Any]:
    until = time.monotonic() + settings.join_seconds + SECONDS_BETWEEN_SIGNS
    while time.monotonic() < until:
        try:
            for message in to_0.receive():
                if "end" in message:
                    raise End(message["end"], message["text"])
                return message
        except EOFError:
            raise End(LOST, "process 0 has gone before all had come; start the same command again") from None
    raise End(LOST, f"process 0 has not said in {settings.join_seconds:g} s that all have come")


def _listening(settings: Settings) -> socket.socket:
    try:
        return _server(settings.host, settings.port)
    except OSError as error:
        text = f"process 0 cannot listen at {address(settings.host, settings.port)} ({error.strerror})"
        raise End(USAGE, f"--distributed: {text}; choose another port") from None


def _server(host: str, port: int) -> socket.socket:
    # The name of a host often means 127.0.1.1 on the host itself, so only a loopback address is taken at its word.
    if is_loopback(host):
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _free_port(host: str) -> int:
    with _server(host, 0) as found:
        return found.getsockname()[1]


def is_loopback(host: str) -> bool:
    """Whether an address means this very host, so that nobody else need reach it.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("node1")
        (True, False)
    """
    return host in ("localhost", "::1") or host.startswith("127.")


def address(host: str, port: int) -> str:
    """HOST:PORT, with the brackets that an IPv6 address has there.

    Example:
        >>> address("::1", 80)
        '[::1]:80'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
