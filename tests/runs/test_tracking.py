"""The process beside a run: it comes when the training has had its time, once, and no row needs it to be there."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from jaxkit import cli
from jaxkit.proofs import children
from jaxkit.runs import command, cursors, directory, record, tracking
from tests.runs import test_loop
from tests.runs.test_sending import make_run, own_writers, steps_in, writer  # noqa: F401

TOP = Path(__file__).parent.parent.parent


@pytest.fixture
def started(monkeypatch):
    """The processes that are started; none outlives the test."""
    found, whole = [], tracking._process

    def process():
        found.append(whole())
        return found[-1]

    monkeypatch.setattr(tracking, "_process", process)
    yield found
    assert all(process.poll() is not None for process in found)


def test_a_run_that_is_over_soon_trains_alone_and_sends_all_at_its_end(tmp_path, monkeypatch):
    run, rows, whole = tmp_path / "run", [], tracking._process

    def process():
        rows.append(len(record.read(run / directory.METRICS)))
        return whole()

    monkeypatch.setattr(tracking, "_process", process)
    # However slow the machine is.
    monkeypatch.setattr(tracking, "SECONDS_ALONE", 600.0)
    assert test_loop.run(run, test_loop.config(writers=(writer(tmp_path / "out"),))) == command.OK
    assert rows == [6]
    assert steps_in(tmp_path / "out") == list(range(5, 31, 5))


@pytest.mark.parametrize("seconds", [0.0, 0.1, 60.0])
def test_there_is_one_process_whenever_a_run_ends_and_none_behind_it(tmp_path, monkeypatch, started, seconds):
    monkeypatch.setattr(tracking, "SECONDS_ALONE", seconds)
    run, said = make_run(tmp_path / "run", writer(tmp_path / "out")), io.StringIO()
    with tracking.beside(run, directory.read_config(run).writers, Console(file=said)) as beside:
        beside.begin()
        beside.finish(30)
    beside.finish(30)
    beside.begin()
    time.sleep(0.2)
    assert len(started) == 1
    assert len(steps_in(tmp_path / "out")) == 40
    assert said.getvalue() == ""


def test_a_start_that_is_interrupted_is_not_tried_again(tmp_path, monkeypatch):
    run, tried = make_run(tmp_path / "run", writer(tmp_path / "out")), []

    def process():
        tried.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking, "_process", process)
    writers = directory.read_config(run).writers
    with pytest.raises(KeyboardInterrupt), tracking.beside(run, writers, Console()) as beside:
        beside.finish(30)
    assert tried == [1]


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_a_process_that_cannot_be_started_costs_a_warning(tmp_path, monkeypatch, seconds):
    def process():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(tracking, "SECONDS_ALONE", seconds)
    monkeypatch.setattr(tracking, "_process", process)
    run, said = make_run(tmp_path / "run", writer(tmp_path / "out")), io.StringIO()
    with tracking.beside(run, directory.read_config(run).writers, Console(file=said)):
        time.sleep(0.05)
    reason = "no process for the writers: [Errno 11] Resource temporarily unavailable"
    assert said.getvalue() == f"warning: {reason}; `jaxkit sync {run}` sends all\n"


def test_of_a_run_that_was_killed_before_there_was_a_process_sync_sends_all(tmp_path):
    run, out, log = tmp_path / "run", tmp_path / "out", tmp_path / "log"
    start = [sys.executable, "tests/runs/blobs.py", "--config=tests/runs/blobs_config.py", f"--workdir={run}"]
    start += [f"--config.writers=({writer(out)!r},)", "--config.layout={'call': 'jaxkit.parallel.jit'}"]
    start += ["--config.in_memory=False"]
    environment = children.environment() | {"BLOBS_HANG_AFTER": "22", "BLOBS_ALONE": "600"}
    with children.started(start, log=log, environment=environment, directory=TOP) as process:
        while not (run / directory.METRICS).exists() or len(record.read(run / directory.METRICS)) < 10:
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
    assert not (run / cursors.FOLDER).exists()
    assert cli.main(["sync", str(run), "--allow=reporting"]) == 0
    assert steps_in(out) == [row["step"] for row in record.read(run / directory.METRICS)]


def test_a_process_forked_off_by_one_that_was_killed_keeps_no_writers_waiting(tmp_path):
    script = (
        "import os, signal, time\n"
        "from jaxkit.runs import tracking\n"
        "tracking._START = 'import sys; sys.stdin.read()'\n"
        "beside = tracking._process()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    time.sleep(600)\n"
        "print(child, beside.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with (tmp_path / "said").open("w") as said:
        subprocess.run([sys.executable, "-c", script], stdout=said, env={**os.environ, "PYTHONPATH": str(TOP)})
    child, beside = map(int, (tmp_path / "said").read_text().split())
    until = time.monotonic() + 60
    try:
        with contextlib.suppress(psutil.NoSuchProcess):
            while psutil.Process(beside).status() != psutil.STATUS_ZOMBIE:
                assert time.monotonic() < until
                time.sleep(0.05)
    finally:
        os.kill(child, signal.SIGKILL)
