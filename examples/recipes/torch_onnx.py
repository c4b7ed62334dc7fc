r"""ONNX of the PyTorch recipe: models from their checkpoints, and the end of a run.

python -m mcld_core export --checkpoint runs/digits/seed0/mcld/last.pt --out student.onnx \
        --model examples.recipes.torch_models:build
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .data import Dataset
from .handover import Loaded, hand_over, shown
from .readers import DataError


def load_student(path: Path) -> Loaded:
    """Build the model of a ``last.pt`` or ``best.pt`` and load its weights.

    Returns:
        The module, (channels, height, width), and the metadata for `export_onnx`.

    Raises:
        DataError: no such file, a damaged one, or one of something else.
    """
    from mcld_core.export.student import load_student as load

    try:
        student, shape, known = load(path, model=f"{__package__}.torch_models:build")
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from error
    assert shape is not None
    return student.eval(), shape, known


def export_student(options: argparse.Namespace, data: Dataset) -> None:
    """Write the run's ``student.onnx``; print its size and latency beside the teacher's."""
    hand_over(options, shown(data), load_student, file="last.pt", exporter="onnxscript")
