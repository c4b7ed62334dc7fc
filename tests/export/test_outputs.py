"""Students with several outputs: which one holds the logits, and what is done with the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mcld_core.export import export_onnx


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (lambda y: (y, (y, y)), r"got 'output_1', a tuple of no dtype \(\), for a batch"),
        (lambda y: {"logits": y, "loss": None}, "got 'loss', a NoneType of no dtype"),
        (lambda y: (y, y.mean()), r"got 'output_1', a Tensor of torch.float32 \(\), for a batch"),
        (lambda y: (y, 3.0), "got 'output_1', a float of no dtype"),
        (lambda y: y.t(), r"got 'logits', a Tensor of torch.float32 \(3, 1\), for a batch"),
        (lambda y: y.bfloat16(), "NumPy holds.* got 'logits', a Tensor of torch.bfloat16"),
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
