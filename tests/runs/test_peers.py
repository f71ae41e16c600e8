"""How the processes of a job find each other, and whom they blame."""

import json
import signal
import socket
import sys
import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax._src.clusters.k8s_cluster import K8sCluster

from jaxkit import data, parallel
from jaxkit.errors import UsageError
from jaxkit.runs import channels, command, distributed, flags, joining, peers, together
from jaxkit.runs.joining import End, Settings
from jaxkit.runs.peers import FAILED, LOST, TRY_AGAIN, USAGE, Peer

NOW = 1000.0
WORKS = Peer("a", NOW, begun=7, timed=True, still=0.5, longest=1.0)
WAITS = WORKS._replace(begun=9, still=25.0)


def judged(*found: Peer):
    return peers.judge(dict(enumerate(found)), NOW, seconds=20)


def test_nobody_is_blamed_while_all_work_or_have_ended_well():
    assert judged(WORKS, WORKS) is None
    assert judged(WORKS, WORKS._replace(exit=0, closed=NOW)) is None
    assert judged(WORKS._replace(exit=75), WORKS._replace(exit=75)) is None


@pytest.mark.parametrize(
    ("peer", "code", "what"),
    [
        (WORKS._replace(closed=NOW), LOST, "is dead: its connection has closed"),
        (
            WORKS._replace(exit=-signal.SIGKILL),
            LOST,
            "is dead: killed by SIGKILL, as the system does where memory",
        ),
        (WORKS._replace(exit=-signal.SIGSEGV), LOST, "is dead: killed by SIGSEGV"),
        (WORKS._replace(exit=-signal.SIGTERM), TRY_AGAIN, "was asked to stop by SIGTERM before its first step"),
        (WORKS._replace(heard=NOW - 21), LOST, "has given no sign of life for 21 s"),
        (WORKS._replace(exit=USAGE, heard=NOW - 3), USAGE, "ended with exit code 2; its own output says why"),
        (WORKS._replace(exit=FAILED, heard=NOW - 3), FAILED, "ended with exit code 1"),
        (WORKS._replace(exit=-signal.SIGABRT, heard=NOW - 3), LOST, "is dead: it aborted"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_who_is_dead_silent_or_has_failed_is_blamed(peer, code, what):
    verdict = judged(WAITS, peer)
    assert (verdict.code, verdict.culprits) == (code, (1,))
    assert verdict.what.startswith(what)


def test_a_death_comes_before_the_failures_that_follow_from_it():
    aborted, failed = WORKS._replace(exit=-signal.SIGABRT), WORKS._replace(exit=FAILED)
    dead = WORKS._replace(exit=-signal.SIGKILL)
    assert judged(aborted, failed) is None  # a moment of doubt
    assert judged(aborted, failed, dead).culprits == (2,)
    late = NOW - 5
    assert judged(aborted._replace(heard=late), failed._replace(heard=late + 1)).culprits == (1,)


def test_a_failure_is_as_old_as_its_first_message():
    failed = peers.updated(WORKS, {"exit": 77}, NOW - 3)
    # It is said again every second, until all have heard it.
    assert judged(WAITS, peers.updated(failed, {"exit": 77}, NOW)).code == 77


def test_who_others_wait_for_is_stuck_but_not_while_it_compiles_evaluates_or_saves():
    stuck = WORKS._replace(still=26.0)
    verdict = judged(WAITS, stuck, WAITS)
    assert (verdict.code, verdict.culprits) == (LOST, (1,))
    assert verdict.what == "is stuck after step 7: no progress for 25 s"
    assert judged(WAITS, stuck._replace(timed=False), WAITS) is None
    # All in the same step: a device, or the network between them.
    assert judged(stuck, stuck).culprits == (0, 1)
    # Steps of 3 s: the limit is 30 s.
    assert judged(WAITS._replace(longest=3.0), stuck._replace(longest=3.0)) is None
    assert judged(WAITS, WORKS._replace(exit=0)).what.startswith("has ended, and others have waited")


def test_the_message_says_where_a_restart_begins(tmp_path):
    for step in (8, 16):
        (tmp_path / f"checkpoints/{step}").mkdir(parents=True)
    (tmp_path / "checkpoints/8/manifest.json").touch()
    text = peers.explain(peers.Verdict(LOST, (0, 2), "is stuck"), {0: "n0", 2: "n2"}, str(tmp_path))
    assert text == (
        "process 0 (n0) and process 2 (n2) are stuck;"
        " start the same command again on all hosts: it resumes from step 8"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("node1", "wanted --distributed=HOST:PORT,NUM_PROCESSES,PROCESS_ID"),
        ("node1:1,2", "wanted --distributed=HOST:PORT,NUM_PROCESSES,PROCESS_ID"),
        ("node1:1,2,0,0", "wanted --distributed=HOST:PORT,NUM_PROCESSES,PROCESS_ID"),
        (":1234,2,0", "wanted --distributed=HOST:PORT,NUM_PROCESSES,PROCESS_ID"),
        ("node1:http,2,0", "wanted --distributed=HOST:PORT,NUM_PROCESSES,PROCESS_ID"),
        ("node1:70000,2,0", "came the port 70000"),
        ("node1:1234,0,0", "came 0 processes"),
        ("node1:1234,2,2", "came process 2 of 2; they are numbered 0 to 1"),
        ("node1:1234,2,-1", "came process -1 of 2"),
    ],
)
def test_a_malformed_setting_is_one_line(text, says):
    with pytest.raises(UsageError, match=says) as caught:
        distributed.parse(text)
    assert "\n" not in str(caught.value)


def test_the_flag_may_have_a_value_or_none(capsys):
    assert flags.parse(["x.py", "--config=c.py"]).distributed is None
    assert flags.parse(["x.py", "--distributed", "--config=c.py"]).distributed == ""
    assert flags.parse(["x.py", "--config=c.py", "--distributed=a:1,2,0"]).distributed == "a:1,2,0"
    config = command.__file__  # any file: it is not read before the flags are
    with pytest.raises(SystemExit) as caught:
        command.main(lambda config: None, ["x.py", f"--config={config}", "--distribute"])
    assert caught.value.code == USAGE
    assert "did you mean '--distributed'?" in capsys.readouterr().err


@pytest.fixture
def no_cluster(monkeypatch):
    for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST", "TPU_WORKER_ID"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


SLURM = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_NODELIST": "gpu[003-006]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_NODES": "4",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}


@pytest.mark.parametrize(
    ("variables", "wanted"), [(SLURM, ("gpu003", 4, 2)), (OPEN_MPI, ("10.96.0.1", 8, 5))], ids=["slurm", "openmpi"]
)
def test_what_a_cluster_says_is_used(no_cluster, variables, wanted):
    for name, value in variables.items():
        no_cluster.setenv(name, value)
    found = distributed.parse("")
    assert (found.host, found.num_processes, found.process_id) == wanted
    assert 1024 < found.port < 2**16


@pytest.fixture
def in_kubernetes(no_cluster):
    """A pod of an indexed job, as the interface of its cluster describes it; gives the environment to change."""
    named = lambda **fields: SimpleNamespace(metadata=SimpleNamespace(**fields))
    pod = named(name="train-3-x", labels={"job-name": "train"}, owner_references=[])
    pod.metadata.owner_references = [SimpleNamespace(controller=True, kind="Job")]
    pod.spec = SimpleNamespace(subdomain="pods")
    job = named(name="train", labels={})
    job.spec = SimpleNamespace(parallelism=4)
    pods = SimpleNamespace(list_namespaced_pod=lambda **where: SimpleNamespace(items=[pod]))
    jobs = SimpleNamespace(read_namespaced_job=lambda name, namespace: job)
    client = SimpleNamespace(
        CoreV1Api=lambda: pods, BatchV1Api=lambda: jobs, exceptions=SimpleNamespace(ApiException=OSError)
    )
    package = SimpleNamespace(client=client, config=SimpleNamespace(load_incluster_config=lambda: None))
    no_cluster.setitem(sys.modules, "kubernetes", package)
    no_cluster.setattr(K8sCluster, "_namespace", lambda: "default")
    no_cluster.setattr(socket, "gethostbyname", lambda name: "10.0.0.7")
    variables = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "train-3-x", "JOB_COMPLETION_INDEX": "3"}
    for name, value in variables.items():
        no_cluster.setenv(name, value)
    yield no_cluster
    for asked in (K8sCluster._pod, K8sCluster._job, K8sCluster._controller):
        asked.__func__.cache_clear()


def test_what_kubernetes_says_is_used(in_kubernetes):
    found = distributed.parse("")
    assert (found.host, found.num_processes, found.process_id) == ("train-0.pods", 4, 3)
    assert 1024 < found.port < 2**16


def test_what_kubernetes_lacks_is_said(in_kubernetes):
    in_kubernetes.delenv("JOB_COMPLETION_INDEX")
    with pytest.raises(UsageError, match=r'asking the cluster failed: .*completionMode: "Indexed"'):
        distributed.parse("")
    in_kubernetes.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(UsageError, match=r"found no cluster; .*the `kubernetes` package is not installed"):
        distributed.parse("")


def test_where_no_cluster_is_found_the_message_says_what_was_looked_for(no_cluster):
    with pytest.raises(UsageError, match=r"Slurm \(.*Open MPI \(.*Kubernetes \(.*HOST:PORT"):
        distributed.parse("")


def test_how_long_processes_wait_is_checked(monkeypatch):
    monkeypatch.delenv("JAXKIT_PEER_SECONDS", raising=False)
    assert distributed.parse("a:1,2,0").peer_seconds == 20
    monkeypatch.setenv("JAXKIT_PEER_SECONDS", "7.5")
    assert distributed.parse("a:1,2,0").peer_seconds == 7.5
    assert distributed.parse("a:1,2,0").join_seconds == 300
    monkeypatch.setenv("JAXKIT_PEER_SECONDS", "soon")
    with pytest.raises(UsageError, match="JAXKIT_PEER_SECONDS: came 'soon'"):
        distributed.parse("a:1,2,0")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def joined(*jobs: tuple[Settings, list[str]]) -> list:
    """What comes of processes that start at once: a Job, or the End of it."""
    found: list = [None] * len(jobs)

    def join(n: int) -> None:
        try:
            with joining.joined(*jobs[n]) as job:
                found[n] = job
                channels.part(job.channels.values())
        except End as end:
            found[n] = end

    threads = [threading.Thread(target=join, args=(n,), daemon=True) for n in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return found


@pytest.fixture
def passes(monkeypatch):
    """Time stands still for who waits for others, until so many have come to process 0: `passes(number)`."""
    now, misfit, come = [0.0], joining._misfit, []
    monkeypatch.setattr(joining, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))

    def after(number: int) -> None:
        def comes(*arguments):
            come.append(1)
            now[0] = 100.0 * (len(come) == number)
            return misfit(*arguments)

        monkeypatch.setattr(joining, "_misfit", comes)

    return after


def settings(port: int, number: int, id: int, seconds: float = 120.0) -> Settings:
    return Settings("127.0.0.1", port, number, id, 20.0, seconds)


COMMAND = ["python", "x.py", "--config=c.py"]


def test_all_learn_of_all_and_of_one_address_for_jax():
    port = free_port()
    commands = [[*COMMAND, f"--distributed=127.0.0.1:{port},3,{id}"] for id in range(3)]
    jobs = joined(*((settings(port, 3, id), commands[id]) for id in (2, 0, 1)))
    assert {job.coordinator for job in jobs} == {jobs[0].coordinator}
    assert jobs[0].coordinator.startswith("127.0.0.1:")
    assert jobs[0].coordinator != f"127.0.0.1:{port}"
    assert [sorted(job.channels) for job in jobs] == [[0], [1, 2], [0]]
    assert all(job.hosts == dict.fromkeys(range(3), socket.gethostname()) for job in jobs)


def test_whoever_comes_may_take_its_time_to_say_who_it_is_and_keeps_nobody_waiting(monkeypatch):
    monkeypatch.setattr(channels, "SECONDS_BETWEEN_SIGNS", 0.02)
    port, found = free_port(), []
    wait = lambda: found.extend(joined((settings(port, 3, 0), COMMAND)))
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    connected = joining._connected(settings(port, 3, 1))
    host = {"num_processes": 3, "host": "b", "command": COMMAND[1:]}
    words = (json.dumps({"process_id": 1, **host}) + "\n").encode()
    with connected as slow, joining._connected(settings(port, 3, 2)) as fast:
        for said in (words[:20], words[20:]):
            time.sleep(0.2)
            slow.sendall(said)
        fast.sendall(words.replace(b'"process_id": 1', b'"process_id": 2'))
        for connection in (slow, fast):
            assert json.loads(connection.makefile().readline())["hosts"] == {
                "0": socket.gethostname(),
                "1": "b",
                "2": "b",
            }
    thread.join(60)
    assert sorted(found[0].channels) == [1, 2]


def test_who_does_not_come_is_named(passes):
    port = free_port()
    passes(1)
    first, second = joined((settings(port, 4, 0, 1.0), COMMAND), (settings(port, 4, 2), COMMAND))
    assert (first.code, second.code) == (LOST, LOST)
    assert first.text == second.text == "process 1, 3 of 4 has not come in 1 s"


def test_who_came_and_was_refused_is_named_to_those_who_wait(passes):
    port = free_port()
    passes(1)
    first, second = joined((settings(port, 2, 0, 1.0), COMMAND), (settings(port, 2, 1), [*COMMAND, "--debug"]))
    assert (first.code, second.code) == (LOST, USAGE)
    assert first.text.startswith(
        "process 1 of 2 has not come in 1 s; one that came was refused: process 1 is not started"
    )


def test_a_missing_process_0_is_named():
    port = free_port()
    (alone,) = joined((settings(port, 2, 1, 0.5), COMMAND))
    assert alone.code == LOST
    assert alone.text.startswith(f"process 0 was not found at 127.0.0.1:{port} in 0.5 s (Connection refused)")


@pytest.mark.parametrize(
    ("number", "id", "command", "says"),
    [
        (3, 1, COMMAND, "is one of 3, process 0 is one of 2"),
        (2, 1, [*COMMAND, "--config.seed=1"], "is not started with the command of process 0"),
    ],
)
def test_who_does_not_belong_to_the_job_is_told_why(number, id, command, says, passes):
    port = free_port()
    passes(1)
    first, second = joined((settings(port, 2, 0, 1.0), COMMAND), (settings(port, number, id), command))
    assert (first.code, second.code) == (LOST, USAGE)
    assert says in second.text


def test_a_number_that_is_given_twice_is_said(passes):
    port = free_port()
    passes(2)
    found = joined(*((settings(port, 3, id, 120.0 if id else 2.0), COMMAND) for id in (0, 1, 1)))
    assert sorted(end.code for end in found[1:]) == [USAGE, LOST]
    assert any("process 1 is there already" in end.text for end in found[1:])


def test_a_port_in_use_is_said():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        (end,) = joined((settings(port, 2, 0), COMMAND))
    assert end.code == USAGE
    assert f"process 0 cannot listen at 127.0.0.1:{port} (Address already in use" in end.text


@pytest.mark.parametrize("layout", ["jit", "pmap", "exact"])
def test_a_layout_of_one_process_is_refused_to_many(monkeypatch, layout):
    made = getattr(parallel, layout)()
    together.check(made)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UsageError, match=r"config.layout: .*use jaxkit.parallel.mesh"):
        together.check(made)
    with pytest.raises(UsageError, match="uses 2 devices, the 2 processes have 4"):
        together.check(parallel.mesh(data=2))


