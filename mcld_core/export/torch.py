"""PyTorch students to ONNX, by ``torch.onnx.export(dynamo=True)``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from mcld_core.export.inputs import ExportRequest, call, told

FRAMEWORK, TOOL = "torch", "torch.onnx.export"
PACKAGES: tuple[str, ...] = ("onnxscript",)
as_tensor = torch.from_numpy


def inference(student: Any) -> Any:
    """A copy in eval mode, and on the CPU as onnxruntime is; Keras' call as it is."""
    if not isinstance(student, torch.nn.Module):
        return student
    with told("the student cannot be copied", "Clear the tensors of a call that it keeps"):
        return copy.deepcopy(student).cpu().eval().requires_grad_(False)


class _Traced(torch.nn.Module):
    """The student with positional inputs and a tuple of tensors as output."""

    def __init__(self, student: Any, request: ExportRequest) -> None:
        super().__init__()
        self.student, self.request = student, request
        if not isinstance(student, torch.nn.Module):
            self.model = student.model  # Keras', for its parameters
        self.training = False  # alone: each layer of Keras keeps its mode

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(call(self.student, self.request, inputs).values())


def write(student: Any, request: ExportRequest, output_names: Sequence[str]) -> Any:
    """Trace with free axes."""
    program = torch.onnx.export(
        _Traced(student, request),
        tuple(torch.from_numpy(array) for array in request.example.values()),
        input_names=list(request.example),
        output_names=list(output_names),
        opset_version=request.opset,
        dynamic_shapes=(tuple(dict(request.dynamic_axes[name]) for name in request.example),),
        dynamo=True,
        verbose=False,
    )
    return program.model
