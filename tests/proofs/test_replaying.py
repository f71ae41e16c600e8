"""A run whose loss is no number, or leaps, ends itself; a replay names example, operation and layer."""

import functools
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import cli, configs, data, objectives, updates
from jaxkit.cli import replaying as printing
from jaxkit.cli import tables
from jaxkit.errors import UsageError
from jaxkit.proofs import dissecting, replaying
from jaxkit.runs import checkpoints, command, directory, files, record, stopping
from jaxkit.types import Model, Recipe
from tests.runs import test_loop

# Of 96 examples in batches of 8, one is spoiled: it is in the batch of step 9, and in none before.
SPOILED_STEP, SIZE, BATCH = 9, 96, 8


def config(**changes) -> configs.Frozen:
    return configs.freeze(
        {
            "seed": 3,
            "num_steps": 12,
            "batch_size": BATCH,
            "log_every": 5,
            "eval_every": 6,
            "checkpoint_every": 4,
            "data": {},
            "spoiled": -1.0,
            "model": {"call": "jaxkit.models.mlp", "features": (4,), "num_classes": 2},
            "loss": {"function": "optax.softmax_cross_entropy_with_integer_labels"},
            "optimizer": {"call": "optax.sgd", "learning_rate": 0.01},
            "layout": {"call": "jaxkit.parallel.jit"},
            "writers": (),
            "guarded": False,
        }
        | changes
    )


def arrays(config, split: str):
    values = np.random.default_rng(0).uniform(0.5, 2.0, size=(SIZE, 3)).astype(np.float32)
    labels = (values[:, 0] > 1).astype(np.int32)
    clean = data.arrays({"image": values, "label": labels}, name="logs", split=split, num_classes={"label": 2})
    if split == "test":
        return clean
    values[victim(config), 1] = config.spoiled
    return data.arrays({"image": values, "label": labels}, name="logs", split=split, num_classes={"label": 2})


def victim(config) -> int:
    """The number of the spoiled example: the third of its batch."""
    order = data.arrays({"x": np.arange(SIZE)}).open()
    return int(data.shuffled(order, batch_size=BATCH, seed=config.seed).indices(SPOILED_STEP - 1)[2])


def recipe(config) -> Recipe:
    """A classifier of logarithms."""
    inner = configs.build(config.model)
    apply = lambda params, extra, x, **options: inner.apply(params, extra, jnp.log(x), **options)
    model, loss, layout = Model(inner.init, apply), configs.build(config.loss), configs.build(config.layout)
    optimizer = configs.build(config.optimizer)
    gradients = updates.gradients(objectives.classification(model, loss, num_classes=2))
    gradients = layout.across(updates.accumulate(gradients, microbatches=2))
    return Recipe(
        data={split: arrays(config, split) for split in ("train", "test")},
        init=lambda key: updates.init_state(*model.init(key, jnp.ones((1, 3))), optimizer),
        update=(updates.guarded_step if config.guarded else updates.step)(gradients, optimizer),
        evaluate=objectives.evaluation(model, loss),
        predict=lambda p, e, b: {"logits": model.apply(p, e, b["image"])[0]},
        layout=layout,
        steps_per_call=1,
    )


run = functools.partial(test_loop.run, recipe=recipe, experiment="logs")


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("diverged") / "run"
    assert run(workdir, config()) == command.FAILED
    return workdir


def losses(workdir) -> dict[int, object]:
    return {row["step"]: row["loss"] for row in record.read(workdir / "metrics.jsonl") if "loss" in row}


def test_a_loss_that_is_no_number_ends_the_run_with_what_it_knows(diverged, capsys):
    stands = directory.status(diverged)
    assert (stands["status"], stands["step"]) == ("failed", 10)
    assert stands["stopped"] == "step 10: loss is nan"
    assert losses(diverged)[10] == "nan"
    # Nothing of it is saved.
    assert checkpoints.steps(diverged / "checkpoints") == [4, 8]
    # The same command comes to the same end, and says what to do.
    assert run(diverged, config()) == command.FAILED
    said = capsys.readouterr()
    assert said.err == (
        f"error: step 10: loss is nan; `jaxkit replay {diverged} --step 10` names what made it;"
        " config.stop_on says whether a run goes on regardless\n"
    )
    assert said.out.splitlines()[-1] == str(diverged)


