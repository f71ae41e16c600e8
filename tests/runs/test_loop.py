"""The loop of a run: interrupted at any step and started again, it ends with the same bits and the same record."""

import json
import os
import shutil
import threading
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import configs, data, metrics, notes, objectives, runs, updates
from jaxkit.checks import UsageError
from jaxkit.runs import checkpoints, command, directory, feeding, index, loop, process, provenance, record
from jaxkit.types import Recipe

STEPS = 30


def recipe(config) -> Recipe:
    """A small classifier with dropout, accumulation, EMA and a guard, on data in memory."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(150, 6)).astype(np.float32)
    labels = (inputs[:, :2].sum(axis=1) > 0).astype(np.int32)
    split = {"train": slice(0, 117), "test": slice(117, None)}
    sources = {
        name: data.arrays(
            {"image": inputs[rows], "label": labels[rows]}, name="blobs", split=name, num_classes={"label": 2}
        )
        for name, rows in split.items()
    }
    model = configs.build(config.model)
    loss = configs.build(config.loss)
    layout = configs.build(config.layout)
    optimizer = optax.chain(configs.build(config.optimizer), updates.ema(decay=0.9))
    objective = objectives.classification(model, loss, num_classes=2, metrics={"accuracy": metrics.accuracy})
    gradients = updates.accumulate(updates.gradients(objective), microbatches=2)
    return Recipe(
        data=sources,
        init=lambda key: updates.init_state(*model.init(key, jnp.zeros((1, 6))), optimizer),
        update=updates.guarded_step(layout.across(gradients), optimizer),
        evaluate=objectives.evaluation(model, loss, metrics={"accuracy": metrics.accuracy}),
        predict=lambda p, e, b: {"probabilities": jax.nn.softmax(model.apply(p, e, b["image"])[0])},
        layout=layout,
        steps_per_call=config.steps_per_call,
    )


def read_ahead(config) -> Recipe:
    """The same on data that is not in memory."""
    whole = recipe(config)

    def opened(source):
        examples = source.open()

        def read(indices):
            # The first and the last example are asked for before it begins.
            waits = len(indices) > 2 and threading.current_thread() is threading.main_thread()
            assert not waits, "the loop waits for what is read"
            return examples.read(indices)

        return examples._replace(arrays=None, read=read)

    sources = {name: source._replace(open=partial(opened, source)) for name, source in whole.data.items()}
    return whole._replace(data=sources)


def config(**changes) -> configs.Frozen:
    return configs.freeze(
        {
            "seed": 3,
            "num_steps": STEPS,
            "batch_size": 32,
            "log_every": 5,
            "eval_every": 10,
            "checkpoint_every": 10,
            "data": {},
            "model": {"call": "jaxkit.models.mlp", "features": (16,), "num_classes": 2, "dropout": 0.3},
            "loss": {"function": "optax.softmax_cross_entropy_with_integer_labels"},
            "optimizer": {"call": "optax.adamw", "learning_rate": 0.01},
            "layout": {"call": "jaxkit.parallel.jit"},
            "writers": (),
            "steps_per_call": 1,
        }
        | changes
    )


def run(
    workdir: Path, config: configs.Frozen, *, stop_after: int | None = None, recipe=recipe, experiment="blobs"
) -> int:
    """One process's part of a run; it is asked to stop when it has asked `stop_after` times in vain."""
    calls = iter(range(10_000))
    asked = lambda: stop_after is not None and next(calls) >= stop_after
    with pytest.MonkeyPatch.context() as patch:
        whole = loop.train
        patch.setattr(loop, "train", lambda *a, **k: whole(*a, **{**k, "stopped": asked}))
        return command.run(recipe, config, experiment=experiment, workdir=workdir)


def without_wall(workdir: Path) -> list[dict]:
    return [
        {k: v for k, v in row.items() if k not in ("wall", "speed")}
        for row in record.read(workdir / directory.METRICS)
    ]


