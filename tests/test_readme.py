"""What the README shows is true."""

import re
from pathlib import Path

import jax
import numpy as np

from jaxkit.runs import peers

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


def test_every_setting_and_exit_code_that_is_named_is_one():
    code = "".join(path.read_text() for path in (TOP / "jaxkit").rglob("*.py"))
    for name in set(re.findall(r"JAXKIT_[A-Z_]+", TEXT)):
        assert f'"{name}"' in code, name
    codes = {peers.OK, peers.FAILED, peers.USAGE, peers.TRY_AGAIN, peers.LOST, peers.STUCK}
    assert {int(number) for number in re.findall(r"^\| (\d+) \|", TEXT, flags=re.MULTILINE)} == codes


def test_make_bench_leaves_out_no_benchmark():
    makefile = (TOP / "Makefile").read_text()
    for path in (TOP / "benchmarks").glob("*.py"):
        if "__main__" in path.read_text():
            assert f"\t$(BIN)/python benchmarks/{path.name}\n" in makefile, path.name


def test_every_file_that_is_linked_or_named_in_the_tree_is_there():
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (TOP / link).exists(), link
    tree = TEXT.split("## The tree")[1].split("```")[1]
    for name in re.findall(r"\b(\w+\.py)\b", tree):
        assert (TOP / "jaxkit" / name).exists(), name
    for name in re.findall(r"\b(\w+)/", tree):
        assert (TOP / "jaxkit" / name).exists() or (TOP / name).exists(), name
