import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PREPARE = """
import sys
from jaxkit import data
print(data.digits(split=sys.argv[2], data_dir=sys.argv[1]).open().manifest["sha256"])
"""


class Prepared(NamedTuple):
    directory: Path
    hashes: list[str]


def start(code, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"JAXKIT_DATA": "/nonexistent"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()


@pytest.fixture(autouse=True)
def _no_home(monkeypatch, tmp_path):
    """No test may touch the home directory, or the data sets of whoever runs it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JAXKIT_DATA", str(tmp_path / "data"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The digits, prepared by two processes at the same time: both want the train split."""
    directory = tmp_path_factory.mktemp("prepared")
    both = [start(PREPARE, directory, "train") for _ in range(2)]
    return Prepared(directory, [finish(process) for process in both])


@pytest.fixture
def run():
    return lambda code, *arguments, **environment: finish(start(code, *arguments, **environment))
