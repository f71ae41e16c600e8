"""Two real processes: the same numbers as one, one set of files, and an end that says whose fault it was."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest

from jaxkit import configs
from jaxkit.recipe import plan
from jaxkit.runs import checkpoints, command, directory, record, watchdog
from jaxkit.runs.peers import LOST, STUCK

TOP = Path(__file__).parent.parent.parent
EXPERIMENT, CONFIG = TOP / "tests/runs/blobs.py", TOP / "tests/runs/blobs_config.py"
# Noise, for its key is a part of the state that no array of numpy can hold.
NOISE = (
    "optimizer",
    '{"call": "optax.noisy_sgd", "learning_rate": 0.1, "key": {"call": "jax.random.key", "seed": 1}}',
)
FOREVER = "--config.num_steps=1000000"
# How long somebody may be silent who is lost; a machine that is busy elsewhere is silent for seconds.
QUICKLY_LOST = {id: {"JAXKIT_PEER_SECONDS": "12"} for id in (0, 1)}
# Guards for the suite: what is waited for takes a fraction of it.
SECONDS = 300


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def processes(workdir: Path, *flags: str, environment: dict[int, dict[str, str]] | None = None):
    """Process 0 and 1 of a run, each with one device; nothing of them is left afterwards."""
    port, started, tree = free_port(), [], []
    for id in (0, 1):
        place = (f"--workdir={workdir}", f"--distributed=127.0.0.1:{port},2,{id}")
        words = [f"--config={CONFIG}", f"--config.{NOISE[0]}={NOISE[1]}", *place, *flags]
        variables = {
            **os.environ,
            "PYTHONPATH": str(TOP),
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "JAXKIT_PEER_SECONDS": "120",
            "JAXKIT_JOIN_SECONDS": "300",
            **(environment or {}).get(id, {}),
        }
        with (workdir.parent / f"{workdir.name}-{id}.txt").open("wb") as output:
            arguments = [sys.executable, str(EXPERIMENT), *words]
            started.append(subprocess.Popen(arguments, env=variables, stdout=output, stderr=subprocess.STDOUT))
    try:
        yield started
    finally:
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                tree += psutil.Process(process.pid).children(recursive=True)
        for process in [*started, *tree]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for process in started:
            process.wait()


def outputs(workdir: Path) -> list[str]:
    return [(workdir.parent / f"{workdir.name}-{id}.txt").read_text() for id in (0, 1)]


def codes(started: list[subprocess.Popen]) -> list[int]:
    return [process.wait(SECONDS) for process in started]


def worker(supervisor: subprocess.Popen) -> psutil.Process:
    (found,) = psutil.Process(supervisor.pid).children()
    return found


def wait_for(event: Callable[[], bool], workdir: Path, started: list[subprocess.Popen]) -> None:
    until = time.monotonic() + SECONDS
    while not event():
        assert time.monotonic() < until, outputs(workdir)
        assert all(process.poll() is None for process in started), outputs(workdir)
        time.sleep(0.01)


def wait_for_checkpoint(workdir: Path, started: list[subprocess.Popen]) -> None:
    wait_for(lambda: bool(checkpoints.steps(workdir / directory.CHECKPOINTS)), workdir, started)


def blame(text: str) -> str:
    """The last line of a process's output, which says why it ended."""
    line = text.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def loaded():
    spec = importlib.util.spec_from_file_location("blobs", EXPERIMENT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def params(workdir: Path) -> dict[str, np.ndarray]:
    """What a run came to, read by one process whoever wrote it."""
    config = configs.read(str(CONFIG), [NOISE])
    planned = plan(loaded().recipe(config), batch_size=config.batch_size)
    interval = jax.tree.map(lambda x: np.zeros(x.shape, np.float64), planned.metrics["train"])
    abstract = {"state": planned.state, "interval": interval}
    step, tree = checkpoints.restore(workdir / directory.CHECKPOINTS, abstract, pytest.fail)
    assert step == 24
    leaves = jax.tree_util.tree_leaves_with_path(tree["state"])
    is_key = lambda leaf: jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    plain = lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf
    return {jax.tree_util.keystr(path): plain(leaf) for path, leaf in leaves}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two processes that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    with processes(workdir) as started:
        assert codes(started) == [0, 0], outputs(workdir)
    return workdir


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same run in one process with two devices."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    config = configs.read(str(CONFIG), [NOISE])
    # Where jax looks for keys that are used twice, it fails of itself at one that is given back as it came.
    with jax.debug_key_reuse(False):
        assert command.run(loaded().recipe, config, experiment="blobs", workdir=workdir) == 0
    return workdir


def assert_same_numbers(run: Path, other: Path) -> None:
    found, wanted = params(run), params(other)
    assert found.keys() == wanted.keys()
    for name in wanted:
        # Other sums of float32, 24 steps of them; a lost row of one batch in 32 would be 1e-3 and more.
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_two_processes_come_to_the_numbers_of_one_and_leave_one_set_of_files(finished, alone):
    assert_same_numbers(finished, alone)
    rows, wanted = record.read(finished / directory.METRICS), record.read(alone / directory.METRICS)
    assert [row["step"] for row in rows] == list(range(1, 25))
    for row, other in zip(rows, wanted, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=1e-5)
    names = lambda run: {path.name for path in run.iterdir()}
    assert names(finished) == names(alone)
    assert directory.summary(finished)["evaluation"]["test"].keys() == {"loss", "accuracy"}
    assert len(directory.summary(finished)["params_sha256"]) == 64
    # Each process has half of what is split, and wrote that: neither wrote for both.
    parts = finished / directory.CHECKPOINTS / "24/state"
    sizes = [sum(path.stat().st_size for path in parts.glob(f"ocdbt.process_{id}/d/*")) for id in (0, 1)]
    assert min(sizes) > max(sizes) / 2, sizes
    first, second = outputs(finished)
    assert "picture" in first
    assert "step" not in second


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("BLOBS_SEED", "config.seed: is 3 in process 0, and 2 in process 1; give all the same config"),
        ("BLOBS_SCALE", "config.data.train: sha256 "),
    ],
)
def test_processes_with_another_config_or_other_data_are_refused(tmp_path, variable, said):
    """Each reads files of its own host."""
    with processes(tmp_path / "run", environment={1: {variable: "2"}}) as started:
        assert codes(started) == [command.USAGE, command.USAGE]
    assert said in blame(outputs(tmp_path / "run")[0])
    assert not (tmp_path / "run").exists()


