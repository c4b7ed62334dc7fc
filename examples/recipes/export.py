"""The end of a run: the student as an ONNX file, its size and its latency beside the teacher's."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import replace
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
    """Write ``student.onnx`` into a run's folder; print its size, and its latency in a batch.

    Does nothing but say what to install where a package is missing.

    Args:
        folder: of the run.
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
    from mcld_core.export import compare_latency, export_onnx

    def export(model: Any, path: Path, **more: Any) -> Any:
        try:
            return export_onnx(model, path, example_input=images, **more)
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            which = f"no ONNX file of the {path.stem}, trained and saved"
            raise DataError(f"{which}: {error}") from error

    path = folder / "student.onnx"
    say(f"student: {export(student, path, metadata=notes)}", important=True)
    if teacher is None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch) / "teacher.onnx"
        try:
            export(teacher, other)
        except DataError as error:
            say(f"no latency of the teacher: {error}", important=True)
            return
        latency = compare_latency(path, other, images)
        say(f"a batch of {len(images)} on one thread: {latency}", important=True)


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
    """Write a verified ONNX file of the student; print its size and latency beside the teacher's.

    Both are timed by onnxruntime, one thread, on one row: the first of ``inputs``. The teacher's
    file is not kept. Where an exporter is missing, says what to install and does nothing.

    Args:
        student: a torch module of one input.
        teacher: the same.
        path: the student's file.
        inputs: (batch, …) a batch of the student.
        teacher_inputs: the same data as the teacher takes them; None: as the student does.
        input_name: of both files.
        output_names: as of `mcld_core.export.export_onnx`.
    """
    from mcld_core.export import compare_latency, export_onnx

    names = {"input_names": [input_name], "output_names": output_names}
    try:
        say(str(export_onnx(student, path, example_input=inputs, **names)))
    except ImportError as error:
        say(f"no ONNX file: {error}")
        return
    other = inputs if teacher_inputs is None else teacher_inputs
    with tempfile.TemporaryDirectory() as folder:
        teacher_path = Path(folder) / "teacher.onnx"
        export_onnx(teacher, teacher_path, example_input=other, **names)
        if teacher_inputs is None:
            latency = compare_latency(path, teacher_path, inputs[:1])
        else:
            latency = compare_latency(path, path, inputs[:1])
            alone = compare_latency(teacher_path, teacher_path, other[:1])
            latency = replace(
                latency,
                teacher=alone.teacher,
                fastest_teacher=alone.fastest_teacher,
                teacher_size=alone.teacher_size,
            )
    say(f"{path.stem}, one row: {latency}; the teacher takes {1 / latency.ratio:.1f} × as long")
