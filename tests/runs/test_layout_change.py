"""A checkpoint that was written under one layout is resumed under any other."""

import jax
import numpy as np
import pytest

from jaxkit import configs
from jaxkit.errors import UsageError
from jaxkit.runs import command, digest, directory, evaluations, files, flags, loop, record
from tests.runs import test_loop

LAYOUTS = {
    "pmap on 4": {"call": "jaxkit.parallel.pmap", "num_devices": 4},
    "jit": {"call": "jaxkit.parallel.jit"},
    "2 x tensor 2": {"call": "jaxkit.parallel.mesh", "data": 2, "tensor": 2},
    "fsdp 4": {"call": "jaxkit.parallel.mesh", "fsdp": 4},
    "exact": {"call": "jaxkit.parallel.exact", "shards": 8},
}
# Without dropout, which draws by device.
MODEL = {"call": "jaxkit.models.mlp", "features": (16,), "num_classes": 2}


def run(workdir, allow=("layout", "num_steps"), **changes) -> int:
    config = test_loop.config(model=MODEL, **changes)
    return command.run(test_loop.recipe, config, experiment="blobs", workdir=workdir, allow=allow)


def test_each_layout_goes_on_from_the_one_before(tmp_path):
    for number, layout in enumerate(LAYOUTS.values(), 1):
        assert run(tmp_path / "changing", layout=layout, num_steps=10 * number) == command.OK
    assert run(tmp_path / "whole", layout=LAYOUTS["jit"], num_steps=50) == command.OK
    one, other = (record.read(tmp_path / name / directory.METRICS) for name in ("changing", "whole"))
    assert [row["step"] for row in one] == [row["step"] for row in other]
    np.testing.assert_allclose([row["loss"] for row in one], [row["loss"] for row in other], atol=1e-5)
    # What is there now is the last config; each start is noted.
    config = directory.read_config(tmp_path / "changing")
    assert (config.num_steps, config.layout["call"]) == (50, "jaxkit.parallel.exact")
    noted = files.read_json(tmp_path / "changing" / directory.PROVENANCE)
    assert len({start["fingerprint"] for start in [noted, *noted["resumed"]]}) == 5
    assert [change["after_step"] for change in noted["config_changes"]] == [10, 20, 30, 40]
    assert ["num_steps", "10", "20"] in noted["config_changes"][0]["changed"]


def test_a_run_that_goes_on_after_its_end_shows_no_evaluation_of_that_end(tmp_path):
    assert run(tmp_path / "run", num_steps=10) == command.OK
    assert evaluations.read(tmp_path / "run")["test"]["step"] == 10
    whole, asked = loop.train, iter([False, False, True])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train", lambda *a, **k: whole(*a, **{**k, "stopped": lambda: next(asked)}))
        assert run(tmp_path / "run", num_steps=100) == command.TRY_AGAIN
    assert evaluations.read(tmp_path / "run") == {}
    # Between two rows of the record it cannot end; at one step more it can.
    stands = directory.summary(tmp_path / "run")["step"]
    before = (tmp_path / "run" / directory.CONFIG).read_bytes()
    with pytest.raises(UsageError, match=rf"config\.num_steps: came {stands}, .*if only {stands + 1}, so that"):
        run(tmp_path / "run", num_steps=stands)
    assert (tmp_path / "run" / directory.CONFIG).read_bytes() == before
    assert run(tmp_path / "run", num_steps=stands + 1) == command.OK
    assert record.read(tmp_path / "run" / directory.METRICS)[-1]["step"] == stands + 1


def test_only_what_is_allowed_may_change(tmp_path):
    assert run(tmp_path / "run", num_steps=10) == command.OK
    before = (tmp_path / "run" / directory.CONFIG).read_bytes()
    with pytest.raises(UsageError, match=r"config\.seed was 3, now 4; .*--allow-config-change=PATH"):
        run(tmp_path / "run", num_steps=10, seed=4, layout=LAYOUTS["fsdp 4"])
    with pytest.raises(UsageError, match=r"config\.num_steps was 10, now 20"):
        run(tmp_path / "run", num_steps=20, allow=("layout",))
    for typo, near in (("num_step", "num_steps"), ("model.feature", "features")):
        for folder in ("run", "new"):
            with pytest.raises(UsageError, match=f"--allow-config-change={typo}: config.* did you mean '{near}'"):
                run(tmp_path / folder, num_steps=20, allow=("num_steps", typo))
    assert (tmp_path / "run" / directory.CONFIG).read_bytes() == before
    assert not (tmp_path / "new").exists()


def test_a_workdir_may_be_below_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run("~/run", num_steps=10) == command.OK
    assert directory.is_run(tmp_path / "run")
    assert not (tmp_path / "~").exists()


def test_a_path_that_only_the_old_or_the_new_config_has_may_be_allowed(tmp_path):
    old = test_loop.config(model=MODEL)
    new = configs.freeze({**old, "model": {**MODEL, "dropout": 0.0}})
    for first, then in ((old, new), (new, old)):
        folder = tmp_path / configs.fingerprint(first)
        with directory.claim(folder, first, "blobs"):
            pass
        directory.check(folder, then, "blobs", ("model.dropout",))


def test_a_split_state_has_the_digest_of_the_whole_one():
    layout = configs.build(configs.freeze(LAYOUTS["fsdp 4"]))
    state = {"kernel": np.arange(64, dtype=np.float32).reshape(8, 8)}
    split = jax.device_put(
        state, jax.sharding.NamedSharding(jax.make_mesh((4,), ("x",)), jax.sharding.PartitionSpec("x"))
    )
    assert digest.sha256(split) == digest.sha256(state)
    assert int(digest.fold(split)) == int(digest.fold(state))
    assert layout.divisor == 4


def test_the_flag_is_read():
    given = ["x.py", "--config=c.py", "--allow-config-change=config.layout", "--allow-config-change=a"]
    assert flags.parse([*given, "--workdir=d"]).allow == ("layout", "a")
    # The default directory is named after the config, so with another config it is another.
    with pytest.raises(UsageError, match="--workdir=DIR"):
        flags.parse(given)
