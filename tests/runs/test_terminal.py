"""A terminal that hangs up costs a run neither its checkpoint nor its exit code."""

import os
import select
import subprocess
import sys
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
        env=children.environment(),
    )
    os.close(slave)
    try:
        seen = b""
        while b"step" not in seen or len(record.read(tmp_path / "run/metrics.jsonl")) < 3:
            if select.select([master], [], [], 0.05)[0]:
                seen += os.read(master, 2**16)
            assert started.poll() is None, seen.decode()
        os.close(master)
        assert started.wait(60) == TRY_AGAIN
    finally:
        children.kill(started)
    stands = directory.status(tmp_path / "run")
    assert stands["status"] == "interrupted"
    assert checkpoints.steps(tmp_path / "run/checkpoints") == [stands["step"]]
    assert checkpoints.verify(tmp_path / f"run/checkpoints/{stands['step']}") is None
