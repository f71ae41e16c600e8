"""One run on many processes: which of them this is, and what all must do together.

Every process runs the same programs on the same global arrays. Only process 0 writes the record and shows
progress; checkpoints are written by all.
"""

import contextlib
import json
import os
import select
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from jaxkit.errors import UsageError
from jaxkit.runs import process
from jaxkit.runs.channels import SECONDS_BETWEEN_SIGNS, channel
from jaxkit.runs.joining import Settings, is_loopback
from jaxkit.runs.peers import FAILED, LOST, OK, SECONDS_OF_DOUBT, TRY_AGAIN
from jaxkit.runs.supervisor import WORKER

FORM = "--distributed=HOST:PORT,NUM_PROCESSES,PROCESS_ID"
# What may be changed of how long processes wait for each other, in seconds.
ENVIRONMENT = {"peer_seconds": ("JAXKIT_PEER_SECONDS", 20.0), "join_seconds": ("JAXKIT_JOIN_SECONDS", 300.0)}


class Worker(NamedTuple):
    """This process's part in a run.

    beat: (step, count) -> None; a call of `count` steps is about to be made, which ends at `step`
    leads:  whether it is this process that writes and prints
    rest:   () -> None; what comes now takes as long as it takes (evaluating, saving, compiling)
    says:   (**values) -> None; tells the supervisor
    agrees: (answer) -> that of the process that leads
    doubts: (error) -> None; an error may come of another's death: gives the supervisor time to end this process
    """

    leads: bool
    beat: Callable[[int, int], None]
    rest: Callable[[], None]
    says: Callable[..., None]
    agrees: Callable[[bool], bool]
    doubts: Callable[[BaseException], None]


ALONE = Worker(
    leads=True,
    beat=lambda step, count: None,
    rest=lambda: None,
    says=lambda **values: None,
    agrees=lambda answer: answer,
    doubts=lambda error: None,
)


def parse(text: str) -> Settings:
    """The settings in the value of `--distributed`; where it is empty, those of the cluster that started this.

    Raises:
        UsageError: what is wrong with it; what was looked for where nothing was found.

    Example:
        >>> parse("node1:1234,4,2")[:4]
        ('node1', 1234, 4, 2)
    """
    waits = {name: process.seconds_of(variable) or usual for name, (variable, usual) in ENVIRONMENT.items()}
    place, *numbers = text.split(",") if text else _detected()
    host, _, port = place.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        settings = Settings(host, int(port), *map(int, numbers), **waits)  # type: ignore[arg-type, misc]
    except (ValueError, TypeError):
        settings = None
    if settings is None or not host:
        raise UsageError(f"--distributed: came {text!r}, wanted {FORM}, as in --distributed=node1:1234,2,0")
    if not 0 < settings.port < 2**16:
        raise UsageError(f"--distributed: came the port {settings.port}, wanted 1 to 65535")
    if settings.num_processes < 1:
        raise UsageError(f"--distributed: came {settings.num_processes} processes, wanted at least 1")
    if not 0 <= settings.process_id < settings.num_processes:
        raise UsageError(
            f"--distributed: came process {settings.process_id} of {settings.num_processes};"
            f" they are numbered 0 to {settings.num_processes - 1}"
        )
    return settings


def _detected() -> tuple[str, int, int]:
    """What Slurm, Open MPI, Kubernetes (or another that jax knows) says: address, number, number of this one."""
    # jax has no public name for it; jax.distributed.initialize does the same.
    from jax._src.clusters import ClusterEnv

    failed = ""
    try:
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, [], None, 300)
        failed = "".join(f"; {str(warning.message).split('.')[0].strip()}" for warning in noted)
    except Exception as error:  # whatever a cluster's own interface raises
        raise UsageError(f"--distributed: asking the cluster failed: {error}; or write {FORM}") from error
    coordinator, number, id, _ = found
    if coordinator is None or number is None or id is None:
        raise UsageError(
            "--distributed: found no cluster; looked for Slurm (SLURM_JOB_ID, SLURM_PROCID: start it with srun),"
            " Open MPI (OMPI_MCA_orte_hnp_uri: start it with mpirun) and Kubernetes (KUBERNETES_SERVICE_HOST, and"
            f" the package kubernetes){' '.join(failed.split())}; or write {FORM}"
        )
    return coordinator, number, id


