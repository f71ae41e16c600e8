"""The processes of one job: what each says of itself, and the verdict when one is dead or stuck."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

OK, FAILED, USAGE, TRY_AGAIN, LOST, STUCK = 0, 1, 2, 75, 76, 77

# A peer's death makes others fail in the same moment: the cause is looked for before a failure is believed.
SECONDS_OF_DOUBT = 2.0
# Steps differ in length; one that takes ten times the longest before it is no longer taken for a step.
LONGEST_TIMES = 10.0


class Peer(NamedTuple):
    """What is known of one process.

    host:    the name of its machine
    heard:   when its worker last gave a sign of life, on this process's monotonic clock
    begun:   the step up to which it has begun calls
    timed:   whether its next step should follow soon: it does not compile, evaluate or save
    still:   for how many seconds `begun` has not moved
    longest: the longest that it ever took to move, in seconds
    exit:    the exit code of its worker, minus the signal where one killed it; None while it runs
    closed:  when its connection closed, None while it is there
    """

    host: str
    heard: float
    begun: int = 0
    timed: bool = False
    still: float = 0.0
    longest: float = 0.0
    exit: int | None = None
    closed: float | None = None


class Verdict(NamedTuple):
    """Why a job ends: the exit code of every process of it, whose fault it is, what is the matter."""

    code: int
    culprits: tuple[int, ...]
    what: str


def judge(peers: Mapping[int, Peer], now: float, *, seconds: float) -> Verdict | None:
    """Whether the job must end, because a process is dead, silent, stuck or has failed.

    A death comes before the failures that follow from it. A process is stuck where it is the one that others
    wait for: the fewest steps begun, while a step takes longer than `seconds` and ten times the longest.

    Args:
        peers: what is known of each process, by its number.
        now: on the monotonic clock, in seconds.
        seconds: how long a process may be silent, or stand still.

    Example:
        >>> judge({0: Peer("a", 9.0), 1: Peer("b", 2.0)}, 12.0, seconds=5)
        Verdict(code=76, culprits=(1,), what='has given no sign of life for 10 s')
    """
    for id, peer in peers.items():
        if peer.exit is None and peer.closed is not None:
            return Verdict(LOST, (id,), "is dead: its connection has closed")
        if peer.exit is not None and peer.exit < 0 and peer.exit != -signal.SIGABRT:
            return _killed(id, -peer.exit)
    for id, peer in peers.items():
        if peer.exit is None and now - peer.heard > seconds:
            return Verdict(LOST, (id,), f"has given no sign of life for {now - peer.heard:.0f} s")
    return _failed(peers, now) or _stuck(peers, seconds)


def _killed(id: int, number: int) -> Verdict:
    name = signal.Signals(number).name
    if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        return Verdict(TRY_AGAIN, (id,), f"was asked to stop by {name} before its first step, or after its last")
    memory = ", as the system does where memory runs out" if number == signal.SIGKILL else ""
    return Verdict(LOST, (id,), f"is dead: killed by {name}{memory}")


def _failed(peers: Mapping[int, Peer], now: float) -> Verdict | None:
    """The earliest failure, once it has stood for a moment without a death to explain it."""
    failed = [(peer.heard, id) for id, peer in peers.items() if peer.exit not in (None, OK, TRY_AGAIN)]
    if not failed or now - min(failed)[0] < SECONDS_OF_DOUBT:
        return None
    # A worker that jax aborts has lost somebody; one that says what is wrong is nearer to the cause.
    explained = [(heard, id) for heard, id in failed if peers[id].exit != -signal.SIGABRT]
    _, id = min(explained or failed)
    code = peers[id].exit
    assert code is not None
    if code < 0:
        return Verdict(LOST, (id,), "is dead: it aborted")
    return Verdict(code, (id,), f"ended with exit code {code}; its own output says why")


def _stuck(peers: Mapping[int, Peer], seconds: float) -> Verdict | None:
    running = [peer for peer in peers.values() if peer.exit is None]
    waiting = [peer for peer in running if peer.timed and peer.still > max(seconds, LONGEST_TIMES * peer.longest)]
    if not waiting:
        return None
    still = min(peer.still for peer in waiting)
    done = tuple(id for id, peer in peers.items() if peer.exit is not None)
    if done:
        return Verdict(LOST, done, f"has ended, and others have waited for it for {still:.0f} s")
    fewest = min(peer.begun for peer in running)
    behind = tuple(id for id, peer in peers.items() if peer.begun == fewest)
    if any(not peers[id].timed for id in behind):
        return None  # it compiles, evaluates or saves, however long that takes
    return Verdict(LOST, behind, f"is stuck after step {fewest}: no progress for {still:.0f} s")


def explain(verdict: Verdict, hosts: Mapping[int, str], directory: str | None) -> str:
    """One line: which process, on which machine, what is the matter and what to do.

    Example:
        >>> explain(Verdict(LOST, (1,), "is dead"), {1: "node7"}, None)
        'process 1 (node7) is dead; start the same command again on all hosts: it begins at step 0'
    """
    names = " and ".join(f"process {id} ({hosts[id]})" for id in verdict.culprits)
    verb, _, rest = verdict.what.partition(" ")
    if len(verdict.culprits) > 1:
        verb = {"is": "are", "has": "have"}.get(verb, verb)
    if verdict.code not in (LOST, TRY_AGAIN):
        return f"{names} {verb} {rest}"
    step = _newest(Path(directory)) if directory else 0
    begins = f"resumes from step {step}" if step else "begins at step 0"
    return f"{names} {verb} {rest}; start the same command again on all hosts: it {begins}"


def _newest(directory: Path) -> int:
    # As `checkpoints.steps`, without jax: the process that says it has no use for more.
    names = [path.parent.name for path in directory.glob("checkpoints/*/manifest.json")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def updated(peer: Peer, message: Mapping[str, Any], now: float) -> Peer:
    """A peer after a message of its supervisor's: {"age", "begun", "timed", "still", "longest"} or {"exit"}.

    Example:
        >>> updated(Peer("a", 1.0), {"age": 0.5, "begun": 7}, 9.0)[:3]
        ('a', 8.5, 7)
    """
    if peer.exit is not None:
        return peer  # it ended when that was first said
    known = {name: message[name] for name in ("begun", "timed", "still", "longest", "exit") if name in message}
    return peer._replace(heard=now - message.get("age", 0.0), **known)
