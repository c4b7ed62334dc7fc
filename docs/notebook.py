"""Run the quickstart notebook and keep what it printed and drew in the file.

    python docs/notebook.py

A test compares the committed outputs with those of a run of its own.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "quickstart.ipynb"


def run(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run all cells in ``folder`` on one thread; their outputs go into the notebook."""
    place = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=300, resources=place, record_timing=False)
    client.execute(env={**os.environ, "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    found = nbformat.read(NOTEBOOK, 4)
    with tempfile.TemporaryDirectory() as folder:
        run(found, Path(folder))
    found.metadata = {
        "kernelspec": found.metadata["kernelspec"],
        "language_info": {"name": "python"},
    }
    nbformat.write(found, NOTEBOOK)