def supervise(settings: Settings) -> NoReturn:
    """Becomes the supervisor of this process of the job, which starts the same command again as its worker."""
    sys.stdout.flush()
    command = [sys.executable, *sys.orig_argv[1:]]
    script = "import sys; sys.path.insert(0, sys.argv[1]); from jaxkit.runs import distributed; distributed.main()"
    top = str(Path(__file__).parent.parent.parent)
    os.execv(sys.executable, [sys.executable, "-c", script, top, json.dumps(settings), json.dumps(command)])


def main() -> NoReturn:
    """What `supervise` starts."""
    from jaxkit.runs import supervisor

    process.outlive_readers()
    sys.exit(supervisor.main(Settings(*json.loads(sys.argv[2])), json.loads(sys.argv[3])))


@contextlib.contextmanager
def worker(text: str, *, ours: bool) -> Iterator[Worker]:
    """This process's part in the run that `--distributed=text` asks for, with jax initialized for all.

    A process that is not yet a worker becomes the supervisor of one. A worker that fails leaves at once: jax
    would wait for the others.

    Args:
        text: the value of the flag.
        ours: whether the command line is that of this process, which can be started again.

    Raises:
        UsageError: the settings are wrong, or were not found.
    """
    said = os.environ.pop(WORKER, None)
    if said is None:
        settings = parse(text)
        if not ours:
            raise UsageError("--distributed: works on the command line of a process, not inside of another")
        supervise(settings)
    code = FAILED
    try:
        yield _initialized(json.loads(said))
        code = OK
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else FAILED
        if code in (OK, TRY_AGAIN):
            raise
    except BaseException:
        traceback.print_exc()
    finally:
        if code not in (OK, TRY_AGAIN):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _initialized(said: Mapping[str, Any]) -> Worker:
    os.set_inheritable(said["descriptor"], False)
    found = _watched(said["process_id"] == 0, socket.socket(fileno=said["descriptor"]))
    import jax

    # Its own handler of SIGTERM would take the place of the run's.
    jax.config.update("jax_enable_preemption_service", False)
    host = said["coordinator"].rpartition(":")[0].strip("[]")
    jax.distributed.initialize(
        said["coordinator"],
        said["num_processes"],
        said["process_id"],
        coordinator_bind_address=said["coordinator"] if is_loopback(host) else None,
        initialization_timeout=int(said["join_seconds"]),
        # The supervisors see a death long before; all that jax would do is to abort.
        heartbeat_timeout_seconds=600,
        shutdown_timeout_seconds=3600,
    )
    return found


def _watched(leads: bool, connection: socket.socket) -> Worker:
    """A worker that tells its supervisor every second how it stands, and ends where the supervisor has died."""
    to_supervisor = channel(connection)
    # Replaced whole, so that the thread below never sees half of a change.
    stands = (0, False, time.monotonic(), 0.0)
    seen: set[int] = set()

    def signs() -> None:
        while True:
            begun, timed, moved, longest = stands
            still = time.monotonic() - moved
            to_supervisor.send({"begun": begun, "timed": timed, "still": still, "longest": longest})
            # It never says anything: it is readable when it has gone.
            if select.select([connection], [], [], SECONDS_BETWEEN_SIGNS)[0]:
                os._exit(LOST)

    def beat(step: int, count: int) -> None:
        nonlocal stands
        _, timed, moved, longest = stands
        now = time.monotonic()
        # The first call of each length compiles.
        stands = (step, count in seen, now, max(longest, now - moved) if timed else longest)
        seen.add(count)

    def rest() -> None:
        nonlocal stands
        begun, _, moved, longest = stands
        stands = (begun, False, moved, longest)

    def agrees(answer: bool) -> bool:
        from jaxkit.runs import together

        return bool(together.from_first(int(answer)))

    def doubts(error: BaseException) -> None:
        if not isinstance(error, UsageError | KeyboardInterrupt | SystemExit):
            rest()
            time.sleep(SECONDS_OF_DOUBT + SECONDS_BETWEEN_SIGNS)

    threading.Thread(target=signs, daemon=True).start()
    return Worker(leads, beat, rest, lambda **values: to_supervisor.send(values), agrees, doubts)