def test_the_replay_names_the_step_the_example_the_operation_and_the_layer(diverged):
    found = replaying.replay(recipe, diverged, 10)
    spoiled = victim(config())
    assert (found.step, found.start) == (SPOILED_STEP, 8)
    assert (
        found.notes[0]
        == f"step {SPOILED_STEP} is the first that is not finite, so it is taken apart instead of step 10"
    )
    assert spoiled in found.examples
    assert len(found.examples) == BATCH
    assert found.recorded == "nan"
    findings = found.findings
    assert not findings.finite
    assert findings.made_by[0].name == "log"
    assert "test_replaying.py" in findings.made_by[0].where
    assert findings.culprits == (spoiled,)
    assert findings.first == "gradient dense_0.kernel"
    assert findings.layer.startswith("dense_0.") or not findings.layer
    lines = "\n".join(printing._lines(found))
    assert f"in the rows of examples {spoiled}" in lines
    assert "made by log [4, 3] at " in lines
    text = tables.as_json(found)
    assert "NaN" not in text
    assert json.loads(text)["findings"]["made_by"][0]["nan"] == 1


def test_a_step_that_is_finite_is_replayed_to_the_recorded_loss(diverged):
    found = replaying.replay(recipe, diverged, 5)
    # The first checkpoint there is, is behind the steps of this row: they begin with the run.
    assert (found.step, found.start) == (5, 4)
    assert found.replayed is None
    for number in checkpoints.steps(diverged / "checkpoints"):
        (diverged / f"checkpoints/{number}/manifest.json").rename(diverged / f"{number}.json")
    try:
        found = replaying.replay(recipe, diverged, 5)
    finally:
        for number in (4, 8):
            (diverged / f"{number}.json").rename(diverged / f"checkpoints/{number}/manifest.json")
    assert (found.step, found.start) == (5, 0)
    assert found.replayed == pytest.approx(found.recorded, rel=1e-6)
    assert found.findings.finite
    assert all(layer.gradient_before is not None for layer in found.findings.layers)


@pytest.mark.parametrize(("options", "start"), [(None, 0), ({}, 4)], ids=["ours", "XLA's"])
def test_a_step_is_replayed_to_the_bits_of_the_run_whatever_the_options_of_the_compiler(
    tmp_path, monkeypatch, options, start
):
    """Products so large that XLA's two libraries for a CPU do not round alike; the loss shows it in most steps."""
    wide = config(
        spoiled=1.0,
        batch_size=16,
        model={"call": "jaxkit.models.mlp", "features": (256, 256, 256), "num_classes": 2},
        optimizer={"call": "optax.sgd", "learning_rate": 0.5},
        layout={"call": "jaxkit.parallel.jit", "compiler_options": options},
        **{"num_steps": 8, "log_every": 1, "eval_every": 8, "checkpoint_every": 8 - start},
    )
    assert run(tmp_path / "run", wide) == command.OK
    recorded, walked, compared = losses(tmp_path / "run"), {}, replaying._losses
    monkeypatch.setattr(
        replaying, "_losses", lambda run, sums, *rest: (walked.update(sums), compared(run, sums, *rest))[1]
    )
    # What a step is made of takes long to find, and is found above.
    monkeypatch.setattr(dissecting, "take_apart", lambda *arguments: None)
    found = replaying.replay(recipe, tmp_path / "run", 8)
    assert (found.start, found.notes) == (start, ())
    assert found.replayed == found.recorded == recorded[8]
    steps = range(start + 1, 9)
    assert {step: record.values(walked[step])["loss"] for step in steps} == {
        step: recorded[step] for step in steps
    }


def test_where_the_config_says_so_the_run_goes_on_and_the_ruins_are_no_start_for_a_replay(tmp_path, capsys):
    going_on = config(stop_on={"nonfinite": False}, num_steps=16)
    assert run(tmp_path / "run", going_on) == command.OK
    assert "warning: step 10: loss is nan" in capsys.readouterr().out
    assert checkpoints.steps(tmp_path / "run/checkpoints") == [12, 16]
    found = replaying.replay(recipe, tmp_path / "run", 14)
    assert (found.step, found.start) == (SPOILED_STEP, 0)


def test_parameters_that_are_not_finite_are_not_saved(tmp_path, capsys):
    # The last step before the checkpoint spoils them: no loss has seen it yet.
    changes = {"spoiled": 2.0, "checkpoint_every": 1, "log_every": 12}
    spoiling = lambda config: _spoiling_after(recipe(config), step=7)
    assert run(tmp_path / "run", config(**changes), recipe=spoiling) == command.FAILED
    assert checkpoints.steps(tmp_path / "run/checkpoints") == [5, 6]
    assert "step 7: parameters dense_0.bias are not finite" in capsys.readouterr().err


