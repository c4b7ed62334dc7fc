"""The end of a run: the distilled student as a verified ONNX file, compared with its teacher.

What a checkpoint says of its model goes with it (`describe`), so that one loader serves both the
end of a run and ``python -m mcld_core export --load``: ``load_student`` of `torch_onnx`,
`jax_onnx`, `keras_onnx` and `tf_onnx`.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .data import Dataset
from .files import DataError
from .logs import say

Loaded = tuple[Any, tuple[int, ...], dict[str, Any]]
"""A model in evaluation mode, the shape of its input without the batch axis, its metadata."""

SHOWN = 64
"""Test images that the export looks at, and the batch whose latency is printed."""

UNTAUGHT = ("teacher", "ce")
"""Trainings without a teacher."""


def describe(data: Any, method: str, teacher: str) -> dict[str, Any]:
    """Return what a checkpoint has to say of its model, as JSON can hold it.

    Args:
        data: a `recipes.data.Dataset` or `recipes.tf_pictures.PictureSet`.
        method: how the model was trained.
        teacher: the name of the teacher's model.
    """
    return {
        "classes": data.classes,
        "image_shape": list(data.image_shape),
        "dataset": data.name,
        "normalization": {"mean": list(data.mean), "std": list(data.std)},
        "method": method,
        "teacher": None if method in UNTAUGHT else teacher,
    }


def metadata(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of an ONNX file for images with channels last, from `describe`'s."""
    kept = ("dataset", "normalization", "method", "teacher", "accuracy", "center_crop")
    return {"model": notes.get("name"), "layout": "NHWC", **{key: notes.get(key) for key in kept}}


def blueprint(path: Path, notes: Mapping[str, Any]) -> tuple[str, tuple[int, int, int], int]:
    """Return name, image shape and classes of the model in a checkpoint with these notes.

    Raises:
        DataError: the notes do not say them.
    """
    try:
        height, width, channels = notes["image_shape"]
        return str(notes["name"]), (int(height), int(width), int(channels)), int(notes["classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} does not say name, image_shape and classes of its model; pass the last.npz "
            "or best.npz of a run, which hold the model alone"
        ) from error


def shown(data: Dataset) -> NDArray[np.float32]:
    """Return the first test images, normalised: (rows, height, width, channels)."""
    pixels = data.test.images[:SHOWN].astype("float32") / 255
    return ((pixels - np.float32(data.mean)) / np.float32(data.std)).astype("float32")


def hand_over(
    options: argparse.Namespace,
    images: NDArray[np.float32],
    load: Callable[[Path], Loaded],
    *,
    file: str,
    exporter: str,
) -> None:
    """Write ``student.onnx`` of the last method and first seed; print size and latency.

    Does nothing but say what to install where a package is missing, and says why where the teacher
    cannot be compared with: weights that were loaded may not name their model.

    Args:
        options: those of the run.
        images: test images (rows, height, width, channels), normalised.
        load: reads a checkpoint.
        file: its name in the folder of a training.
        exporter: the package that exports the framework's models.

    Raises:
        DataError: the student cannot be exported, and why; its checkpoints are untouched.
    """
    needed = ("onnx", "onnxruntime", exporter)
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        say(f"no ONNX file: {', '.join(missing)} not installed; pip install {' '.join(needed)}")
        return
    from mcld_core.export import compare_latency

    method, seed = options.methods[-1], options.seeds[0]
    folder = options.out / f"seed{seed}"
    path = options.out / "student.onnx"
    report, rows = _export(load(folder / method / file), path, images, method)
    say(f"student ({method}, seed {seed}): {report}")
    teacher = options.teacher_checkpoint or folder / "teacher" / file
    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch) / "teacher.onnx"
        try:
            _export(load(teacher), other, images, "teacher")
        except DataError as error:
            say(f"no latency of the teacher: {error}")
            return
        say(f"a batch of {len(rows)} on one thread: {compare_latency(path, other, rows)}")


def _export(
    loaded: Loaded, path: Path, images: NDArray[np.float32], method: str
) -> tuple[Any, NDArray[np.float32]]:
    """Export one model; return the report and the images in the model's layout."""
    from mcld_core.export import export_onnx

    model, _, known = loaded
    if known["layout"] == "NCHW":
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    try:
        return export_onnx(model, path, example_input=images, metadata=known), images
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"no ONNX file of {method}, trained and saved: {error}") from error
