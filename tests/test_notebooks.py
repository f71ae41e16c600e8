"""The notebooks run from top to bottom, in a fresh kernel."""

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore")  # of the kernel's client; the notebook's own are not seen here
def test_a_notebook_runs_and_learns(path, monkeypatch, tmp_path):
    # Its own line makes the devices that it splits a batch over, not the environment of the tests.
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("len(jax.devices()), parallel.pmap().num_devices"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=900, startup_timeout=300, resources=where).execute()
    assert notebook.cells[-1].outputs[0]["data"]["text/plain"] == "(4, 4)"
    results = [
        output["data"]["text/plain"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "execute_result" and "accuracy" in output["data"]["text/plain"]
    ]
    assert len(results) >= 4
    for result in results:
        assert ast.literal_eval(result)["accuracy"] > 0.9, result
