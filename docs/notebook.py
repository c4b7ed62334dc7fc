"""Run the quickstart notebook and keep what it printed and drew in the file.

    python docs/notebook.py

A test compares the committed outputs with those of a run of its own. Where pyproject.toml names the
repository's address (``urls``, ``Repository``), the first cell opens the notebook in Colab.
"""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "quickstart.ipynb"


def run(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run all cells in ``folder`` on one thread; their outputs go into the notebook."""
    place = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=300, resources=place, record_timing=False)
    client.execute(env={**os.environ, "OMP_NUM_THREADS": "1"})


def head(text: str, address: str | None) -> str:
    """Return the first cell, with a line that opens the notebook in Colab, or without it."""
    text = re.sub(r"\n\n\[Open in Colab\].*?$", "", text, flags=re.DOTALL)
    if address is None:
        return text
    place = address.removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{place}/blob/main/examples/{NOTEBOOK.name}"
    install = f"`%pip install 'mcld[torch,onnx,examples] @ git+{address}'`"
    return f"{text}\n\n[Open in Colab]({colab}) and put {install} into its first cell."


if __name__ == "__main__":
    found = nbformat.read(NOTEBOOK, 4)
    project = tomllib.loads((NOTEBOOK.parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    found.cells[0].source = head(found.cells[0].source, project["urls"].get("Repository"))
    with tempfile.TemporaryDirectory() as folder:
        run(found, Path(folder))
    found.metadata = {
        "kernelspec": found.metadata["kernelspec"],
        "language_info": {"name": "python"},
    }
    nbformat.write(found, NOTEBOOK)
