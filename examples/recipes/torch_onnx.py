"""The end of a run: the distilled student as a verified ONNX file, compared with its teacher."""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from . import torch_checkpoints as checkpoints
from .data import Dataset
from .logs import say

NEEDED = ("onnx", "onnxruntime", "onnxscript")


def export_student(options: argparse.Namespace, data: Dataset) -> None:
    """Write ``student.onnx`` of the last method and first seed; print size and latency.

    Does nothing but say so where the exporter is not installed. A teacher that was loaded instead
    of trained is not compared with.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        say(f"no ONNX file: {', '.join(missing)} not installed (pip install 'mcld[onnx]')")
        return
    from mcld_core.export import compare_latency, export_onnx

    from .torch_inference import Pixels, pick_device

    method = options.methods[-1]
    folder = options.out / f"seed{options.seeds[0]}"
    pixels = Pixels(data, pick_device("cpu"))
    images = pixels(data.test.images[:64]).numpy()
    path = options.out / "student.onnx"
    saved = checkpoints.load(folder / method / "last.pt")
    metadata: dict[str, Any] = {
        "dataset": data.name,
        "method": method,
        "teacher": options.teacher,
        "normalization": saved["normalization"],
        "layout": "NCHW",
    }
    report = export_onnx(_model(saved), path, example_input=images, metadata=metadata)
    say(f"student ({method}, seed {options.seeds[0]}): {report}")
    teacher = folder / "teacher" / "last.pt"
    if not teacher.exists():
        return
    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch) / "teacher.onnx"
        export_onnx(_model(checkpoints.load(teacher)), other, example_input=images)
        say(str(compare_latency(path, other, images)))


def _model(saved: dict[str, Any]) -> Any:
    from .torch_models import build

    model = build(saved["name"], tuple(saved["image_shape"]), saved["classes"])
    model.load_state_dict(saved["model"])
    return model.eval()
