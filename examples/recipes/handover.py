"""The end of a run: the distilled student as a verified ONNX file, compared with its teacher."""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .files import DataError
from .logs import say

SHOWN = 64
"""Test images that the export looks at, and the batch whose latency is printed."""


def hand_over(
    options: argparse.Namespace,
    student: Any,
    teacher: Any,
    images: NDArray[Any],
    notes: dict[str, Any],
    exporter: str,
) -> None:
    """Write ``OUT/student.onnx``; print its size and its latency beside the teacher's.

    Does nothing but say what to install where a package is missing.

    Args:
        options: of the run.
        student: the framework's model, in evaluation mode.
        teacher: of the same framework; None: the student is compared with nothing.
        images: normalised test images, in the layout of the models.
        notes: what the file says of its model.
        exporter: the package that exports the framework's models.

    Raises:
        DataError: the student cannot be exported, and why; its checkpoints are untouched.
    """
    needed = ("onnx", "onnxruntime", exporter)
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        text = f"no ONNX file: {', '.join(missing)} not installed; pip install {' '.join(needed)}"
        say(text, important=True)
        return
    from mcld_core.export import compare_latency

    path = options.out / "student.onnx"
    say(f"student: {_export(student, path, images, notes)}", important=True)
    if teacher is None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch) / "teacher.onnx"
        try:
            _export(teacher, other, images, {})
        except DataError as error:
            say(f"no latency of the teacher: {error}", important=True)
            return
        latency = compare_latency(path, other, images)
        say(f"a batch of {len(images)} on one thread: {latency}", important=True)


def _export(model: Any, path: Path, images: NDArray[Any], notes: dict[str, Any]) -> Any:
    from mcld_core.export import export_onnx

    try:
        return export_onnx(model, path, example_input=images, metadata=notes)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"no ONNX file of the {path.stem}, trained and saved: {error}") from error
