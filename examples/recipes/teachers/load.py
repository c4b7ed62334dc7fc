"""Teachers with weights of their own, ONNX files, and several teachers: in every framework."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..files import DataError
from . import is_own, teacher_options


def load_teachers(
    options: argparse.Namespace,
    load: Callable[[str, Path | None], Any],
    train: Callable[[argparse.Namespace], Any],
) -> list[Any]:
    """Return each ``--teacher``: a model, or an `OnnxTeacher`.

    Networks of the recipe that have no weights are trained first.

    Args:
        options: of the run; a dry run trains none.
        load: from a teacher's name and its file of weights to the model.
        train: of the script, on the same data.

    Raises:
        DataError: a teacher cannot be loaded, or there is another number of files.
    """
    names = options.teacher
    files = options.teacher_weights or [None] * len(names)
    if not names or len(files) != len(names):
        raise DataError(f"--teacher-weights: expected a file for each of {names}; got {len(files)}")
    models = [
        OnnxTeacher(Path(name)) if name.endswith(".onnx") else load(name, file)
        for name, file in zip(names, files, strict=True)
    ]
    for number, (name, file) in enumerate(zip(names, files, strict=True)):
        if file is None and not is_own(name) and not options.dry_run:  # the others are checked
            models[number] = train(teacher_options(options, number)).model
    return models


class OnnxTeacher:
    """An ONNX file as a function from normalised images, channels last, to logits.

    The file says whether it wants the channels first: by its metadata ``layout`` if it has that
    (`mcld_core.export_onnx` writes it), else by which axis holds 1 or 3 numbers.

    Raises:
        DataError: onnxruntime is not installed, or the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise DataError(f"--teacher {path} needs: pip install onnxruntime") from error
        if not path.is_file():
            raise DataError(f"--teacher {path} does not exist")
        try:
            self.content = bytearray(path.read_bytes())
            self.session = onnxruntime.InferenceSession(
                bytes(self.content), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own types
            raise DataError(f"--teacher {path}: {str(error).splitlines()[0]}") from error
        (self.input,) = self.session.get_inputs()
        outputs = [output.name for output in self.session.get_outputs()]
        self.output = "logits" if "logits" in outputs else outputs[0]
        noted = self.session.get_modelmeta().custom_metadata_map.get("layout", "").strip('"')
        self.first = noted == "NCHW" or (not noted and self.input.shape[1] in (1, 3))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return (rows, classes) float32 for (rows, height, width, channels)."""
        if self.first:
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        (logits,) = self.session.run([self.output], {self.input.name: images})
        return np.asarray(logits, np.float32)