def final(workdir: Path) -> str:
    found = checkpoints.steps(workdir / directory.CHECKPOINTS)[-1]
    manifest = json.loads((workdir / directory.CHECKPOINTS / str(found) / "manifest.json").read_text())
    assert manifest["step"] == STEPS
    return directory.summary(workdir)["params_sha256"]


def saved(workdir: Path) -> dict[str, str]:
    """The SHA-256 of all that the last checkpoint holds: the state, and the metrics of the interval."""
    return checkpoints.manifest(workdir / directory.CHECKPOINTS, STEPS)["files"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert run(workdir, config()) == command.OK
    return workdir


def test_a_run_learns_and_leaves_what_the_design_says(uninterrupted):
    found = directory.summary(uninterrupted)
    assert found["status"] == "finished"
    assert found["step"] == STEPS
    assert found["evaluation"]["test"]["accuracy"] > 0.8
    assert set(found) >= {"status", "step", "fingerprint", "digest", "params_sha256", "evaluation", "timing"}
    for name in ("config.json", "provenance.json", "dirty.patch", "metrics.jsonl", "evaluation/test.json"):
        assert (uninterrupted / name).is_file(), name
    assert [row["step"] for row in record.read(uninterrupted / "metrics.jsonl")] == list(range(5, 31, 5))
    assert checkpoints.steps(uninterrupted / "checkpoints") == [20, 30]
    assert configs.from_json((uninterrupted / "config.json").read_text()) == config()


def test_a_clock_that_jumps_back_changes_nothing(uninterrupted, tmp_path, monkeypatch):
    """By an hour after every second row, before the run is interrupted and after."""
    workdir, wall = tmp_path / "run", time.time
    path = workdir / directory.METRICS
    hours = lambda: path.read_bytes().count(b"\n") // 2 if path.exists() else 0
    monkeypatch.setattr(time, "time", lambda: wall() - 3600 * hours())
    assert run(workdir, config(), stop_after=17) == command.TRY_AGAIN
    assert run(workdir, config()) == command.OK
    walls = [row["wall"] for row in record.read(path)]
    assert walls[-1] < walls[0] - 3600
    assert without_wall(workdir) == without_wall(uninterrupted)
    assert final(workdir) == final(uninterrupted)
    steps = checkpoints.steps(workdir / directory.CHECKPOINTS)
    assert steps == checkpoints.steps(uninterrupted / directory.CHECKPOINTS)
    timing = directory.summary(workdir)["timing"]
    assert 0 < timing["to_first_step"] < timing["total"] <= process.age()
    # As seen by a clock that is right again, and by one that is behind what was written.
    for now in (wall, time.time):
        monkeypatch.setattr(time, "time", now)
        (entry,) = index.runs(tmp_path)
        assert (entry["summary"]["status"], entry["summary"]["step"]) == ("finished", STEPS)
        assert entry["updated"] == walls[-1]


def test_the_record_of_evaluation_is_that_of_the_whole_split(uninterrupted):
    rows = [row for row in record.read(uninterrupted / "metrics.jsonl") if "test/accuracy" in row]
    assert [row["step"] for row in rows] == [10, 20, 30]
    # 33 test examples, in batches of 32: accuracies are multiples of 1/33.
    assert all(round(row["test/accuracy"] * 33, 6) % 1 in (0.0, 1.0) for row in rows)


@pytest.mark.parametrize("stop_after", [0, 2, 9, 13, 28])
def test_interrupted_anywhere_and_resumed_it_ends_with_the_same_bits(tmp_path, uninterrupted, stop_after):
    workdir = tmp_path / "run"
    assert run(workdir, config(), stop_after=stop_after) == command.TRY_AGAIN
    stands = directory.status(workdir)
    assert (stands["status"], stands["step"]) == ("interrupted", stop_after + 1)
    assert checkpoints.steps(workdir / directory.CHECKPOINTS)[-1] == stop_after + 1
    assert run(workdir, config()) == command.OK
    assert final(workdir) == final(uninterrupted)
    assert saved(workdir) == saved(uninterrupted)
    assert without_wall(workdir) == without_wall(uninterrupted)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """An uninterrupted run on data that is not in memory."""
    workdir = tmp_path_factory.mktemp("read") / "run"
    assert run(workdir, config(), recipe=read_ahead) == command.OK
    return workdir


@pytest.mark.parametrize("stop_after", [0, 13])
def test_so_it_does_on_data_that_is_not_in_memory(tmp_path, read, stop_after):
    assert run(tmp_path / "run", config(), stop_after=stop_after, recipe=read_ahead) == command.TRY_AGAIN
    assert run(tmp_path / "run", config(), recipe=read_ahead) == command.OK
    assert final(tmp_path / "run") == final(read)
    assert without_wall(tmp_path / "run") == without_wall(read)


def test_data_that_is_not_in_memory_is_trained_on_and_evaluated_to_the_same_bits(read, uninterrupted):
    assert final(read) == final(uninterrupted)
    assert without_wall(read) == without_wall(uninterrupted)


@pytest.mark.parametrize(("name", "said"), [("state-0.safetensors", "is damaged"), ("manifest.json", "has no")])
def test_a_run_that_lost_its_newest_checkpoint_goes_on_from_the_one_before(
    tmp_path, uninterrupted, capsys, name, said
):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    directory.set_status(workdir, status="running")
    victim = workdir / "checkpoints/30" / name
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.unlink()
    if name != checkpoints.MANIFEST:
        victim.write_bytes(content)
    assert run(workdir, config()) == command.OK
    assert f"checkpoint 30 {said}" in capsys.readouterr().out
    assert final(workdir) == final(uninterrupted)
    assert without_wall(workdir) == without_wall(uninterrupted)


def test_a_run_killed_before_its_report_writes_it_when_started_again(tmp_path, uninterrupted):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    directory.set_status(workdir, status="running", params_sha256=None)
    (workdir / "evaluation/test.json").unlink()
    # The kill came while the last save deleted what it had made superfluous.
    (workdir / "checkpoints/5").mkdir()
    assert run(workdir, config()) == command.OK
    assert sorted(os.listdir(workdir / "checkpoints")) == sorted(os.listdir(uninterrupted / "checkpoints"))
    found, wanted = directory.summary(workdir), directory.summary(uninterrupted)
    assert found["evaluation"] == wanted["evaluation"]
    assert found["params_sha256"] == wanted["params_sha256"]
    assert without_wall(workdir) == without_wall(uninterrupted)


def test_a_torn_last_line_of_the_record_is_cut_off(tmp_path, uninterrupted):
    workdir = tmp_path / "run"
    assert run(workdir, config(), stop_after=12) == command.TRY_AGAIN
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15, "loss": 0.')
    assert run(workdir, config()) == command.OK
    assert without_wall(workdir) == without_wall(uninterrupted)


@pytest.mark.parametrize(
    "changes", [{"steps_per_call": 5}, {"layout": {"call": "jaxkit.parallel.pmap", "num_devices": 4}}]
)
def test_other_forms_resume_exactly_too(tmp_path, changes):
    other = config(**changes)
    assert run(tmp_path / "whole", other) == command.OK
    assert run(tmp_path / "parts", other, stop_after=2) == command.TRY_AGAIN
    assert run(tmp_path / "parts", other) == command.OK
    assert final(tmp_path / "parts") == final(tmp_path / "whole")
    assert saved(tmp_path / "parts") == saved(tmp_path / "whole")
    assert without_wall(tmp_path / "parts") == without_wall(tmp_path / "whole")


@pytest.mark.parametrize(("single", "recipe"), [("uninterrupted", recipe), ("read", read_ahead)])
def test_fused_and_single_steps_record_the_same(tmp_path, single, recipe, request, capsys):
    single = request.getfixturevalue(single)
    assert run(tmp_path / "run", config(steps_per_call=5), recipe=recipe) == command.OK
    first = " ".join(capsys.readouterr().out.split())
    assert "; 5 steps a call (asked for 5; the intervals of the run divide by 5)" in first
    assert final(tmp_path / "run") == final(single)
    for one, other in zip(without_wall(tmp_path / "run"), without_wall(single)):
        for name in one.keys() - {"digest"}:
            assert one[name] == pytest.approx(other[name], rel=1e-6), name


def test_a_finished_run_is_shown_to_whoever_may_not_write_there(uninterrupted, capsys, monkeypatch):
    """Root may write anywhere, and is told here that it may not."""
    whole, before = os.access, {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}
    monkeypatch.setattr(os, "access", lambda path, mode, **more: mode != os.W_OK and whole(path, mode, **more))
    assert run(uninterrupted, config()) == command.OK
    assert capsys.readouterr().out.startswith("This run is finished")
    assert before == {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}


@pytest.mark.parametrize("steps_per_call", [1, 10])
def test_steps_that_change_nothing_are_told_of_once(tmp_path, capsys, steps_per_call):
    """What a schedule leaves that ends before the run."""
    rate = {"call": "optax.cosine_decay_schedule", "init_value": 0.1, "decay_steps": 20}
    optimizer = {"call": "optax.sgd", "learning_rate": rate}
    intervals = {
        "num_steps": 240,
        "eval_every": 240,
        "checkpoint_every": 240,
        "log_every": 1 if steps_per_call > 1 else 20,
    }
    changed = config(optimizer=optimizer, steps_per_call=steps_per_call, **intervals)
    assert run(tmp_path / "run", changed) == command.OK
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("warning: the parameters are those of step 20 still at step 120; does the schedule") == 1


def test_a_finished_run_is_given_no_other_config_without_a_step(tmp_path, uninterrupted):
    workdir = shutil.copytree(uninterrupted, tmp_path / "run")
    before = {path: path.read_bytes() for path in workdir.rglob("*.json*")}
    with pytest.raises(UsageError, match=r"config\.seed: the run in .* is finished, and no step is left"):
        command.run(recipe, config(seed=9), experiment="blobs", workdir=workdir, allow=("seed",))
    assert before == {path: path.read_bytes() for path in workdir.rglob("*.json*")}


def test_no_run_begins_within_another(tmp_path, uninterrupted):
    workdir = shutil.copytree(uninterrupted, tmp_path / "run")
    with pytest.raises(UsageError, match=r"workdir: .*/run/sub/deep lies in the run .*/run; choose another"):
        run(workdir / "sub/deep", config())
    assert not (workdir / "sub").exists()
    # Others may have a file of that name.
    (tmp_path / directory.CONFIG).write_text("{}")
    assert run(tmp_path / "other", config(num_steps=10)) == command.OK


def test_a_finished_run_is_shown_and_not_trained_again(uninterrupted, capsys):
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    assert run(uninterrupted, config()) == command.OK
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert lines[0].startswith("This run is finished")
    assert lines[-1] == str(uninterrupted)
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before


def test_another_config_is_refused_with_the_paths(uninterrupted):
    with pytest.raises(UsageError, match=r"config\.seed was 3, now 4"):
        run(uninterrupted, config(seed=4))


def test_another_experiment_is_refused(uninterrupted):
    with pytest.raises(UsageError, match="holds a run of blobs, this is other"):
        command.run(recipe, config(), experiment="other", workdir=uninterrupted)


def test_a_directory_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is no run directory and holds other files"):
        run(tmp_path, config())
    assert [path.name for path in tmp_path.iterdir() if path.name != directory.LOCK] == ["thesis.tex"]


def test_a_second_process_is_refused_while_the_first_lives(tmp_path, uninterrupted):
    with directory.claim(tmp_path / "run", config(), "blobs"):
        assert directory.status(tmp_path / "run")["status"] == "running"
        with pytest.raises(UsageError, match="another process is writing"):
            run(tmp_path / "run", config())
    assert directory.status(tmp_path / "run")["status"] == "interrupted"


def test_a_run_that_ends_while_it_is_looked_at_is_not_interrupted(tmp_path, monkeypatch):
    with directory.claim(tmp_path / "run", config(), "blobs"):
        pass

    def ends(workdir):
        directory.set_status(workdir, status="finished")
        return False

    monkeypatch.setattr(directory, "_alive", ends)
    assert directory.status(tmp_path / "run")["status"] == "finished"


def test_the_calls_of_a_resumed_run_end_where_those_of_a_whole_one_do():
    assert list(feeding.calls_of(0, 9, 4)) == [range(0, 4), range(4, 8), range(8, 9)]
    assert list(feeding.calls_of(6, 9, 4)) == [range(6, 8), range(8, 9)]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 5),
        ({"log_every": 7}, 10),
        ({"log_every": 4, "eval_every": 8, "checkpoint_every": 12}, 4),
        # As "never" is written.
        ({"eval_every": 10**9, "checkpoint_every": 10**9}, 200),
    ],
)
def test_a_call_never_overshoots_an_interval(changes, steps):
    from jaxkit.recipe import plan

    frozen = config(steps_per_call=None, **changes)
    built = recipe(frozen)
    assert feeding.choose_form(built, plan(built, batch_size=32), frozen).steps_per_call == steps


