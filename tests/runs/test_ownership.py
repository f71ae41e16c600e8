"""A run directory has one writer, on whichever machine."""

import json
import os
import time

import pytest

from jaxkit import configs
from jaxkit.errors import UsageError
from jaxkit.runs import directory, ownership

CONFIG = configs.freeze({"num_steps": 30, "seed": 0})


def left_by(workdir, *, host: str, seconds_ago: float) -> None:
    """What a process of another machine leaves."""
    workdir.mkdir(exist_ok=True)
    path = workdir / ownership.OWNER
    path.write_text(json.dumps({"host": host, "boot": "b", "pid": 7}))
    os.utime(path, (time.time() - seconds_ago,) * 2)


def test_a_directory_in_which_another_machine_writes_is_refused_and_unchanged(tmp_path):
    left_by(tmp_path / "run", host="elsewhere", seconds_ago=5)
    with (
        pytest.raises(UsageError, match=r"process 7 of elsewhere is writing in .*run \([45] s ago\); wait for it"),
        directory.claim(tmp_path / "run", CONFIG, "blobs"),
    ):
        pass
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


def test_whoever_writes_touches_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "SECONDS_BETWEEN_TOUCHES", 0.01)
    with ownership.held(tmp_path):
        path = tmp_path / ownership.OWNER
        os.utime(path, (0, 0))
        for _ in range(500):
            if path.stat().st_mtime > 1:
                break
            time.sleep(0.01)
        assert path.stat().st_mtime > 1


def test_what_is_no_name_is_nobody(tmp_path):
    (tmp_path / ownership.OWNER).write_text("[1")
    with ownership.held(tmp_path):
        pass
