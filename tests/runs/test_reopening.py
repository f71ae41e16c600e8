"""What a run has come to is opened in a notebook by its experiment and its directory."""

import json

import jax
import numpy as np
import pytest

from jaxkit import data, means, runs, updates
from jaxkit.errors import UsageError
from jaxkit.runs import command, digest, directory
from tests.runs import test_loop
from tests.runs.test_refusals import contents

KEY = jax.random.key(0)


def test_a_finished_run_gives_its_parameters_and_its_numbers(tmp_path):
    config = test_loop.config(layout={"call": "jaxkit.parallel.pmap", "num_devices": 2}, num_steps=10)
    assert test_loop.run(tmp_path / "run", config) == command.OK
    before = contents(tmp_path / "run")
    made, state = runs.reopen(test_loop.recipe, tmp_path / "run")
    assert int(state.step) == 10
    assert digest.sha256(state.params) == directory.status(tmp_path / "run")["params_sha256"]
    params, found = updates.averaged(state), None
    for batch in data.padded(made.data["test"].open(), batch_size=32):
        part = made.evaluate(params, state.extra, batch)
        found = part if found is None else means.add(found, part)
    recorded = json.loads((tmp_path / "run" / "evaluation" / "test.json").read_text())["metrics"]
    np.testing.assert_allclose(float(found["loss"].compute()), recorded["loss"], rtol=1e-5)
    # The state can be trained on with.
    update = made.layout.compile(made.update)
    _, metrics = update(state, made.layout.put_batch(made.data["train"].open().read(np.arange(32))), KEY)
    assert np.isfinite(float(metrics["loss"].compute()))
    assert contents(tmp_path / "run") == before


def test_what_cannot_be_opened_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="is no run directory"):
        runs.reopen(test_loop.recipe, tmp_path)
    config = test_loop.config()
    with directory.claim(tmp_path / "new", config, "blobs"):
        pass
    with pytest.raises(UsageError, match="has no checkpoint yet; it has one from step 10 on"):
        runs.reopen(test_loop.recipe, tmp_path / "new")
    foreign = test_loop.config(loss={"function": "os.system"})
    with directory.claim(tmp_path / "foreign", foreign, "blobs"):
        pass
    with pytest.raises(UsageError, match=r"'os\.system' is outside what this config may call"):
        runs.reopen(test_loop.recipe, tmp_path / "foreign")


def test_the_experiment_of_another_state_is_named(tmp_path):
    assert test_loop.run(tmp_path / "run", test_loop.config(num_steps=10)) == command.OK
    other = lambda config: test_loop.recipe(test_loop.config(model={**config.model, "features": (8,)}))
    with pytest.raises(UsageError, match="is it the code of the run"):
        runs.reopen(other, tmp_path / "run")
