"""A student whose rows depend on the batch is refused: in use other rows stand beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mcld_core.export import export_onnx

SHAPE = (3, 6, 6)
SAID = "got a relative error .* a row's output needs to be the same alone as in a batch: without"


class Then(nn.Module):
    """A linear student after something done to its images."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.change, self.head = change, nn.Linear(108, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.change(images).flatten(1))


STUDENTS = {
    "batch norm without running statistics": nn.BatchNorm2d(3, track_running_stats=False),
    "the batch's mean": lambda x: x - x.mean(0),
    "the batch's size": lambda x: x / x.shape[0],
    "dropout in training": lambda x: nn.functional.dropout(x, training=True),
    "attention over the batch": lambda x: x.flatten(1).T.matmul(x.flatten(1)).mean() + x,
}


@pytest.mark.parametrize("name", STUDENTS)
def test_rows_that_depend_on_their_batch_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=SAID):
        export_onnx(Then(STUDENTS[name]), tmp_path / "a.onnx", input_shape=SHAPE)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_of_fixed_size_is_filled_with_copies_of_the_row(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype(np.float32)
    path = tmp_path / "a.onnx"
    arguments: dict[str, Any] = {"example_input": rows, "dynamic_batch": False}
    with pytest.raises(ValueError, match=SAID):
        export_onnx(Then(STUDENTS["the batch's mean"]), path, **arguments)
    export_onnx(Then(STUDENTS["the batch's size"]), path, **arguments)  # it is always 4


@pytest.mark.parametrize(
    "change", [nn.GroupNorm(3, 3), nn.LayerNorm(6), torch.asin, torch.sqrt, lambda x: x.sub_(0.5)]
)
def test_what_is_done_to_each_row_by_itself_passes(change: Any, tmp_path: Path) -> None:
    """Of values from 0 to 1 in reversed order, in place too."""
    rows = np.random.default_rng(0).random((4, *SHAPE), "float32")[..., ::-1]
    report = export_onnx(Then(change), tmp_path / "a.onnx", example_input=rows)
    assert report.max_relative_error < 1e-5
