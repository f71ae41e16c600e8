"""The process around each worker of a job of many: it watches the others, and ends its worker for them.

A watcher inside the worker would not do. Where the process that coordinates dies, jax aborts all others at once
and takes no callback in Python; a lock that is held in C stops every thread of Python; and whom the system kills
for its memory says nothing. So the command becomes this small process, without jax, and starts itself again as
the worker. It asks nothing of the devices, so watching costs the training nothing.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from jaxkit.runs import channels, joining, peers, process
from jaxkit.runs.channels import SECONDS_BETWEEN_SIGNS, TICK, Channel
from jaxkit.runs.joining import End, Job, Settings
from jaxkit.runs.peers import LOST, OK, TRY_AGAIN, Peer

WORKER = "JAXKIT_WORKER"


def main(settings: Settings, command: list[str]) -> int:
    """Joins the others, starts `command` as the worker, and watches until all are done; the exit code."""
    workers: list[subprocess.Popen] = []
    try:
        with _relayed(workers), joining.joined(settings, command) as job:
            channel, worker = _start(settings, command, job)
            workers.append(worker)
            try:
                return _watch(settings, job, channel, worker)
            finally:
                channels.part(job.channels.values())
    except End as end:
        if settings.process_id not in end.silent:
            # A progress bar that was killed has left the cursor hidden.
            print("\x1b[?25h" * sys.stderr.isatty() + f"error: {end.text}", file=sys.stderr, flush=True)
        return end.code
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


@contextlib.contextmanager
def _relayed(workers: list[subprocess.Popen]) -> Iterator[None]:
    """What asks this process to stop asks the worker instead, which stops after a step."""

    def relay(number, frame):
        if not workers:
            raise End(TRY_AGAIN, "interrupted before all had come; start the same command again on all hosts")
        workers[0].send_signal(number)

    with process.handled(relay, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        yield


def _start(settings: Settings, command: list[str], job: Job) -> tuple[Channel, subprocess.Popen]:
    ours, theirs = socket.socketpair()
    said = {
        "coordinator": job.coordinator,
        "num_processes": settings.num_processes,
        "process_id": settings.process_id,
        "join_seconds": settings.join_seconds,
        "descriptor": theirs.fileno(),
    }
    with theirs:
        # A process group of its own: a Ctrl-C in the terminal reaches it once, from here.
        worker = subprocess.Popen(
            command,
            env={**os.environ, WORKER: json.dumps(said)},
            pass_fds=[theirs.fileno()],
            process_group=0,
        )
    return channels.channel(ours), worker


def _watch(settings: Settings, job: Job, own: Channel, worker: subprocess.Popen) -> int:
    """Watches until all have ended; raises End as soon as all must."""
    id, began, told, directory = settings.process_id, time.monotonic(), 0.0, None
    known = {other: Peer(job.hosts[other], began) for other in {id, *job.channels}}
    open_ = {id: own, **job.channels}
    while True:
        came = _received(open_)
        now = time.monotonic()
        for other, message in came:
            if "end" in message:
                raise End(message["end"], message["text"], tuple(message["silent"]))
            directory = message.get("directory", directory)
            known[other] = peers.updated(known[other], message, now)
        for other in known.keys() - open_.keys() - {id}:
            known[other] = known[other]._replace(closed=now)
        if known[id].heard == began and now < started(job, settings):
            began = now  # its imports take what they take
            known[id] = known[id]._replace(heard=now)
        if known[id].exit is None and worker.poll() is not None:
            known[id], told = known[id]._replace(exit=worker.returncode, heard=now), 0.0
        if now > told + SECONDS_BETWEEN_SIGNS:
            told = now
            for channel in job.channels.values():
                channel.send(_signs(known[id], now) if id else {})
        code = _outcome(settings, known, job.channels, directory, now)
        if code is not None:
            return code


def started(job: Job, settings: Settings) -> float:
    """By when, on the monotonic clock, every worker has given its first sign of life."""
    return job.began + settings.join_seconds


def _received(open_: dict[int, Channel]) -> list[tuple[int, dict[str, Any]]]:
    """The messages that come within a moment; a channel that has closed is taken out."""
    ready, _, _ = select.select([channel.socket for channel in open_.values()], [], [], TICK)
    found: list[tuple[int, dict[str, Any]]] = []
    for id, channel in list(open_.items()):
        if channel.socket in ready:
            try:
                found += [(id, message) for message in channel.receive()]
            except EOFError:
                channel.socket.close()
                del open_[id]
    return found


def _outcome(
    settings: Settings,
    known: Mapping[int, Peer],
    others: Mapping[int, Channel],
    directory: str | None,
    now: float,
) -> int | None:
    """The exit code where this process is done, None where it is not; End where all must end."""
    id, own = settings.process_id, known[settings.process_id]
    if id and own.exit in (OK, TRY_AGAIN):
        return own.exit
    # Process 0 judges all; the others only whether it is there.
    verdict = peers.judge(known if not id else {0: known[0]}, now, seconds=settings.peer_seconds)
    if verdict is not None:
        text = peers.explain(verdict, {other: peer.host for other, peer in known.items()}, directory)
        # Who has failed the same way has said why.
        failed = tuple(other for other, peer in known.items() if peer.exit == verdict.code)
        silent = () if verdict.code in (LOST, TRY_AGAIN) else failed
        for channel in others.values():
            channel.send({"end": verdict.code, "text": text, "silent": silent})
        raise End(verdict.code, text, silent)
    if own.exit is None:
        return None
    if id:
        # It has failed, and process 0 says for whose sake.
        return None if now < own.heard + settings.peer_seconds else abs(own.exit)
    return own.exit if all(peer.exit in (OK, TRY_AGAIN) for peer in known.values()) else None


def _signs(own: Peer, now: float) -> dict[str, Any]:
    if own.exit is not None:
        return {"exit": own.exit}
    age = now - own.heard
    still = own.still + age
    return {"age": age, "begun": own.begun, "timed": own.timed, "still": still, "longest": own.longest}