def test_where_a_loop_is_slow_few_steps_are_unrolled_and_none_unasked():
    from jaxkit.recipe import plan

    frozen = config(steps_per_call=None)
    built = recipe(frozen)
    planned = plan(built, batch_size=32)._replace(slow_in_a_loop=True)
    form = feeding.choose_form(built, planned, frozen)
    assert form == (1, "convolutions are slow inside a loop on this backend", False)
    # 20 would divide the intervals too.
    frozen = config(log_every=20, eval_every=20, checkpoint_every=20)
    form = feeding.choose_form(built._replace(steps_per_call=100), planned, frozen)
    assert form.steps_per_call == feeding.MAX_STEPS_UNROLLED == 10
    assert form.reason == (
        "asked for 100; convolutions are slow inside a loop on this backend, and at most 10 are unrolled;"
        " the intervals of the run divide by 20"
    )


def test_an_evaluation_has_few_calls_under_way(monkeypatch):
    """On pretended devices: some thirty of them under way would never end."""
    frozen = config(layout={"call": "jaxkit.parallel.pmap", "num_devices": 4}, batch_size=4)
    built, begun, waited, wait = recipe(frozen), list[int](), list[int](), jax.block_until_ready
    test = {"image": np.ones((280, 6), np.float32), "label": np.arange(280, dtype=np.int32) % 2}
    examples = {"test": data.arrays(test).open()}

    def compiled(evaluate):
        evaluate = whole(evaluate)

        def counted(*arguments):
            begun.append(1)
            assert len(begun) - len(waited) <= feeding.MAX_CALLS_UNDER_WAY + 1
            return evaluate(*arguments)

        return counted

    whole = built.layout.compile_evaluate
    built = built._replace(layout=built.layout._replace(compile_evaluate=compiled))
    state = built.layout.put_state(built.init(jax.random.key(0)))
    monkeypatch.setattr(jax, "block_until_ready", lambda result: waited.append(1) or wait(result))
    evaluate = feeding.evaluator(built, frozen, examples, feeding.limiter())
    parts = evaluate(state)["test"]
    assert len(parts) == len(begun) == 70
    assert sum(float(part["accuracy"].count) for part in parts) == 280


