"""The end of the text and time-series runs: the student as ONNX, compared with its teacher."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .logs import say


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
