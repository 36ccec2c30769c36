"""Runs the notebooks and keeps their outputs: ``python docs/notebooks/execute.py`` after a change.

The site shows what is kept. ``tests/test_notebooks.py`` runs them all the same.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def executed(path: Path, folder: str, seconds: int = 300) -> nbformat.NotebookNode:
    """A notebook with the outputs of its cells.

    What TensorFlow and others write to stderr is left out, and so is what names a run: counts and
    times of cells.

    Args:
      path: the notebook.
      folder: where it runs and leaves its files.
      seconds: the longest that a cell may take.

    Raises:
      CellExecutionError: for a cell that fails.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=seconds,
        resources={"metadata": {"path": folder}},
        record_timing=False,
        coalesce_streams=True,  # whether what is printed comes in one part is chance
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
            for output in cell.outputs:
                if "execution_count" in output:
                    output["execution_count"] = None
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(path, folder), path)
