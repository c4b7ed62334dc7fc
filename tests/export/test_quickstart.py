"""The quickstart notebook runs from first to last cell, and its ONNX file is what it says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import onnxruntime
import pytest
from nbclient import NotebookClient
from sklearn.datasets import load_digits

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
FACTS = """
import json
print(json.dumps({
    "teacher": teacher_accuracy, "onnx": onnx_accuracy, "difference": difference,
    "students": {name: list(values) for name, values in final.items()},
    "answers": onnx_logits.argmax(1).tolist(),
    "pictures": x_test.numpy().ravel().tolist(),
}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the notebook runs."""
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def executed(folder: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, and a last cell that prints its results."""
    notebook = nbformat.read(NOTEBOOK, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(FACTS))
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, "OMP_NUM_THREADS": "1"})
    return notebook


@pytest.fixture(scope="module")
def facts(executed: nbformat.NotebookNode) -> dict[str, Any]:
    """What the last cell printed."""
    return json.loads(executed.cells[-1].outputs[0].text)


def test_it_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) >= 8
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


def test_every_cell_ran_in_order_and_drew(executed: nbformat.NotebookNode) -> None:
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_teacher_and_students_learned(facts: dict[str, Any]) -> None:
    assert facts["teacher"] > 0.96
    assert set(facts["students"]) == {"CE", "KD, T = 2", "MCLD"}
    for name, accuracies in facts["students"].items():
        assert len(accuracies) == 3
        assert min(accuracies) > 93, name


def test_the_onnx_file_is_the_student(facts: dict[str, Any], folder: Path) -> None:
    (file,) = folder.rglob("*.onnx")
    session = onnxruntime.InferenceSession(file)
    pictures = np.array(facts["pictures"], "float32").reshape(-1, 1, 8, 8)
    known = {picture.tobytes(): label for picture, label in zip(*digits(), strict=True)}
    labels = [known[picture.tobytes()] for picture in pictures]
    answers = session.run(None, {"input": pictures})[0].argmax(1)
    assert answers.tolist() == facts["answers"]
    accuracy = float((answers == np.array(labels)).mean())
    assert accuracy == pytest.approx(facts["onnx"])
    assert 100 * accuracy == pytest.approx(facts["students"]["MCLD"][0], abs=0.3)
    assert facts["difference"] < 1e-5


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return all pictures and labels, read here once more."""
    pictures, labels = load_digits(return_X_y=True)
    return (pictures / 16).astype("float32").reshape(-1, 1, 8, 8), labels
