"""A benchmark that falls short of what is promised says so; that for accelerators needs few packages."""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def accuracy(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("accuracy", "measure"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("accuracy")
    yield module
    for name in ("accuracy", "measure"):
        del sys.modules[name]


def test_an_accuracy_that_is_too_low_is_an_error(accuracy, monkeypatch, capsys):
    monkeypatch.setattr(accuracy, "train", lambda seed: ((0.9944, 0.9917, 0.9944, 0.9917, 0.9918)[seed], 12.0))
    with pytest.raises(SystemExit) as caught:
        accuracy.main()
    # Text as an exit code is printed to the errors, and the code is 1.
    assert caught.value.code == "error: the mean accuracy is 0.9928, wanted at least 0.993"
    assert "seed 4: 0.9918 in 12.0 s\n  mean 0.9928 over 5 seeds\n" in capsys.readouterr().out


def test_an_accuracy_that_is_reached_is_none(accuracy, monkeypatch):
    monkeypatch.setattr(accuracy, "train", lambda seed: (0.993, 12.0))
    accuracy.main()


SIDE = """
import json, sys
print(json.dumps({"first_step_at": 0.0}), flush=True)
for number, line in enumerate(sys.stdin):
    if number == int(sys.argv[1]):
        sys.exit("RESOURCE_EXHAUSTED: out of memory")
    print(json.dumps({"loss": 0.0, "seconds": 1.0, "excess": 0}), flush=True)
"""


def test_a_side_that_ends_in_a_late_round_takes_no_figure_of_the_others_with_it(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    gpu, processes = importlib.import_module("gpu"), importlib.import_module("processes")
    command = lambda last: [sys.executable, "-c", SIDE, str(last)]
    sides = {"bare": 99, "loop": 2}
    running = {name: processes.start(command(last), os.environ, tmp_path / name) for name, last in sides.items()}
    problems: list[str] = []
    try:
        speeds = gpu.rounds(running, argparse.Namespace(rounds=3, seconds=1.0), "gpt2", problems)
    finally:
        for side in running.values():
            processes.stop(side)
    assert speeds == {"bare": [3.0, 3.0, 3.0]}
    assert problems == ["gpt2: loop ended in round 2: RESOURCE_EXHAUSTED: out of memory"]


# What jax, flax, optax and numpy are, and bring with them.
AT_HAND = {"jax", "flax", "optax", "numpy", "orbax-checkpoint", "psutil", "rich"}


def test_the_benchmark_for_accelerators_needs_only_jax_flax_optax_and_numpy():
    declared = tomllib.loads((BENCHMARKS.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    others = {re.split("[^a-z0-9-]", text)[0] for text in declared} - AT_HAND
    modules = [{"pillow": "PIL"}.get(name, name.replace("-", "_")) for name in others]
    side = BENCHMARKS / "gpu" / "jax_side.py"
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({modules})); runpy.run_path({str(side)!r})"
    folders = (BENCHMARKS.parent, BENCHMARKS / "gpu", BENCHMARKS / "peers")
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = ['', '-', 'matmul', 'tiny']; {code}"],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(map(str, folders))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["platform"] == "cpu"
