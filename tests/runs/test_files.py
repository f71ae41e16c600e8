"""What lies in a run directory may come from anywhere, and be no file at all."""

import io
import os
import signal
import socket

import pytest

from jaxkit.errors import UsageError
from jaxkit.runs import directory, files, ownership


@pytest.fixture(autouse=True)
def soon():
    """Whoever waits for a pipe is woken up, and has failed."""

    def wake(number, frame):
        raise TimeoutError("it was waited for")

    before = signal.signal(signal.SIGALRM, wake)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path):
    os.mkfifo(path)


def a_socket(path):
    # The name of a socket is short.
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def device(path):
    path.symlink_to("/dev/zero")


def folder(path):
    path.mkdir()


def round_in_circles(path):
    path.symlink_to(path.name)


KINDS = [pipe, a_socket, device, folder, round_in_circles]


@pytest.mark.parametrize("make", KINDS)
def test_what_is_no_file_is_an_error_at_once(tmp_path, make):
    path = tmp_path / "config.json"
    make(path)
    with pytest.raises(OSError, match=r"config\.json"):
        files.content(path)
    with pytest.raises(UsageError, match="cannot be read"):
        files.read_json(path)


@pytest.mark.parametrize("name", ["config.json", "status.json", "metrics.jsonl"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path, name):
    directory.summary(_run(tmp_path))
    (tmp_path / name).unlink()
    pipe(tmp_path / name)
    with pytest.raises((UsageError, OSError), match="is no regular file"):
        directory.summary(tmp_path)


def test_a_pipe_in_the_place_of_a_lock_or_a_name_is_not_waited_for(tmp_path):
    files.write_json(_run(tmp_path) / directory.STATUS, {"status": "running"})
    pipe(tmp_path / ownership.OWNER)
    assert directory.status(tmp_path)["status"] == "interrupted"
    (tmp_path / directory.LOCK).unlink()
    pipe(tmp_path / directory.LOCK)
    with pytest.raises(OSError, match="is no regular file"):
        directory.status(tmp_path)


def test_more_than_the_memory_holds_is_said(tmp_path, monkeypatch):
    class Endless(io.BytesIO):
        def read(self, size=-1):
            raise MemoryError

    monkeypatch.setattr(files, "opened", lambda path: Endless())
    with pytest.raises(UsageError, match=r"status.json: cannot be read \(is larger than the memory\)"):
        files.read_json(tmp_path / "status.json")


def _run(path):
    """The files of a run, in short."""
    files.write_json(path / directory.CONFIG, {"num_steps": 5})
    files.write_json(path / directory.STATUS, {"status": "finished", "step": 5, "timing": {}})
    (path / directory.METRICS).write_text('{"step": 5, "digest": "0a"}\n')
    (path / directory.LOCK).touch()
    return path
