"""Imports point down, `import jaxkit` is light, and nothing optional comes with it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxkit"
# Lower layers first; a module imports from its own layer and from those before it.
LAYERS = (
    ("errors", "writing", "homes"),
    ("types", "checks", "means", "notes", "backends", "chunks", "contracts"),
    ("random", "losses", "metrics", "calibration", "regression", "configs"),
    ("models", "language", "objectives", "updates", "parallel", "sampling"),
    ("costs", "recipe", "data", "writers"),
    ("runs",),
    ("proofs",),
    ("reports",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path: Path) -> set[str]:
    """The parts of jaxkit that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "jaxkit":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxkit."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("jaxkit.")}
    return names - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imported(path):
        assert LEVEL[name] <= LEVEL[part], f"{part} imports {name}, which stands above it"


def modules_after(code: str) -> set[str]:
    """The modules that are loaded after the code ran in a fresh process."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_importing_jaxkit_imports_nothing_else():
    heavy = {"jax", "numpy", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "rich", "matplotlib"}
    assert not modules_after("import jaxkit") & heavy


def test_composing_needs_neither_the_shell_nor_the_data_libraries():
    code = "from jaxkit import configs, data, losses, metrics, models, objectives, parallel, updates; models.cnn"
    heavy = {"flax", "orbax", "grain", "tensorflow_datasets", "rich", "matplotlib", "sklearn", "tensorflow"}
    assert not modules_after(code) & heavy


def test_the_loop_alone_needs_no_more_than_flax_brings():
    # benchmarks/gpu.py runs where jax, flax, optax and numpy are installed, and nothing else.
    code = "from jaxkit.runs import feeding, loop, progress"
    others = {"grain", "tensorflow_datasets", "array_record", "psutil", "ml_collections", "orbax", "matplotlib"}
    assert not modules_after(code) & others


def test_what_serves_the_writers_of_a_run_does_without_jax():
    code = "from jaxkit.runs import serving, tracking; from jaxkit import writers; writers.mlflow, writers.wandb"
    assert not modules_after(code) & {"jax", "numpy", "mlflow", "wandb", "tensorboard"}


def test_a_name_that_is_not_there_lists_what_is():
    import jaxkit

    with pytest.raises(AttributeError, match="module 'jaxkit' has no attribute 'optimizers'; it has: checks"):
        _ = jaxkit.optimizers
