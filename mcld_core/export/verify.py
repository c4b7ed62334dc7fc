"""Proof that an ONNX file computes what the student computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcld_core.export.inputs import Arrays, ExportRequest, brief, refused, rows_of

SMALL_ROW = 1e-3
"""A row's scale is at least this share of the batch's, so that a row of zeros can be compared."""

CONSTANT = "An axis was exported as a constant: see dynamic_batch and dynamic_axes"


@dataclass(frozen=True)
class ExportReport:
    """What `export_onnx` wrote, and how close it is.

    Args:
        path: the file.
        framework: the student's framework.
        exporter: the exporter that made the graph.
        opset: the ONNX operator set.
        size: bytes of the file.
        max_relative_error: the largest that the verification saw.
        batch_sizes: the batches that it ran.
        inputs: names of the inputs.
        outputs: names of the outputs.
    """

    path: Path
    framework: str
    exporter: str
    opset: int
    size: int
    max_relative_error: float
    batch_sizes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.path.name}: {self.size / 1e3:,.0f} kB, {self.framework} by {self.exporter}, "
            f"opset {self.opset}, relative error {self.max_relative_error:.1e} on batches of "
            f"{', '.join(map(str, self.batch_sizes))}"
        )


def relative_error(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest `|got − expected|` over the largest `|expected|` of its row.

    A row is one vector of logits: the last axis. Rows of almost nothing are held to
    `SMALL_ROW` of the batch's scale.
    """
    if not expected.size:
        return 0.0
    scale = np.abs(expected.astype(np.float64)).max(axis=-1, keepdims=True)
    least = max(SMALL_ROW * float(scale.max()), float(np.finfo(np.float32).tiny))
    error = np.abs(got.astype(np.float64) - expected.astype(np.float64)) / np.maximum(scale, least)
    return float(np.nan_to_num(error, nan=np.inf).max())


def verify(
    content: bytes,
    request: ExportRequest,
    inputs: Sequence[Arrays],
    expected: Sequence[Arrays],
    tolerance: float,
) -> float:
    """Check a file's content by onnx and compare it with the framework; return the largest error.

    ``inputs`` has an array for each input of each check, ``expected`` the framework's outputs in
    evaluation mode. Raises where the file is invalid, an output's shape, value or arg max is
    another, or a row depends on its batch.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        onnx.checker.check_model(content, full_check=True)
        runner = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    except Exception as error:  # types of their own
        needs = "the exported file is not valid ONNX, or onnxruntime cannot load it"
        cure = "Try another opset, rewrite the layer that it names, or export float32 (onnxruntime"
        cure += " lacks some operators of other types)"
        raise refused(needs, brief(error), cure) from error
    worst = 0.0
    for feeds, wanted in zip(inputs, expected, strict=True):
        batch, outputs = rows_of(feeds), _run(runner, list(wanted), feeds)
        for name, reference in wanted.items():
            got = outputs[name]
            if got.shape != reference.shape:
                needs = f"output {name!r} has another shape in ONNX"
                came = f"{got.shape} for {reference.shape} at a batch of {batch}"
                raise refused(needs, came, CONSTANT)
            worst = max(worst, _compare(name, got, reference, batch, tolerance))
    run = partial(_run, runner, list(outputs))
    check_rows(run, request, inputs[-1], outputs, tolerance, "ONNX file")
    return worst


def check_rows(
    run: Callable[[Arrays], Arrays],
    request: ExportRequest,
    feeds: Arrays,
    outputs: Arrays,
    tolerance: float,
    what: str,
) -> None:
    """Raise where a row's output depends on the other rows of its batch, or is random.

    Rows alone are compared with the same rows in the batch ``feeds``, for which ``run`` gives
    ``outputs``. In a batch of fixed size, copies of the row are its company.
    """
    batch = rows_of(feeds)
    rows = sorted({0, batch // 2, batch - 1})
    copies = 1 if request.free_batch else batch
    alone = []
    for row in rows:
        company = {name: np.repeat(array[[row]], copies, axis=0) for name, array in feeds.items()}
        alone.append(list(run(company).values()))
    for index, (name, together) in enumerate(outputs.items()):
        error = relative_error(np.stack([found[index][0] for found in alone]), together[rows])
        if error > tolerance:
            needs = f"a row's output {name!r} needs to be the same alone as in a batch"
            came = f"{_error(error, tolerance, batch)}, of the {what}"
            cure = "It uses statistics of the batch (such as batch norm in training), its size, or"
            cure += " chance: use those of training, in evaluation mode"
            raise refused(needs, came, cure)


def _run(runner: Any, names: list[str], feeds: Arrays) -> Arrays:
    try:
        return dict(zip(names, runner.run(names, feeds), strict=True))
    except Exception as error:
        shapes = {name: array.shape for name, array in feeds.items()}
        raise refused(f"onnxruntime fails with inputs {shapes}", brief(error), CONSTANT) from error


def _compare(
    name: str, got: NDArray[Any], reference: NDArray[Any], batch: int, tolerance: float
) -> float:
    needs = f"output {name!r} of {reference.dtype} differs between ONNX and the student"
    if reference.dtype.kind != "f":
        if not np.array_equal(got, reference):
            came = f"{int((got != reference).sum())} such places at a batch of {batch}"
            raise refused(needs, came, "Leave it out: it can be made of the logits")
        return 0.0
    if reference.ndim == 1:  # a number a row
        got, reference = got[:, None], reference[:, None]
    error = relative_error(got, reference)
    if error > tolerance:
        cure = "Is the student deterministic in evaluation mode?"
        if reference.dtype == np.float16:
            cure = "float16 holds three digits: give tolerance=0.01, or export float32"
        raise refused(needs, _error(error, tolerance, batch), cure)
    chosen = np.take_along_axis(reference, got.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    allowed = tolerance * np.abs(reference).max(axis=-1)  # two logits may be as good as equal
    differing = int((reference.max(axis=-1) - chosen > allowed).sum())
    if differing:
        needs = f"the arg max of output {name!r} differs in {differing} rows"
        raise refused(needs, _error(error, tolerance, batch))
    return error


def _error(error: float, tolerance: float, batch: int) -> str:
    text = f"a relative error of {error:.2e} at a batch of {batch}"
    return f"{text}, the tolerance is {tolerance:.1e}"
