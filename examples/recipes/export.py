"""The end of a run: the student as an ONNX file."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import say
from .files import DataError


def hand_over(
    folder: Path,
    student: Any,
    teacher: Any,
    images: np.ndarray,
    notes: dict[str, Any],
    exporter: str,
) -> None:
    """Write ``student.onnx`` into a run's folder; print its size and error.

    Does nothing but say what to install where a package is missing.

    Args:
        folder: of the run.
        student: the framework's model, in evaluation mode.
        teacher: not used.
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
    from mcld_core import export_onnx

    try:
        report = export_onnx(student, folder / "student.onnx", example_input=images, metadata=notes)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        which = "no ONNX file of the student, trained and saved"
        raise DataError(f"{which}: {error}") from error
    say(f"student: {report}", important=True)


def export_pair(
    student: Any,
    teacher: Any,
    path: Path,
    inputs: np.ndarray,
    teacher_inputs: np.ndarray | None = None,
    *,
    input_name: str = "values",
    output_names: Sequence[str] | None = None,
) -> None:
    """Write a verified ONNX file of the student; print its size and error.

    Where an exporter is missing, says what to install and does nothing.

    Args:
        student: a torch module of one input.
        teacher: not used.
        path: the student's file.
        inputs: (batch, …) a batch of the student.
        teacher_inputs: not used.
        input_name: of the file.
        output_names: as of `mcld_core.export_onnx`.
    """
    from mcld_core import export_onnx

    names = {"input_names": [input_name], "output_names": output_names}
    try:
        say(str(export_onnx(student, path, example_input=inputs, **names)))
    except ImportError as error:
        say(f"no ONNX file: {error}")