def test_a_step_that_hangs_ends_both_and_each_reads_on_its_own_rows_of_the_same_batches(tmp_path, alone):
    workdir, on_disk = tmp_path / "run", "--config.in_memory=False"
    # One hangs, and the other waits for it: either may see first that its step takes too long.
    watched = {id: {watchdog.ENVIRONMENT: "10", "BLOBS_HANG_AFTER": "18" if id else "-1"} for id in (0, 1)}
    with processes(workdir, on_disk, environment=watched) as started:
        assert codes(started) == [STUCK, STUCK], outputs(workdir)
    assert f"({watchdog.ENVIRONMENT})" in "".join(outputs(workdir))
    assert directory.status(workdir)["status"] == "interrupted"
    step = checkpoints.steps(workdir / directory.CHECKPOINTS)[-1]
    assert step in (8, 16)
    noted = {id: {"BLOBS_NOTED": str(tmp_path / f"{id}.txt")} for id in (0, 1)}
    with processes(workdir, on_disk, environment=noted) as started:
        assert codes(started) == [0, 0], outputs(workdir)
    assert_same_numbers(workdir, alone)
    # Training batches of 32, and 2 padded ones of 50 held-out examples at steps 12 and 24: a half of each.
    batches = ["16"] * (24 - step + (4 if step < 12 else 2))
    # Each source is asked for its first and its last example beforehand.
    assert (tmp_path / "1.txt").read_text().split() == ["2", "2", *batches]


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_a_restart_ends_with_the_same_bits(tmp_path, finished):
    workdir, on_disk = tmp_path / "run", "--config.in_memory=False"
    # However late the kill comes, it does not come after the end.
    with processes(workdir, on_disk, environment={1: {"BLOBS_HANG_AFTER": "22"}}) as started:
        wait_for_checkpoint(workdir, started)
        orphan = worker(started[1])
        started[1].send_signal(signal.SIGKILL)
        assert started[0].wait(SECONDS) == LOST
        orphan.wait(SECONDS)
    line = blame(outputs(workdir)[0])
    step = checkpoints.steps(workdir / directory.CHECKPOINTS)[-1]
    assert f"process 1 ({socket.gethostname()}) is dead" in line
    assert f"it resumes from step {step}" in line
    assert directory.status(workdir)["status"] == "interrupted"
    with processes(workdir, on_disk) as started:
        assert codes(started) == [0, 0], outputs(workdir)
    found, wanted = directory.summary(workdir), directory.summary(finished)
    assert (found["params_sha256"], found["digest"]) == (wanted["params_sha256"], wanted["digest"])


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False], ids=["supervisor", "worker"])
def test_where_the_coordinator_is_killed_the_others_say_so(tmp_path, whole):
    workdir = tmp_path / "run"
    with processes(workdir, FOREVER) as started:
        wait_for_checkpoint(workdir, started)
        (started[0] if whole else worker(started[0])).send_signal(signal.SIGKILL)
        assert codes(started) == [-signal.SIGKILL if whole else LOST, LOST], outputs(workdir)
    line = blame(outputs(workdir)[1])
    assert f"process 0 ({socket.gethostname()}) is dead" in line
    assert ("SIGKILL" in line) == (not whole)
    assert "resumes from step" in line


@pytest.mark.slow
def test_a_stopped_process_counts_as_lost(tmp_path):
    workdir = tmp_path / "run"
    with processes(workdir, FOREVER, environment=QUICKLY_LOST) as started:
        wait_for_checkpoint(workdir, started)
        worker(started[1]).send_signal(signal.SIGSTOP)
        assert codes(started) == [LOST, LOST], outputs(workdir)
    for text in outputs(workdir):
        assert f"process 1 ({socket.gethostname()}) has given no sign of life" in blame(text)


@pytest.mark.slow
def test_a_process_that_hangs_is_told_from_those_that_wait_for_it(tmp_path):
    workdir = tmp_path / "run"
    hangs = {0: QUICKLY_LOST[0], 1: {"BLOBS_HANG_AFTER": "30", **QUICKLY_LOST[1]}}
    with processes(workdir, FOREVER, "--config.in_memory=False", environment=hangs) as started:
        assert codes(started) == [LOST, LOST], outputs(workdir)
    for text in outputs(workdir):
        assert f"process 1 ({socket.gethostname()}) is stuck after step" in blame(text)


@pytest.mark.slow
def test_one_that_is_asked_to_stop_stops_all_after_the_same_step(tmp_path):
    workdir = tmp_path / "run"
    with processes(workdir, FOREVER, "--config.checkpoint_every=1000000") as started:
        wait_for(lambda: len(record.read(workdir / directory.METRICS)) > 2, workdir, started)
        started[1].send_signal(signal.SIGTERM)
        assert codes(started) == [75, 75], outputs(workdir)
    stands = directory.status(workdir)
    assert stands["status"] == "interrupted"
    assert checkpoints.steps(workdir / directory.CHECKPOINTS) == [stands["step"]]
