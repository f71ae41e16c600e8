"""What the README shows is true."""

import re
from pathlib import Path

import jax
import numpy as np

TOP = Path(__file__).parent.parent
TEXT = (TOP / "README.md").read_text()


def test_the_twenty_lines_run_and_learn():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 20
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    # Ten classes: an untrained model is at log(10) = 2.3.
    assert float(names["metrics"]["loss"].compute()) < 0.5
    assert int(names["state"].step) == 100
    jax.tree.map(lambda x: np.testing.assert_array_equal(np.isfinite(x), True), names["state"].params)


def test_every_file_that_is_linked_or_named_in_the_tree_is_there():
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (TOP / link).exists(), link
    tree = TEXT.split("## The tree")[1].split("```")[1]
    for name in re.findall(r"\b(\w+\.py)\b", tree):
        assert (TOP / "jaxkit" / name).exists(), name
    for name in re.findall(r"\b(\w+)/", tree):
        assert (TOP / "jaxkit" / name).exists() or (TOP / name).exists(), name