def test_other_data_is_refused_when_a_run_goes_on(tmp_path, uninterrupted):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    directory.set_status(workdir, status="running")
    noted = json.loads((workdir / "provenance.json").read_text())
    noted["data"]["train"]["sha256"] = "0" * 64
    (workdir / "provenance.json").write_text(json.dumps(noted))
    with pytest.raises(UsageError, match=r"config\.data\.train: is not the data .* sha256: recorded 0000"):
        run(workdir, config())


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": {"call": "optax.sgd", "learning_rate": 0.01}},
        {"model": {"call": "jaxkit.models.mlp", "features": (8,), "num_classes": 2, "dropout": 0.3}},
    ],
    ids=["structure", "shape"],
)
def test_code_that_was_changed_so_that_no_checkpoint_fits_is_one_line(tmp_path, uninterrupted, change):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    directory.set_status(workdir, status="running")
    changed = lambda config: recipe(configs.replace(config, change))
    with pytest.raises(
        UsageError, match=r"^.*30: .*state\..*this config.*; was the code changed, or the config .*--workdir=DIR$"
    ):
        run(workdir, config(), recipe=changed)
    assert checkpoints.steps(workdir / directory.CHECKPOINTS) == [20, 30]
    assert run(workdir, config()) == command.OK


def test_what_goes_wrong_with_the_provenance_costs_no_result(tmp_path, uninterrupted, capsys, monkeypatch):
    def fails(*arguments, **named):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(provenance, "patch", fails)
    assert run(tmp_path / "run", config()) == command.OK
    assert "warning: provenance.json: RuntimeError: out of luck" in capsys.readouterr().out
    assert final(tmp_path / "run") == final(uninterrupted)


