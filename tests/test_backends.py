"""The platform, asked without starting it."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxkit import backends

TOP = Path(__file__).parent.parent
STARTED = """
import json, sys
from jax._src import xla_bridge
from jaxkit import backends, configs, recipe
sys.path.insert(0, "experiments")
import text_generation
layout = {"call": "jaxkit.parallel.jit", "compiler_options": {"xla_backend_optimization_level": 2}}
config = configs.replace(configs.read("configs/gpt2_124m.py", []), {"layout": layout})
found = recipe.plan(text_generation.recipe(config), batch_size=config.batch_size)
print(json.dumps([xla_bridge.backends_are_initialized(), backends.platform(), found.intermediate_bytes]))
"""


def test_a_plan_is_made_before_the_devices_are_asked():
    """What depends on them having started: where their threads find memory (runs/memory.py)."""
    done = subprocess.run([sys.executable, "-c", STARTED], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    started, platform, held = json.loads(done.stdout)
    assert (started, platform) == (False, "cpu")
    assert held > 2**28


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("asked", ["cpu", "", "rocm,cpu"])
def test_jax_is_asked_where_it_may_be_something_else(monkeypatch, installed, asked):
    monkeypatch.setattr(backends, "_accelerators", lambda: installed)
    monkeypatch.setattr(jax, "default_backend", lambda: "asked")
    before = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", asked)
        sure = asked == "cpu" or (not asked and not installed)
        assert backends.platform() == ("cpu" if sure else "asked")
    finally:
        jax.config.update("jax_platforms", before)


@pytest.mark.parametrize("name", ["PJRT_NAMES_AND_LIBRARY_PATHS", "TPU_LIBRARY_PATH"])
def test_a_library_that_is_named_may_be_an_accelerator(monkeypatch, name):
    monkeypatch.setenv(name, "somewhere")
    assert backends._accelerators.__wrapped__()
