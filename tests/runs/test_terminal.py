"""What a terminal shows of a run; one that hangs up costs it neither its checkpoint nor its exit code."""

import os
import re
import select
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from jaxkit.proofs import children
from jaxkit.runs import checkpoints, directory, process, progress, record
from jaxkit.runs.peers import TRY_AGAIN

TOP = Path(__file__).parent.parent.parent
# What a shell does for what it starts: whose terminal hangs up gets a SIGHUP.
IN_ITS_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    " signal.signal(signal.SIGHUP, signal.SIG_DFL);"
    " os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


VALUES = {"loss": 1.25, "accuracy": 0.5, "test/loss": 0.75, "test/accuracy": 0.875, "test/calibration.ece": 0.1}
SPEED = {"steps_per_second": 96.0, "examples_per_second": 12_345.0, "waiting_for_data": 0.3}


def shown(monkeypatch, *, width: int, term: str = "xterm") -> str:
    """All that nine steps write to a terminal, without what sets its colours and moves its cursor."""
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_REDRAWS", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    out = StringIO()
    bar = progress.progress(Console(file=out, force_terminal=True, width=width), start=0, num_steps=9)
    bar.update(4, VALUES, SPEED)
    bar.update(9, VALUES, SPEED)
    bar.close()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())


# Narrow, and as wide as a window is by itself: the step and the loss stay, what is behind them is cut.
@pytest.mark.parametrize("width", [50, 80, 200])
def test_a_terminal_shows_a_bar_with_the_step_and_the_loss(width, monkeypatch):
    lines = [line for line in shown(monkeypatch, width=width).splitlines() if line]
    for step in (0, 4, 9):
        assert any(line.startswith(f"step {step}/9 ━") for line in lines), lines
    assert re.fullmatch(r"step 9/9 ━+ 0:00:00 loss 1\.25  .*", lines[-1])
    assert all(len(line) <= width for line in lines)
    assert ("12,345 examples/s, 30% waiting for data" in lines[-1]) == (width == 200)


def test_a_terminal_that_cannot_redraw_a_line_is_shown_whole_ones(monkeypatch):
    lines = shown(monkeypatch, width=50, term="dumb").splitlines()
    assert [line.split("  ")[:2] for line in lines] == [["step 4/9", "loss 1.25"], ["step 9/9", "loss 1.25"]]


def test_what_is_shown_where_nobody_looks_any_more_is_no_error():
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as stream:
        shown = process.unheard(stream)
        console = Console(file=shown)
        assert console.is_terminal
        early = progress.progress(console, start=0, num_steps=9)
        os.close(master)
        with pytest.raises(OSError, match="Input/output error"):
            os.write(slave, b"x")
        early.message("warning: nobody sees it")
        early.update(9, {"loss": 1.0}, {})
        early.close()
        late = progress.progress(console, start=0, num_steps=9)
        late.close()
        print("the end", file=shown, flush=True)


@pytest.mark.slow
def test_a_terminal_that_hangs_up_stops_the_run_which_saves_and_says_try_again(tmp_path):
    command = [sys.executable, "-c", IN_ITS_TERMINAL, "tests/runs/blobs.py"]
    command += ["--config=tests/runs/blobs_config.py", '--config.layout={"call": "jaxkit.parallel.jit"}']
    command += [f"--config.{name}_every=1000000" for name in ("eval", "checkpoint")]
    command += ["--config.num_steps=1000000", f"--workdir={tmp_path / 'run'}"]
    master, slave = os.openpty()
    started = subprocess.Popen(
        command,
        cwd=TOP,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env=children.environment() | {"TERM": "xterm"},
    )
    os.close(slave)
    try:
        seen = b""
        # The bar, in which colours stand between the words.
        bar, rows = re.compile(rb"step [\d,]+/1,000,000 .*loss"), tmp_path / "run/metrics.jsonl"
        while not bar.search(seen) or len(record.read(rows)) < 3:
            if select.select([master], [], [], 0.05)[0]:
                seen += os.read(master, 2**16)
            assert started.poll() is None, seen.decode()
            # A bar that does not come is not waited for to the end of the run.
            assert bar.search(seen) or not rows.exists() or rows.stat().st_size < 2**22, seen.decode()
        os.close(master)
        assert started.wait(120) == TRY_AGAIN
    finally:
        children.kill(started)
    stands = directory.status(tmp_path / "run")
    assert stands["status"] == "interrupted"
    assert checkpoints.steps(tmp_path / "run/checkpoints") == [stands["step"]]
    assert checkpoints.verify(tmp_path / f"run/checkpoints/{stands['step']}") is None