def test_the_rows_of_two_processes_are_the_whole_batch():
    examples = data.arrays({"x": np.arange(50, dtype=np.float32)}).open()
    halves = [np.arange(8), np.arange(8, 16)]
    for make in (lambda rows: data.shuffled(examples, batch_size=16, seed=3, rows=rows), None):
        make = make or (lambda rows: data.padded(examples, batch_size=16, rows=rows))
        whole, parts = make(None), [make(rows) for rows in halves]
        for step in (0, 3):
            for name, wanted in whole[step].items():
                np.testing.assert_array_equal(np.concatenate([part[step][name] for part in parts]), wanted)
    assert make(halves[1])[3]["mask"].tolist() == [False] * 8  # of 50 examples the last batch has 2


@pytest.mark.parametrize("axis", [0, 1])
def test_a_batch_is_put_together_from_the_parts_of_several_devices(monkeypatch, axis):
    layout = parallel.mesh(data=2, fsdp=2)
    batch = {"x": np.arange(48, dtype=np.float32).reshape((8, 6) if axis == 0 else (3, 8, 2))}
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    # All four devices are this process's, so it has all rows.
    assert together.rows(layout, 8).tolist() == list(range(8))
    found = together.put(layout, batch, 8, axis=axis)
    assert found["x"].sharding == layout.split(axis)
    np.testing.assert_array_equal(found["x"], batch["x"])