def _spoiling_after(built: Recipe, *, step: int) -> Recipe:
    def update(state, batch, key):
        new, metrics = built.update(state, batch, key)
        spoil = lambda x: jnp.where(new.step == step, jnp.inf, x)
        bias = spoil(new.params["dense_0"]["bias"])
        return new._replace(params={**new.params, "dense_0": {**new.params["dense_0"], "bias": bias}}), metrics

    return built._replace(update=update)


def test_a_guarded_step_that_was_skipped_is_replayed_too(diverged, tmp_path):
    # All that it leaves is finite; what it was skipped for is not. Without a checkpoint the replay begins afresh.
    folder = shutil.copytree(diverged, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    guarded = lambda config: recipe(configs.replace(config, {"guarded": True}))
    found = replaying.replay(guarded, folder, 10)
    assert (found.step, found.start) == (SPOILED_STEP, 0)
    assert found.values["skipped"] == 1.0
    assert found.findings.made_by[0].name == "log"
    assert found.findings.culprits == (victim(config()),)


SPIKE = {"spoiled": 1.0, "num_steps": 30, "log_every": 1, "eval_every": 30, "checkpoint_every": 10}
SPIKE |= {"stop_on": {"spike": 3.0}}


def test_a_spike_ends_the_run_also_when_it_was_resumed_within_the_window(tmp_path):
    spiked = config(**SPIKE)
    leaping = lambda config: _leaping_at(recipe(config), step=27)
    assert run(tmp_path / "whole", spiked, recipe=leaping) == command.FAILED
    stands = directory.status(tmp_path / "whole")
    assert stands["step"] == 27
    assert "times the median of the 20 before it" in stands["stopped"]
    assert run(tmp_path / "parts", spiked, stop_after=22, recipe=leaping) == command.TRY_AGAIN
    assert run(tmp_path / "parts", spiked, recipe=leaping) == command.FAILED
    assert directory.status(tmp_path / "parts")["stopped"] == stands["stopped"]
    assert checkpoints.steps(tmp_path / "whole/checkpoints") == [10, 20]
    found = replaying.replay(leaping, tmp_path / "whole", 27)
    assert found.findings.finite
    assert found.replayed == pytest.approx(found.recorded, rel=1e-5)
    assert found.findings.layers[0].gradient > 5 * found.findings.layers[0].gradient_before


def _leaping_at(built: Recipe, *, step: int) -> Recipe:
    def update(state, batch, key):
        factor = jnp.where(state.step == step - 1, 30.0, 1.0)
        wrong = {**batch, "image": jnp.exp(jnp.log(batch["image"]) * factor)}
        return built.update(state, wrong, key)

    return built._replace(update=update)


@pytest.mark.parametrize(
    "value", [{"nonfinite": 1}, {"spike": 1}, {"spike": True}, {"spikes": 3.0}, True, {"spike": "10"}]
)
def test_a_rule_that_makes_no_sense_is_refused(value):
    with pytest.raises(UsageError, match=r"config\.stop_on: came"):
        configs.check_fields(config(stop_on=value))


def test_a_spike_needs_a_window_and_a_loss_above_zero():
    wrong = stopping.judge({"stop_on": {"spike": 2.0}})
    assert all(wrong(1.0, True) is None for _ in range(stopping.WINDOW - 1))
    # Not recorded, nothing counted: no loss to judge by.
    assert wrong(99.0, False) is None
    assert wrong(None, True) is None
    assert wrong(1.0, True) is None
    assert wrong(2.5, True) is not None
    negative = stopping.judge({"stop_on": {"spike": 2.0}}, [-1.0] * stopping.WINDOW)
    assert negative(5.0, True) is None
    assert stopping.judge({"stop_on": {"nonfinite": False}})("nan", True) is None


@pytest.mark.parametrize(
    "step",
    [0, 13],
)
def test_a_step_that_is_none_is_refused(diverged, step):
    with pytest.raises(UsageError, match=f"--step: came {step}, wanted 1 to 12"):
        replaying.replay(recipe, diverged, step)


def test_how_far_a_replay_is_the_run_is_said(diverged, tmp_path):
    folder = shutil.copytree(diverged, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    assert list(replaying._notes(config(), folder)) == []
    # Whatever its options, a jit is replayed as it was; several steps in one call are not.
    with_options = {"call": "jaxkit.parallel.jit", "compiler_options": {}}
    assert list(replaying._notes(config(layout=with_options), folder)) == []
    on_many = config(layout={"call": "jaxkit.parallel.pmap", "num_devices": 2})
    noted = files.read_json(folder / directory.PROVENANCE)
    files.write_json(folder / directory.PROVENANCE, {**noted, "form": {"steps_per_call": 5}})
    (form,) = replaying._notes(config(), folder)
    assert form.startswith("the run took 5 steps in one call, here each is a call")
    files.write_json(folder / directory.PROVENANCE, {**noted, "git": {"commit": "0" * 40}})
    rounding, draws, code = replaying._notes(on_many, folder)
    assert rounding.startswith("the run was made under jaxkit.parallel.pmap, this is a plain jit on one device")
    assert draws.startswith("random draws (dropout, augmentation)")
    assert code.startswith(f"the code is not that of the run: commit {'0' * 40}, here ")


def test_a_config_that_calls_elsewhere_is_refused_before_anything_is_called(diverged, tmp_path):
    folder = shutil.copytree(diverged, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    elsewhere = {"call": "os.mkdir", "path": str(tmp_path / "made")}
    changed = configs.freeze({**directory.read_config(folder), "loss": elsewhere})
    files.write_text(folder / directory.CONFIG, configs.to_json(changed))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"config\.loss\.call: 'os\.mkdir' is outside what this config may call"):
        replaying.replay(recipe, folder, 3)
    assert not (tmp_path / "made").exists()
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    # It is this call that would have left something.
    configs.build(changed.loss)
    assert (tmp_path / "made").is_dir()


def test_a_directory_that_is_no_run_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["replay", str(tmp_path), "--step=3"])
    assert caught.value.code == 2
    assert "is no run directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experiment": "{outside}"}, "experiment: {outside} is no file of the project here ({here}); give the"),
        ({"experiment": "../outside.py"}, "experiment: ../outside.py is no file of the project here"),
        ({"experiment": "link.py"}, "experiment: link.py is no file of the project here"),
        ({"experiment": None}, "experiment: came None, wanted str"),
        ({"command": ["python", "{outside}"]}, "experiment: {outside} is no file of the project here"),
        ({"command": 5}, "command: came 5, wanted list"),
        ({"command": ["python", 5]}, "command: came 5, wanted str"),
        ({"command": []}, "provenance.json: is missing, or names no experiment: what"),
        ({"experiment": "logs.py", "git": "x"}, "git: came 'x', wanted dict"),
        ({"experiment": "logs.py", "resumed": [5]}, "resumed: came 5, wanted dict"),
    ],
)
def test_only_a_file_of_the_project_is_run(diverged, tmp_path, monkeypatch, capsys, changes, message):
    """Whoever wrote the provenance of a run from elsewhere may have named any file."""
    folder = shutil.copytree(diverged, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    outside, here = tmp_path / "outside.py", tmp_path / "project"
    outside.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef recipe(config): pass\n")
    here.mkdir()
    (here / "link.py").symlink_to(outside)
    monkeypatch.chdir(here)
    said = lambda text: text.replace("{outside}", str(outside)).replace("{here}", str(here))
    changes = json.loads(json.dumps(changes).replace("{outside}", str(outside)))
    files.write_json(folder / directory.PROVENANCE, changes)
    with pytest.raises(SystemExit) as caught:
        cli.main(["replay", str(folder), "--step=3"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert said(message) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "ran").exists()


def test_the_file_that_is_run_is_said_before_it_is(diverged, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(diverged, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    (tmp_path / "project").mkdir()
    (tmp_path / "project/logs.py").write_text("print('it runs')\nrecipe = 3\n")
    files.write_json(folder / directory.PROVENANCE, {"experiment": "logs.py"})
    monkeypatch.chdir(tmp_path / "project")
    with pytest.raises(SystemExit):
        cli.main(["replay", str(folder), "--step=3"])
    out = capsys.readouterr().out.splitlines()
    assert out == [f"runs {tmp_path / 'project/logs.py'}", "it runs"]


def test_another_experiment_than_the_runs_is_refused(diverged):
    wider = lambda config: recipe(configs.replace(config, {"model.features": (5,)}))
    with pytest.raises(UsageError, match=r"dense_0.* holds float32\[.*\], this config makes .* is it the code of"):
        replaying.replay(wider, diverged, 10)
