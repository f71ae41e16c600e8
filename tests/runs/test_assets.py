"""What a run keeps beside its parameters: the same files whenever it is resumed, and what its model writes."""

import os

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import checks, configs, data, means, parallel, updates
from jaxkit.errors import UsageError
from jaxkit.runs import assets, command, directory, evaluations, record
from jaxkit.types import Recipe

CONFIG = {
    "seed": 3,
    "num_steps": 4,
    "batch_size": 2,
    "log_every": 2,
    "eval_every": 4,
    "checkpoint_every": 2,
    "data": {},
    "model": {},
    "loss": {},
    "optimizer": {},
    "layout": {},
    "writers": (),
}


def recipe(*, kept=None, samples=None):
    """One number that is fitted to others; and what is to be kept."""
    source = data.arrays({"x": np.arange(4, dtype=np.float32)})
    optimizer, layout = optax.chain(optax.sgd(0.1), updates.ema(decay=0.5)), parallel.jit()

    def objective(params, extra, batch, key):
        return means.mean((params - batch["x"]) ** 2, batch.get("mask")), ({}, extra)

    return lambda config: Recipe(
        data={"train": source, "test": source},
        init=lambda key: updates.init_state(jnp.zeros(()), {}, optimizer),
        update=updates.step(layout.across(updates.gradients(objective)), optimizer),
        evaluate=lambda params, extra, batch: {"loss": means.mean(batch["x"] - params, batch["mask"])},
        predict=lambda params, extra, batch: {"x": batch["x"]},
        layout=layout,
        assets=kept,
        samples=samples,
    )


def run(workdir, **parts):
    return command.run(recipe(**parts), configs.freeze(CONFIG), experiment="x", workdir=workdir)


def test_a_run_stays_where_it_is_wherever_user_code_goes(tmp_path, capsys, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run("run", samples=lambda *_: os.chdir("elsewhere") or "text") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "run"
    assert directory.summary(tmp_path / "run")["status"] == "finished"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_assets_are_written_at_the_start_and_samples_at_the_end(tmp_path, capsys):
    folder = tmp_path / "run"

    def samples(params, extra, key):
        assert (folder / "assets/tokenizer.json").read_bytes() == b"\x00\xff"
        assert not (folder / "samples.txt").exists()
        checks.key(key)
        return f"{float(params):.6f} é\n" + "line\n" * 40

    assert run(folder, kept=lambda: {"tokenizer.json": b"\x00\xff"}, samples=samples) == command.OK
    written = (folder / "samples.txt").read_text(encoding="utf-8")
    # It is the average that writes: sgd goes towards 1.5 from 0, and the average lags behind.
    rows = record.read(folder / directory.METRICS)
    assert float(written.split()[0]) == pytest.approx(1.5 - rows[-1]["test/loss"], abs=1e-5)
    out = capsys.readouterr().out
    assert "é" in out
    assert out.count("line\n") == 23
    assert f"samples: {folder}/samples.txt" in out
    # A finished run shows them again.
    run(folder)
    assert capsys.readouterr().out.count("line\n") == 23


def test_a_resumed_run_must_have_the_same_assets(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    kept = lambda: {"tokenizer.json": b"a"}
    with monkeypatch.context() as patch:
        # As after a kill: a checkpoint at step 2, nothing finished.
        patch.setattr(evaluations, "write", lambda *args: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            run(folder, kept=kept)
    with pytest.raises(UsageError, match=r"the tokenizer .* does not match that of the run .*--workdir=DIR"):
        run(folder, kept=lambda: {"tokenizer.json": b"b"})
    assert (folder / "assets/tokenizer.json").read_bytes() == b"a"
    assert run(folder, kept=kept) == command.OK


def test_a_name_is_that_of_a_file(tmp_path):
    with pytest.raises(UsageError, match=r"assets: came '\.\./x', wanted the name of a file"):
        assets.check(tmp_path, lambda: {"../x": b""})


def test_samples_that_fail_lose_no_run(tmp_path, capsys):
    def samples(params, extra, key):
        raise RuntimeError("no words")

    assert run(tmp_path / "run", samples=samples) == command.OK
    assert "warning: no samples: RuntimeError: no words" in capsys.readouterr().out
    assert directory.summary(tmp_path / "run")["status"] == "finished"


def test_what_moves_a_cursor_is_not_shown(tmp_path):
    (tmp_path / "samples.txt").write_bytes(b"a\x1b[2Jb\xff\n")
    assert assets.shortened(tmp_path) == "a\ufffd[2Jb\ufffd"


@pytest.mark.parametrize(("held", "drawn"), [(True, 4), (False, 2)])
def test_of_a_split_that_is_not_in_memory_a_part_is_drawn(held, drawn, tmp_path, monkeypatch):
    # One batch of two numbers.
    monkeypatch.setattr(assets, "MAX_BYTES_DRAWN", 8)
    found, config = [], configs.freeze(CONFIG)
    made = recipe()(config)._replace(
        picture=lambda path, rows, batch, predictions: found.append((batch, predictions))
    )
    opened = made.data["test"].open()
    examples = {"test": opened if held else opened._replace(arrays=None)}
    assets.draw(made, config, made.init(None), examples, tmp_path)
    ((batch, predictions),) = found
    assert batch["x"].tolist() == predictions["x"].tolist() == list(range(drawn))
