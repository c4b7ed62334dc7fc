"""The quickstart notebook runs, its committed outputs are what it prints, its ONNX file works."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import onnxruntime
import pytest
from sklearn.datasets import load_digits

from docs.notebook import NOTEBOOK, head, run

POINTS = 6.0
"""How far an accuracy of another processor may be from the committed one: means over five seeds."""
FACTS = """
import json
print(json.dumps({
    "plain": plain,
    "accuracies": {name: rows.tolist() for name, rows in accuracies.items()},
    "answers": onnx_logits.argmax(1).tolist(), "difference": difference,
    "student": torch_logits.argmax(1).tolist(),
    "pictures": x_test.numpy().ravel().tolist(), "labels": y_test.tolist(),
}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the notebook runs."""
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def executed(folder: Path) -> nbformat.NotebookNode:
    """The notebook with new outputs, and a last cell that prints its results."""
    notebook = nbformat.read(NOTEBOOK, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(FACTS))
    run(notebook, folder)
    return notebook


@pytest.fixture(scope="module")
def facts(executed: nbformat.NotebookNode) -> dict[str, Any]:
    """What the last cell printed."""
    return json.loads(executed.cells[-1].outputs[0].text)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def pictures(cell: nbformat.NotebookNode) -> list[tuple[int, int]]:
    """Return width and height of each PNG that a cell drew."""
    found = [output.data["image/png"] for output in cell.outputs if "data" in output]
    heads = [base64.b64decode(data)[:24] for data in found]
    assert all(head.startswith(b"\x89PNG") for head in heads)
    sides = [(head[16:20], head[20:24]) for head in heads]
    return [(int.from_bytes(wide), int.from_bytes(high)) for wide, high in sides]


def test_it_is_committed_as_it_ran() -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(len(pictures(cell)) for cell in cells) == 2
    streams = [output.get("name", "stdout") for cell in cells for output in cell.outputs]
    assert set(streams) == {"stdout"}
    assert NOTEBOOK.stat().st_size < 80_000
    assert not re.search(r"/home/|/tmp/|/root/|Traceback", "".join(map(printed, cells)))


def test_the_committed_outputs_are_those_of_a_run(executed: nbformat.NotebookNode) -> None:
    """Words and pictures are equal, accuracies close; times and the last digits may differ."""
    number = re.compile(r"\d+(?:\.\d+)?(?:e-\d+)?")
    for kept, new in zip(code(nbformat.read(NOTEBOOK, 4)), code(executed)[:-1], strict=True):
        old_text, new_text = printed(kept), printed(new)
        assert number.sub("#", old_text).split() == number.sub("#", new_text).split()
        assert np.shape(pictures(kept)) == np.shape(pictures(new))
        assert np.allclose(pictures(kept), pictures(new), atol=3)  # fonts differ
        if "±" in old_text:
            means = [re.findall(r"([\d.]+) ±", text) for text in (old_text, new_text)]
            assert len(means[0]) in (4, 21)
            np.testing.assert_allclose(*(np.array(x, float) for x in means), atol=POINTS)


def test_what_the_text_says_of_rare_digits_is_so(facts: dict[str, Any]) -> None:
    found = {name: np.array(rows) for name, rows in facts["accuracies"].items()}
    losses = ["CE", "CE + KD", "MCLD + CE"]
    assert list(found) == ["teacher", *losses, *(f"{name}, balanced" for name in losses)]
    assert {rows.shape for rows in found.values()} == {(5, 10)}
    frequent, rarest = ({name: x[:, part].mean() for name, x in found.items()}
                        for part in (slice(3), slice(-3, None)))  # fmt: skip
    assert min(frequent.values()) > 93
    assert rarest["teacher"] < rarest["CE + KD"] < rarest["CE"]  # it follows the teacher
    for name in losses:
        assert rarest[f"{name}, balanced"] > rarest[name] + 5


def test_what_the_text_says_of_plain_distillation_is_so(facts: dict[str, Any]) -> None:
    means = {name: np.mean(values) for name, values in facts["plain"].items()}
    assert means["teacher"] > max(means["CE + KD"], means["MCLD + CE"])
    assert min(means["CE + KD"], means["MCLD + CE"]) > means["CE"] + 2.5


def test_the_address_is_written_in_one_place() -> None:
    """Without one the notebook says nothing; with one a line opens it in Colab."""
    assert "colab" not in NOTEBOOK.read_text("utf-8").lower()
    shown = head("Title\n\nText", "https://github.com/owner/name")
    assert "(https://colab.research.google.com/github/owner/name/blob/main/" in shown
    assert "git+https://github.com/owner/name'" in shown
    assert head(shown, "https://github.com/owner/name") == shown
    assert head(shown, None) == "Title\n\nText"


def test_the_onnx_file_is_the_student(facts: dict[str, Any], folder: Path) -> None:
    (file,) = folder.rglob("*.onnx")
    session = onnxruntime.InferenceSession(file)
    shown = np.array(facts["pictures"], "float32").reshape(-1, 1, 8, 8)
    answers = session.run(None, {"input": shown})[0].argmax(1)
    assert answers.tolist() == facts["answers"] == facts["student"]
    known = {picture.tobytes(): label for picture, label in zip(*digits(), strict=True)}
    assert facts["labels"] == [known[picture.tobytes()] for picture in shown]
    assert np.mean(answers == facts["labels"]) > 0.9
    assert facts["difference"] < 1e-5


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return all pictures and labels, read here once more."""
    found, labels = load_digits(return_X_y=True)
    scaled = (found - found.mean()) / found.std()
    return scaled.astype("float32").reshape(-1, 1, 8, 8), labels
