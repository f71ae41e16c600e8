"""A step that hangs ends its run with the stacks; one that is asked to stop and cannot, ends too."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from jaxkit.errors import UsageError
from jaxkit.proofs import children
from jaxkit.runs import checkpoints, process, watchdog
from jaxkit.runs.peers import STUCK, TRY_AGAIN

TOP = Path(__file__).parent.parent.parent


def script(text: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs Python code that hangs at its end, in a process of its own."""
    code = f"import os, signal, time\nfrom jaxkit.runs import process, watchdog\n{text}"
    made = {**children.environment(), **environment}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=made, timeout=300)


HANGS = """
def hangs_here(begin=lambda: None):
    begin()
    time.sleep(3600)
"""


def test_a_step_that_hangs_ends_the_process_with_the_stacks():
    done = script(
        # It is timed from within what hangs: however slow the machine, that is where it is found.
        f"{HANGS}\nwith watchdog.watching() as w:\n    w.begins(6); w.calls(1); hangs_here(lambda: w.begins(7))",
        JAXKIT_STEP_SECONDS="0.2",
    )
    assert done.returncode == STUCK
    assert "in hangs_here" in done.stderr
    assert "error: step 8 has not finished in 0.2 s (JAXKIT_STEP_SECONDS)" in done.stderr


def test_who_cannot_save_when_asked_to_stop_ends_all_the_same():
    done = script(
        f"{HANGS}\nwith process.signals():\n    os.kill(os.getpid(), signal.SIGTERM); hangs_here(); hangs_here()",
        JAXKIT_STOP_SECONDS="0.2",
    )
    assert done.returncode == TRY_AGAIN
    assert "error: was asked to stop, and has not saved in 0.2 s (JAXKIT_STOP_SECONDS)" in done.stderr


def test_what_is_not_a_step_is_not_timed(monkeypatch):
    ended, looks, now = threading.Event(), threading.Semaphore(0), [0.0]
    monkeypatch.setenv(watchdog.ENVIRONMENT, "0.05")
    monkeypatch.setattr(watchdog, "_end", lambda seconds, step: ended.set())
    # A clock that moves when it is told to, and the watchdog's looks, one by one.
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: now[0]))
    quiet = SimpleNamespace(
        dump_traceback_later=lambda *_, **__: looks.release(), cancel_dump_traceback_later=lambda: None
    )
    monkeypatch.setattr(watchdog, "faulthandler", quiet)

    def ends_when_time_passes() -> bool:
        now[0] += 60
        # One look may have begun before that; when there is a third, a second is over.
        while looks.acquire(blocking=False):
            pass
        assert all(looks.acquire(timeout=60) for _ in range(3))
        return ended.is_set()

    with watchdog.watching() as watch:
        # The first call of a length compiles; evaluating and saving take what they take.
        watch.begins(0)
        watch.calls(4)
        assert not ends_when_time_passes()
        watch.begins(4)
        watch.calls(2)
        assert not ends_when_time_passes()
        watch.begins(6)
        watch.rests()
        assert not ends_when_time_passes()
        # A batch that does not come is a step that does not finish.
        watch.begins(8)
        assert ends_when_time_passes()


def test_who_stopped_in_time_is_left_alone(monkeypatch):
    monkeypatch.setenv(process.STOP_SECONDS, "3600")
    monkeypatch.setattr(process, "_give_up", lambda seconds: pytest.fail("gave up"))
    with process.signals() as stopped:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.wait(60)
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert all(timer.finished.is_set() for timer in timers)


def test_who_is_not_in_a_loop_is_stopped_as_by_a_ctrl_c_unless_nohup_said_otherwise():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with process.asked_to_stop():
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", [watchdog.ENVIRONMENT, process.STOP_SECONDS])
@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_a_time_that_is_none_is_refused(monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    with pytest.raises(UsageError, match=f"{name}: came '{text}', wanted a number of seconds above 0"):
        process.seconds_of(name)


@pytest.mark.slow
def test_a_run_whose_data_hangs_ends_and_keeps_its_checkpoint(tmp_path):
    command = [sys.executable, "tests/runs/blobs.py", "--config=tests/runs/blobs_config.py"]
    command += ["--config.in_memory=False", '--config.layout={"call": "jaxkit.parallel.jit"}']
    command += [f"--workdir={tmp_path / 'run'}"]
    environment = {**children.environment(), watchdog.ENVIRONMENT: "10", "BLOBS_HANG_AFTER": "18"}
    done = subprocess.run(
        command, check=False, cwd=TOP, capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == STUCK, done.stderr
    # The stacks are those of all threads: also of the one that reads.
    assert "in train" in done.stderr
    assert "in read" in done.stderr
    assert checkpoints.steps(tmp_path / "run/checkpoints")[-1] in (8, 16)
