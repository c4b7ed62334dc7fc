"""PyTorch students to ONNX, by ``torch.onnx.export(dynamo=True)``."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from mcld_core.export.inputs import ExportRequest, call, quiet

FRAMEWORK, TOOL = "torch", "torch.onnx.export"
PACKAGES: tuple[str, ...] = ("onnxscript",)
as_tensor = torch.from_numpy


@contextmanager
def evaluation(student: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The student in eval mode and on the CPU."""
    tensors = [*student.parameters(), *student.buffers()]
    if any(tensor.device.type != "cpu" for tensor in tensors):
        # A copy: onnxruntime compares on the CPU, and the student stays where it is.
        student = copy.deepcopy(student).cpu()
    with eval_mode(student), torch.no_grad():
        yield student


@contextmanager
def eval_mode(student: torch.nn.Module) -> Iterator[None]:
    """Eval mode for a while; then each module's own mode again."""
    modes = [(module, module.training) for module in student.modules()]
    student.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class _Traced(torch.nn.Module):
    """The student with positional inputs and a tuple of tensors as output."""

    def __init__(self, student: Any, request: ExportRequest) -> None:
        super().__init__()
        self.student, self.request = student, request
        if not isinstance(student, torch.nn.Module):
            self.model = student.model  # Keras', for its parameters

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(call(self.student, self.request, inputs).values())


def write(student: Any, request: ExportRequest, output_names: Sequence[str]) -> Any:
    """Trace with free axes."""
    axes = tuple(dict(request.dynamic_axes[name]) for name in request.example)
    with quiet("torch.onnx", "onnxscript"):  # lines on torchvision, tracebacks of a conversion
        program = torch.onnx.export(
            _Traced(student, request).eval(),
            tuple(torch.from_numpy(array) for array in request.example.values()),
            input_names=list(request.example),
            output_names=list(output_names),
            opset_version=request.opset,
            dynamic_shapes=(axes,),
            dynamo=True,
            verbose=False,
        )
    return program.model
