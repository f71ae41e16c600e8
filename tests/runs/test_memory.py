"""Memory that a step gives back is there for the next one."""

import subprocess
import sys

import pytest

from jaxkit.recipe import Plan
from jaxkit.runs import memory

CODE = """
import resource, sys
from jaxkit.runs import memory
if sys.argv[1] == "kept" and not memory.keep_freed():
    sys.exit(75)
import jax, jax.numpy as jnp
# A matrix of 4,096 x 4,096 has to be held in between: 64 MiB that are asked for and given back.
step = jax.jit(lambda x: (x @ x.T) @ x)
x = jnp.ones((2**12, 8))
faults = []
# Other threads free and ask too, so it takes some steps until there is a place that each finds free again.
for _ in range(30):
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(min(b - a for a, b in zip(faults[1:], faults[2:])))
"""


def faults(how):
    found = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True)
    if found.returncode == 75:
        pytest.skip("this C library has no mallopt")
    assert found.returncode == 0, found.stderr
    return int(found.stdout)


def test_freed_memory_is_kept():
    """64 MiB are 16,384 pages of 4 KiB: they are faulted in at each step, or not at all."""
    assert faults("kept") < 1000


@pytest.mark.parametrize(
    ("platform", "intermediate", "keeps"),
    [("cpu", 2**30, True), ("cpu", 2**27, False), ("gpu", 2**40, False)],
)
def test_it_is_kept_where_steps_are_large_and_computed_here(monkeypatch, platform, intermediate, keeps):
    """One arena for all threads makes programs slower to compile: a price that only large steps pay."""
    asked = []
    monkeypatch.setattr(memory, "keep_freed", lambda: asked.append(True))
    monkeypatch.setattr(memory.backends, "platform", lambda: platform)
    memory.prepare(Plan(**dict.fromkeys(Plan._fields) | {"intermediate_bytes": intermediate}))  # type: ignore[arg-type]
    assert bool(asked) == keeps
