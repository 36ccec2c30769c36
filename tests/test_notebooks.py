"""docs/notebooks: each runs to its end, and is kept clean, with the outputs that the site shows."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def outputs(cell):
    return cell["outputs"] if cell["cell_type"] == "code" else []


@pytest.mark.e2e  # each in a process of its own that imports TensorFlow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    execute = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(execute)
    found = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER.parents[1]), found]))
    done = execute.executed(path, str(tmp_path))
    # Numbers may differ with the versions; that there are such outputs may not.
    kept = json.loads(path.read_text())
    assert [[each["output_type"] for each in outputs(cell)] for cell in done.cells] == [
        [each["output_type"] for each in outputs(cell)] for cell in kept["cells"]
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_clean(path):
    """With outputs, small ones, and nothing of the machine or the run."""
    notebook = json.loads(path.read_text())
    cells = notebook["cells"]
    assert path.stat().st_size < 20_000 and notebook["metadata"].keys() == {
        "kernelspec",
        "language_info",
    }
    assert cells[0]["source"][0].startswith("# ")
    assert all(cell.get("execution_count") is None and not cell["metadata"] for cell in cells)
    assert sum(bool(outputs(cell)) for cell in cells) >= 3
    for output in (each for cell in cells for each in outputs(cell)):
        assert output.get("name") != "stderr" and output["output_type"] != "error"
        said = json.dumps(output)
        assert len(said) < 2_000 and " object at 0x" not in said
        assert "/home/" not in said and "/tmp" not in said


def test_the_four_are_there():
    names = ["keras3", "own_fit", "own_pruned_model", "quickstart"]
    assert [path.stem for path in NOTEBOOKS] == names