def test_each_start_is_noted_beside_the_first(tmp_path):
    assert run(tmp_path / "run", config(), stop_after=3) == command.TRY_AGAIN
    first = json.loads((tmp_path / "run/provenance.json").read_text())
    assert run(tmp_path / "run", config()) == command.OK
    noted = json.loads((tmp_path / "run/provenance.json").read_text())
    assert first["resumed"] == []
    assert len(noted["resumed"]) == 1
    assert {**noted, "resumed": []} == first
    assert (tmp_path / "run/dirty-1.patch").is_file()


def test_what_the_update_decided_while_it_was_traced_is_said_and_kept(tmp_path, capsys):
    whole = recipe(config())

    def update(state, batch, key):
        notes.note("attention by hand: nobody else was there")
        return whole.update(state, batch, key)

    assert run(tmp_path / "run", config(), recipe=lambda config: whole._replace(update=update)) == command.OK
    assert "\nattention by hand: nobody else was there\n" in capsys.readouterr().out
    noted = json.loads((tmp_path / "run/provenance.json").read_text())
    assert noted["notes"] == ["attention by hand: nobody else was there"]


def test_what_a_kill_left_while_the_directory_was_made_is_no_obstacle(tmp_path):
    for name in (".lock", "status.json", ".status.json.1a2b", ".config.json.3c4d"):
        (tmp_path / name).write_text("")
    directory.check(tmp_path, config(), "blobs")


