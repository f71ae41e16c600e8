"""A run that cannot go on is refused as it stands: nothing in its directory is changed."""

import json
import shutil
from pathlib import Path

import pytest

from jaxkit import configs
from jaxkit.errors import UsageError
from jaxkit.runs import assets, command, directory, files, process, watchdog
from tests.runs import sources, test_loop


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that was stopped after step 13, with an asset."""
    run = tmp_path_factory.mktemp("runs") / "run"
    assert test_loop.run(run, test_loop.config(), stop_after=12, recipe=recipe) == command.TRY_AGAIN
    return run


def recipe(config):
    return test_loop.recipe(config)._replace(assets=lambda: {"a.txt": b"a", **{name: b"" for name in ADDED}})


ADDED: list[str] = []


@pytest.fixture
def run(interrupted, tmp_path):
    return shutil.copytree(interrupted, tmp_path / "run")


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def other_data(run: Path) -> None:
    noted = files.read_json(run / directory.PROVENANCE)
    noted["data"]["train"]["sha256"] = "0" * 64
    files.write_json(run / directory.PROVENANCE, noted)


def no_manifest(run: Path) -> None:
    noted = files.read_json(run / directory.PROVENANCE)
    files.write_json(run / directory.PROVENANCE, {**noted, "data": {"train": 3}})


def fewer_rows(run: Path) -> None:
    rows = (run / directory.METRICS).read_bytes().splitlines(keepends=True)
    (run / directory.METRICS).write_bytes(rows[0])


def damaged_checkpoints(run: Path) -> None:
    for path in (run / directory.CHECKPOINTS).glob("*/state-0.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])


def lost_manifests(run: Path) -> None:
    for path in (run / directory.CHECKPOINTS).glob("*/manifest.json"):
        path.unlink()


REFUSED = {
    "is not the data that this run was started with": other_data,
    r"config.data.train: is not the data .*: name: recorded None, found blobs": no_manifest,
    "rows up to step 13 are missing or changed": fewer_rows,
    "does not match that of the run": lambda run: (run / assets.ASSETS / "a.txt").write_bytes(b"b"),
    r"none of the checkpoints is whole \(13: .*, or move the directory away to start again from step 0$": (
        damaged_checkpoints
    ),
    r"none of the checkpoints is whole \(13: manifest.json is missing; 10: ": lost_manifests,
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_refused_resume_leaves_everything_as_it_was(run, message, monkeypatch):
    REFUSED[message](run)
    monkeypatch.setattr("tests.runs.test_refusals.ADDED", ["new.txt"])
    before = contents(run)
    for changes, allow in (({}, ()), ({"num_steps": 20, "log_every": 4}, ("num_steps", "log_every"))):
        config = test_loop.config(**changes)
        with pytest.raises(UsageError, match=message):
            command.run(recipe, config, experiment="blobs", workdir=run, allow=allow)
        assert contents(run) == before
        assert directory.status(run)["status"] == "interrupted"


def test_a_run_is_not_made_shorter_than_it_is(run):
    before = contents(run)
    for num_steps in (4, 12):
        config, allow = test_loop.config(num_steps=num_steps), ["num_steps"]
        with pytest.raises(UsageError, match=rf"config\.num_steps: came {num_steps}, but .* has done 13; wanted"):
            command.run(recipe, config, experiment="blobs", workdir=run, allow=allow)
        assert contents(run) == before


def unopened(config):
    """The same experiment, of which nobody may open the data."""
    built = recipe(config)
    return built._replace(data={split: s._replace(open=sources.refuse) for split, s in built.data.items()})


@pytest.mark.parametrize(
    ("changes", "experiment", "message"),
    [
        ({"seed": 4}, "blobs", r"holds a run with another config: config\.seed was 3, now 4; "),
        # All of it, since each has to be allowed by its path.
        (
            {"seed": 4, "log_every": 4, "eval_every": 12, "checkpoint_every": 12, "batch_size": 8},
            "blobs",
            "config.batch_size was .*; config.checkpoint_every was .*; config.eval_every was .*;"
            " config.log_every was .*; config.seed was 3, now 4; go on with",
        ),
        # As one writes it.
        (
            {
                "optimizer": {
                    "call": "optax.adamw",
                    "learning_rate": {"call": "optax.constant_schedule", "value": 0.1},
                }
            },
            "blobs",
            r"learning_rate was 0\.01, now {'call': 'optax\.constant_schedule', 'value': 0\.1}; go on with",
        ),
        ({}, "other", "holds a run of blobs, this is other; choose another with --workdir=DIR"),
    ],
)
def test_whose_directory_it_is_is_looked_at_before_data_is_opened(run, changes, experiment, message):
    before = contents(run)
    with pytest.raises(UsageError, match=message):
        command.run(unopened, test_loop.config(**changes), experiment=experiment, workdir=run)
    assert contents(run) == before


def test_other_files_are_seen_before_data_is_opened(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is no run directory and holds other files"):
        command.run(unopened, test_loop.config(), experiment="blobs", workdir=tmp_path)


@pytest.mark.parametrize("name", [watchdog.ENVIRONMENT, process.STOP_SECONDS])
def test_so_does_a_setting_that_is_no_number(name, run, monkeypatch):
    monkeypatch.setenv(name, "soon")
    before = contents(run)
    with pytest.raises(UsageError, match=f"^{name}: came 'soon', wanted a number"):
        command.run(recipe, test_loop.config(), experiment="blobs", workdir=run)
    assert contents(run) == before


def test_a_change_of_the_config_is_noted_with_the_step_from_which_the_run_goes_on(run):
    with (run / directory.METRICS).open("a") as file:
        # A killed process came so far; what it recorded is computed anew.
        file.write(json.dumps({"step": 15, "wall": 0.0, "loss": 1.0, "digest": "0"}) + "\n")
    config = test_loop.config(num_steps=16)
    assert command.run(recipe, config, experiment="blobs", workdir=run, allow=["num_steps"]) == command.OK
    noted = files.read_json(run / directory.PROVENANCE)
    assert [change["after_step"] for change in noted["config_changes"]] == [13]
    assert noted["config_changes"][0]["fingerprint"] == configs.fingerprint(config)
    assert len(noted["resumed"]) == 1
