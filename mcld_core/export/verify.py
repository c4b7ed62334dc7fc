"""Proof that an ONNX file computes what the student computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcld_core.export.inputs import Arrays

SMALL_ROW = 1e-3
"""A row's scale is at least this share of the batch's, so that a row of zeros can be compared."""


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


def session(path: str | Path, threads: int = 1) -> Any:
    """An onnxruntime session on the CPU.

    Raises:
        ValueError: onnxruntime cannot load the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # types of its own
        raise ValueError(
            f"onnxruntime: {path} cannot be loaded: {' '.join(str(error).split())}; it is no ONNX "
            "file, a damaged one, or one with operators that onnxruntime lacks; export it again."
        ) from error


def check_model(path: Path) -> None:
    """Run onnx.checker with full shape inference."""
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        raise ValueError(
            f"export_onnx: the exported file is not valid ONNX; onnx.checker says: {error}; no "
            "file was written. Try another opset, or rewrite the layer that it names."
        ) from error


def relative_error(got: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """The largest `|got − expected|` over the largest `|expected|` of its row.

    A row is one vector of logits: the last axis. Rows of almost nothing are held to
    `SMALL_ROW` of the batch's scale.
    """
    if not expected.size:
        return 0.0
    scale = np.abs(expected).max(axis=-1, keepdims=True)
    least = max(SMALL_ROW * float(scale.max()), float(np.finfo(np.float32).tiny))
    error = np.abs(got.astype(np.float64) - expected) / np.maximum(scale, least)
    return float(np.nan_to_num(error, nan=np.inf).max())


def decisions_differ(
    got: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], tolerance: float
) -> int:
    """Rows whose arg max differs, ties within the tolerance excepted."""
    scale = np.abs(expected).max(axis=-1)
    chosen = np.take_along_axis(expected, got.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    return int((expected.max(axis=-1) - chosen > tolerance * scale).sum())


def as_probabilities(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def verify(
    path: Path, inputs: Sequence[Arrays], expected: Sequence[Arrays], tolerance: float
) -> float:
    """Compare onnxruntime with the framework; return the largest relative error.

    Args:
        path: the ONNX file.
        inputs: for each check, an array for each input.
        expected: for each check, the framework's output in evaluation mode.
        tolerance: the largest relative error that passes, see `relative_error`.

    Raises:
        ValueError: the file is invalid, an output's shape, value or arg max is another, or the
            framework's own output is not finite.
    """
    check_model(path)
    try:
        runner = session(path)
    except ValueError as error:
        raise ValueError(
            f"export_onnx: onnxruntime cannot load the exported file: {error}; no file was "
            "written. Try another opset, or float32: it lacks some operators of other types."
        ) from error
    worst = 0.0
    for feeds, wanted in zip(inputs, expected, strict=True):
        batch = next(iter(feeds.values())).shape[0]
        outputs = dict(
            zip(wanted, _run(runner, list(wanted), feeds), strict=True),
        )
        for name, reference in wanted.items():
            _check_reference(name, reference)
            got = outputs[name]
            if got.shape != reference.shape:
                raise ValueError(
                    f"export_onnx: output {name!r} has another shape in ONNX; got {got.shape} "
                    f"where the student gives {reference.shape}, at a batch of {batch}; no file "
                    "was written. An axis was exported as a constant: see dynamic_batch and "
                    "dynamic_axes."
                )
            worst = max(worst, _compare(name, got, reference, batch, tolerance))
    return worst


def _run(runner: Any, names: list[str], feeds: Arrays) -> list[Any]:
    batch = next(iter(feeds.values())).shape[0]
    try:
        outputs: list[Any] = runner.run(names, feeds)
    except Exception as error:
        shapes = {name: array.shape for name, array in feeds.items()}
        raise ValueError(
            f"export_onnx: onnxruntime fails at a batch of {batch} with inputs {shapes}: {error}; "
            "no file was written. An axis was exported as a constant: see dynamic_batch and "
            "dynamic_axes."
        ) from error
    return outputs


def _check_reference(name: str, reference: np.ndarray[Any, Any]) -> None:
    if not np.isfinite(reference).all():
        raise ValueError(
            f"export_onnx: the student's own output {name!r} is not finite; nothing can be "
            "verified and no file was written. Give real rows as example_input."
        )


def _compare(
    name: str,
    got: np.ndarray[Any, Any],
    reference: np.ndarray[Any, Any],
    batch: int,
    tolerance: float,
) -> float:
    error = relative_error(got, reference)
    if error > tolerance:
        raise ValueError(
            f"export_onnx: output {name!r} differs between ONNX and the student; got a relative "
            f"error of {error:.2e} at a batch of {batch}, the tolerance is {tolerance:.1e}; no "
            "file was written. Is the student deterministic in evaluation mode?"
        )
    differing = decisions_differ(got, reference, tolerance)
    if differing:
        raise ValueError(
            f"export_onnx: the arg max of output {name!r} differs in {differing} rows at a batch "
            f"of {batch}, with a relative error of {error:.2e}; no file was written."
        )
    return error
