"""Runs, written by what writes them, without training."""

import json
import math
from pathlib import Path

import pytest

from jaxkit import configs
from jaxkit.runs import directory, evaluations, files, record

CONFIG = {
    "seed": 0,
    "num_steps": 40,
    "optimizer": {"call": "optax.adamw", "learning_rate": 0.01},
    "model": {"call": "jaxkit.models.mlp", "features": (16,)},
}
RELIABILITY = {"confidence": [0.3, 0.7, "nan"], "accuracy": [0.25, 0.8, "nan"], "count": [4.0, 5.0, 0.0]}


def make_run(
    workdir: Path,
    *,
    changes: dict | None = None,
    losses: dict[int, float] | None = None,
    accuracy: float = 0.9,
    status: str = "finished",
    provenance: dict | None = None,
    experiment: str = "blobs",
) -> Path:
    """A run directory with a record, an evaluation and provenance; `losses` are {step: loss}."""
    config = configs.replace(configs.freeze(CONFIG), changes or {})
    losses = {step: 1 / step for step in (10, 20, 30, 40)} if losses is None else losses
    with directory.claim(workdir, config, experiment):
        recorder = record.recorder(workdir / directory.METRICS, after=0)
        for step, loss in losses.items():
            values = {"loss": loss if math.isfinite(loss) else str(loss), "test/accuracy": accuracy * step / 40}
            recorder.append(step, values, step, {"steps_per_second": 100.0})
        recorder.close()
        found = {"metrics": {"accuracy": accuracy, "calibration": {"ece": 0.1}}}
        (workdir / evaluations.EVALUATION).mkdir()
        files.write_json(
            workdir / "evaluation/test.json",
            {"split": "test", "step": 40, **found, "reliability": {"calibration": RELIABILITY}},
        )
        files.write_json(workdir / directory.PROVENANCE, {"fingerprint": "", **(provenance or {})})
        timing = {"total": 12.5, "steps_per_second": 100.0}
        directory.set_status(workdir, status=status, step=max(losses, default=0), timing=timing)
    return workdir


# Of three runs two have a schedule, and one a number in its place.
SCHEDULE = {"call": "optax.constant_schedule", "value": 0.003}
RATES = {"a": SCHEDULE, "b": SCHEDULE | {"value": 0.001}, "c": 0.001}
RATES_DIFFER = {
    "optimizer.learning_rate": [*map(repr, RATES.values())],
    "optimizer.learning_rate.value": ["0.003", "0.001", None],
}


@pytest.fixture
def three_rates(tmp_path):
    """Three runs with those rates, and what a comparison says of them."""
    runs = [
        make_run(tmp_path / name, changes={"optimizer.learning_rate": rate}, losses={10: 1.0})
        for name, rate in RATES.items()
    ]
    return runs, RATES_DIFFER


@pytest.fixture(scope="session")
def made():
    """The function that makes a run."""
    return make_run


@pytest.fixture
def three(tmp_path, made):
    """A directory with three runs: a, c and group/b."""
    made(tmp_path / "a", changes={"seed": 1}, accuracy=0.95)
    made(tmp_path / "group/b", changes={"seed": 2, "optimizer.learning_rate": 0.1}, accuracy=0.99)
    made(tmp_path / "c", changes={"seed": 3}, accuracy=0.5, status="failed")
    return tmp_path


@pytest.fixture
def command(capsys):
    """The command `jaxkit` in this process: (exit code, output, errors)."""
    from jaxkit import cli

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def fails(command):
    """A command that must end with exit code 2 and one line; returns the line."""

    def run(*arguments: object) -> str:
        code, out, err = command(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return run


def as_json(text: str):
    """What a command printed, nan and infinities refused."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.fixture
def asked(command):
    """What a command prints with --json."""

    def run(*arguments: object):
        code, out, err = command(*arguments, "--json")
        assert (code, err) == (0, "")
        return as_json(out)

    return run