@pytest.fixture(scope="module")
def each(tmp_path_factory):
    """A run that records every step, one step a call."""
    workdir = tmp_path_factory.mktemp("each") / "run"
    assert run(workdir, config(log_every=1)) == command.OK
    return workdir


def test_steps_within_a_call_are_recorded_as_those_of_their_own(tmp_path, each):
    within = config(log_every=1, steps_per_call=10)
    assert run(tmp_path / "run", within, stop_after=1) == command.TRY_AGAIN
    assert run(tmp_path / "run", within) == command.OK
    assert final(tmp_path / "run") == final(each)
    # Values and folds of the parameters are in the digests: each step's, to the bit.
    assert without_wall(tmp_path / "run") == without_wall(each)


@pytest.mark.parametrize("layout", ["jit", "mesh"])
def test_an_interval_may_end_within_a_call(tmp_path, each, layout):
    changes = {"log_every": 7, "layout": {"call": f"jaxkit.parallel.{layout}"}, "steps_per_call": 10}
    assert run(tmp_path / "run", config(**changes)) == command.OK
    rows = without_wall(tmp_path / "run")
    assert [row["step"] for row in rows] == [7, 10, 14, 20, 21, 28, 30]
    losses = [row["loss"] for row in without_wall(each)]
    # Batches are of one size, so the mean of an interval is that of its steps'.
    for start, end in ((0, 7), (7, 14), (14, 21), (21, 28), (28, 30)):
        row = next(row for row in rows if row["step"] == end)
        assert row["loss"] == pytest.approx(np.mean(losses[start:end]), rel=1e-5)


def test_runs_is_lazy():
    assert runs.main is command.main
    with pytest.raises(AttributeError, match="nothing"):
        _ = runs.nothing
