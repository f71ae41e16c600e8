"""A run directory has one writer, on whichever machine."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from jaxkit import configs
from jaxkit.errors import Busy, UsageError
from jaxkit.runs import command, directory, files, leading, ownership

TOP = Path(__file__).parent.parent.parent
CONFIG = configs.freeze({"num_steps": 30, "seed": 0})


def left_by(workdir, *, host: str, seconds_ago: float) -> None:
    """What a process of another machine leaves."""
    workdir.mkdir(exist_ok=True)
    path = workdir / ownership.OWNER
    path.write_text(json.dumps({"host": host, "boot": "b", "pid": 7}))
    os.utime(path, (time.time() - seconds_ago,) * 2)


def test_a_directory_in_which_another_machine_writes_is_refused_and_unchanged(tmp_path):
    left_by(tmp_path / "run", host="elsewhere", seconds_ago=5)
    left = time.monotonic()
    with (
        pytest.raises(
            Busy, match=r"process 7 of elsewhere is writing in .*run \(\d+ s ago\); wait for it"
        ) as busy,
        directory.claim(tmp_path / "run", CONFIG, "blobs"),
    ):
        pass
    # Rounded, by a clock of the file system that ticks a few times in a hundredth of a second.
    assert 4 <= int(re.search(r"\((\d+) s ago", str(busy.value))[1]) <= 6 + time.monotonic() - left
    assert json.loads((tmp_path / "run" / ownership.OWNER).read_text())["host"] == "elsewhere"
    assert not directory.is_run(tmp_path / "run")


def test_a_run_that_another_machine_writes_is_running(tmp_path):
    with directory.claim(tmp_path / "run", CONFIG, "blobs"):
        pass
    assert directory.status(tmp_path / "run")["status"] == "interrupted"
    left_by(tmp_path / "run", host="elsewhere", seconds_ago=5)
    assert directory.status(tmp_path / "run")["status"] == "running"


@pytest.mark.parametrize("seconds_ago", [61, -3600], ids=["gone", "a clock set back"])
def test_one_that_is_gone_is_succeeded(tmp_path, seconds_ago):
    left_by(tmp_path / "run", host="elsewhere", seconds_ago=seconds_ago)
    with directory.claim(tmp_path / "run", CONFIG, "blobs"):
        assert json.loads((tmp_path / "run" / ownership.OWNER).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run" / ownership.OWNER).exists()


def test_of_this_machine_the_lock_decides(tmp_path):
    with directory.claim(tmp_path / "run", CONFIG, "blobs"):
        mine = (tmp_path / "run" / ownership.OWNER).read_text()
    (tmp_path / "run" / ownership.OWNER).write_text(mine.replace(str(os.getpid()), "1"))
    with directory.claim(tmp_path / "run", CONFIG, "blobs"):
        pass  # killed a moment ago: it has lost the lock, and nobody waits


def test_a_process_forked_off_by_one_that_was_killed_keeps_no_lock(tmp_path):
    script = (
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from jaxkit import configs\n"
        "from jaxkit.runs import directory\n"
        "config = configs.freeze({'num_steps': 30, 'seed': 0})\n"
        "with directory.claim(Path(sys.argv[1]), config, 'blobs'):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        time.sleep(600)\n"
        "    print(child, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # Not through a pipe: the child would keep it open.
    with (tmp_path / "child").open("w") as said:
        killed = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "run")],
            stdout=said,
            env={**os.environ, "PYTHONPATH": str(TOP)},
        )
    assert killed.returncode == -signal.SIGKILL
    child = psutil.Process(int((tmp_path / "child").read_text()))
    try:
        with directory.claim(tmp_path / "run", CONFIG, "blobs"):
            assert child.is_running()
    finally:
        child.kill()


def test_whoever_writes_touches_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "SECONDS_BETWEEN_LOOKS", 0.001)
    with ownership.held(tmp_path):
        path = tmp_path / ownership.OWNER
        os.utime(path, (0, 0))
        until = time.monotonic() + 60
        while path.stat().st_mtime < 1:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_of_two_that_began_in_the_same_moment_one_leaves_before_it_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "SECONDS_BETWEEN_LOOKS", 3600.0)
    run = tmp_path / "run"
    with directory.claim(run, CONFIG, "blobs"):
        directory.set_status(run, status="interrupted")
    with directory.claim(run, configs.replace(CONFIG, {"num_steps": 40}), "blobs", ["num_steps"]) as claim:
        # The other has looked before this one wrote, and written after it.
        left_by(run, host="elsewhere", seconds_ago=0)
        before = {path: path.read_bytes() for path in run.iterdir()}
        with pytest.raises(Busy, match=r"no longer this process's: process 7 of elsewhere writes in it"):
            leading.begin(run, configs.replace(CONFIG, {"num_steps": 40}), claim, {}, step=10)
        assert before == {path: path.read_bytes() for path in run.iterdir()}
    assert (run / ownership.OWNER).exists()


@pytest.mark.parametrize("then", ["writes", "is done"])
def test_a_machine_that_slept_while_another_took_over_leaves_when_it_wakes_up(tmp_path, then):
    script = (
        "import sys, time; from pathlib import Path; from jaxkit.runs import ownership\n"
        "ownership.SECONDS_BETWEEN_LOOKS = 0.02\n"
        "with ownership.held(Path(sys.argv[1])):\n"
        "    print('writes', flush=True); time.sleep(3600)\n"
        "print('went on', flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=TOP, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout.readline() == "writes\n"
        process.send_signal(signal.SIGSTOP)
        # It stops in its own time; until then it would see the half of what is written here.
        until = time.monotonic() + 60
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < until
            time.sleep(0.01)
        left_by(tmp_path, host="elsewhere", seconds_ago=0)
        if then == "is done":
            (tmp_path / ownership.OWNER).unlink()
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (75, "")
    assert err.startswith(f"error: workdir: {tmp_path} is no longer this process's: ")
    assert ("process 7 of elsewhere" in err) == (then == "writes")
    assert err.count("\n") == 1
    # What another has written there stays.
    assert (tmp_path / ownership.OWNER).exists() == (then == "writes")


def test_a_name_that_cannot_be_read_now_is_not_nobody(tmp_path, monkeypatch):
    left_by(tmp_path, host="elsewhere", seconds_ago=5)
    whole = files.content

    def fails(path):
        if path.name == ownership.OWNER:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return whole(path)

    monkeypatch.setattr(files, "content", fails)
    with pytest.raises(OSError, match="Input/output error"), ownership.held(tmp_path):
        pass


def test_whoever_is_only_too_early_may_try_again(capsys):
    for error, code in ((Busy("another writes"), 75), (UsageError("no such flag"), 2)):
        with pytest.raises(SystemExit) as caught, command.explained(debug=False):
            raise error
        assert (caught.value.code, capsys.readouterr().err) == (code, f"error: {error}\n")


def changes_of(run: Path) -> list[list[list[str]]]:
    found = files.read_json(run / directory.PROVENANCE)["config_changes"]
    return [change["changed"] for change in found]


@pytest.mark.parametrize("then", [40, 50])
def test_a_change_of_the_config_that_a_kill_cut_short_is_noted_once(tmp_path, monkeypatch, then):
    run, changed = tmp_path / "run", lambda steps: configs.replace(CONFIG, {"num_steps": steps})
    with directory.claim(run, CONFIG, "blobs"):
        leading.change_config(run, changed(35), after_step=10)
        with monkeypatch.context() as patch:
            patch.setattr(files, "write_text", lambda path, text: (_ for _ in ()).throw(KeyboardInterrupt))
            patch.setattr(files, "write_json", lambda path, value: path.write_text(json.dumps(value)))
            with pytest.raises(KeyboardInterrupt):
                leading.change_config(run, changed(40), after_step=10)
        assert directory.read_config(run).num_steps == 35
        leading.change_config(run, changed(then), after_step=10)
    assert changes_of(run) == [[["num_steps", "30", "35"]], [["num_steps", "35", str(then)]]]


@pytest.mark.parametrize("content", [b"[1", b"\xff", b"[" * 100_000])
def test_what_is_no_name_is_nobody(tmp_path, content):
    (tmp_path / ownership.OWNER).write_bytes(content)
    with ownership.held(tmp_path):
        pass
