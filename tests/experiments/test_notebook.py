"""notebooks/quickstart.ipynb, run from top to bottom as a reader would."""

import os
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def outputs():
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # it is kept small
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    client = nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3")
    client.execute(cwd=str(NOTEBOOK.parent))
    return [out for cell in notebook.cells for out in cell.get("outputs", [])]


def test_it_runs_and_shows_power_above_standard_sampling(outputs):
    text = "".join(out.get("text", "") for out in outputs)
    accuracy = {
        line.split()[0]: float(line.split()[2])
        for line in text.split("\n")
        if line.startswith(("Standard", "Temperature", "Power"))
    }
    assert list(accuracy) == ["Standard", "Temperature", "Power"]
    assert accuracy["Standard"] < accuracy["Temperature"] < accuracy["Power"] > 80


def test_it_shows_the_completions_and_the_plot(outputs):
    shown = [out["data"] for out in outputs if "data" in out]
    assert any("4 completions of tiny by power" in data.get("text/plain", "") for data in shown)
    assert any("image/png" in data for data in shown)
