"""Students with several outputs: which one holds the logits, and what is done with the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from mcld_core.export import export_onnx

FEATURES, CLASSES = 24, 5
ROWS = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)


class WithFeatures(nn.Module):
    """Features come first, as in many feature extractors."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(6, FEATURES), nn.Linear(FEATURES, CLASSES)
        self.names = names

    def forward(self, rows: torch.Tensor) -> Any:
        features = self.body(rows).relu()
        outputs = features, self.head(features)
        return dict(zip(self.names, outputs, strict=True)) if self.names else outputs


def test_probabilities_and_class_names_are_of_the_logits_alone(tmp_path: Path) -> None:
    student, path = WithFeatures("features", "logits"), tmp_path / "a.onnx"
    metadata = {"classes": list("abcde")}
    export_onnx(student, path, input_shape=(6,), softmax=True, metadata=metadata)
    features, shares = onnxruntime.InferenceSession(path).run(
        ["features", "logits"], {"input": ROWS}
    )
    with torch.no_grad():
        expected = student(torch.from_numpy(ROWS))
    np.testing.assert_allclose(features, expected["features"], atol=1e-5)
    np.testing.assert_allclose(shares, expected["logits"].softmax(1), atol=1e-5)
    with pytest.raises(ValueError, match="one name for each logit; got 24 names"):
        export_onnx(student, path, input_shape=(6,), metadata={"classes": ["x"] * FEATURES})


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (lambda y: (y, (y, y)), "got 'output_1', a tuple, for a batch"),
        (lambda y: {"logits": y, "loss": None}, "got 'loss', a NoneType, for a batch"),
        (lambda y: (y, y.mean()), r"got 'output_1', a Tensor of shape \(\), for a batch"),
        (lambda y: (y, 3.0), "got 'output_1', a float, for a batch"),
        (lambda y: y.t(), r"got 'logits', a Tensor of shape \(3, 1\), for a batch"),
        (lambda y: y.bfloat16(), "a type that NumPy holds; got 'logits' of torch.bfloat16"),
    ],
)
def test_outputs_that_are_no_rows_are_named(output: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^export_onnx: .*{said}"):
        export_onnx(Ends(output), tmp_path / "a.onnx", input_shape=(6,))
    assert list(tmp_path.iterdir()) == []


class Ends(nn.Module):
    """Three logits, and what is made of them."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.head, self.output = nn.Linear(6, 3), output

    def forward(self, rows: torch.Tensor) -> Any:
        return self.output(self.head(rows))


def test_bools_ints_and_single_numbers_may_stand_beside_the_logits(tmp_path: Path) -> None:
    student = Ends(lambda y: {"logits": y, "sure": y > 0, "first": y.argmax(1), "sum": y.sum(1)})
    report = export_onnx(student, tmp_path / "a.onnx", input_shape=(6,))
    assert report.outputs == ("logits", "sure", "first", "sum")
