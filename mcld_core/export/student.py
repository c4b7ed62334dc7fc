"""Which model is exported, and by which framework's exporter; the only place that chooses it."""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from mcld_core.export.inputs import Arrays, ExportRequest, brief

WRAPPERS = {"DistributedDataParallel": "module", "DataParallel": "module",
            "OptimizedModule": "_orig_mod"}  # fmt: skip
"""Where torch's wrappers keep the module: of several processes or devices, or compiled."""


class Exporter(Protocol):
    """What each framework's module of this folder offers."""

    FRAMEWORK: str  # its name in reports and errors
    TOOL: str  # its exporter's
    PACKAGES: tuple[str, ...]  # that the exporter is made of

    def evaluation(self, student: Any) -> AbstractContextManager[Any]:
        """The student with batch norm and dropout in evaluation mode; its mode is restored."""

    def run(self, student: Any, request: ExportRequest, inputs: Arrays) -> Arrays:
        """The framework's own outputs, by name."""

    def write(self, student: Any, request: ExportRequest, output_names: Sequence[str]) -> Any:
        """Call the framework's exporter; return its graph, an ``onnx_ir.Model``."""


def resolve_student(student: Any) -> Any:
    """The student itself: never a teacher beside it.

    A distiller (anything with an attribute ``student``) and a checkpoint (a mapping with a key
    ``"student"``) stand for their student; a path is that of a Keras file or a SavedModel; torch's
    wrappers stand for the module in them.
    """
    if isinstance(student, (str, Path)):
        return load_saved(Path(student))
    student = _unwrapped(student)
    if isinstance(student, Mapping) and "student" in student:
        student = student["student"]
    elif hasattr(student, "student"):
        student = student.student
    return _unwrapped(student)


def _unwrapped(student: Any) -> Any:
    while type(student).__name__ in WRAPPERS:
        student = getattr(student, WRAPPERS[type(student).__name__])
    return student


def load_saved(path: Path) -> Any:
    """Load a file or folder that holds a model together with its weights."""
    if not path.exists():
        raise FileNotFoundError(f"export_onnx: student is the path {path}, which does not exist.")
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:  # Keras does not compare the checksums
                damaged = archive.testzip()
                if damaged:
                    raise ValueError(f"it is damaged, the checksum of {damaged} does not fit")
        if path.suffix in {".keras", ".h5"}:
            import keras

            return resolve_student(keras.saving.load_model(path, compile=False))
        if (path / "saved_model.pb").exists():
            import tensorflow as tf

            return tf.saved_model.load(str(path))
    except ImportError:
        raise
    except Exception as error:  # a dozen types for a damaged file
        raise ValueError(
            f"export_onnx: student is the path {path}, which cannot be read; got {brief(error)}; "
            "save the model again, or load it and pass it."
        ) from error
    raise ValueError(
        f"export_onnx: student is a path; got {path}, which is neither a .keras file nor a "
        "SavedModel folder; load the model and pass it."
    )


def find_exporter(student: Any) -> Exporter:
    """The module of the student's framework.

    Keras comes first: a Keras model is also a torch module or a TensorFlow object, by backend.
    A function without a framework's mark is JAX's.
    """
    loaded, framework = sys.modules, None
    if "keras" in loaded and isinstance(student, loaded["keras"].Model):
        framework = "keras"
    elif "torch" in loaded and isinstance(student, loaded["torch"].nn.Module):
        framework = "torch"
    elif "tensorflow" in loaded and isinstance(student, _kinds(loaded["tensorflow"])):
        framework = "tensorflow"
    elif callable(student) and "jax" in loaded:
        framework = "jax"
    if framework is None:
        raise TypeError(
            "export_onnx: student needs a torch module, a Keras model, a tf.function, tf.Module or "
            "SavedModel, a JAX function or a flax nnx module; got "
            f"{type(student).__module__}.{type(student).__name__}; wrap it in one of these."
        )
    return cast(Exporter, importlib.import_module(f"mcld_core.export.{framework}"))


def _kinds(tf: Any) -> tuple[type, ...]:
    return tf.__internal__.tracking.AutoTrackable, tf.types.experimental.Callable


def references(
    student: Any, exporter: Exporter, request: ExportRequest, inputs: Sequence[Arrays]
) -> list[Arrays]:
    """The student's own outputs under the names that the file shall have."""
    found = [run_student(student, exporter, request, feeds) for feeds in inputs]
    names = tuple(found[0]) if request.output_names is None else request.output_names
    if len(names) != len(found[0]) or len(set(names)) < len(names):
        raise ValueError(
            f"export_onnx: output_names needs {len(found[0])} names, one an output of the student "
            f"({list(found[0])}), all different; got {list(names)}."
        )
    for name, reference in ((n, a) for outputs in found for n, a in outputs.items()):
        if not np.isfinite(reference).all():
            raise ValueError(
                f"export_onnx: the student's own output {name!r} is not finite; nothing can be "
                "verified and no file was written. Give real rows as example_input."
            )
    return [dict(zip(names, outputs.values(), strict=True)) for outputs in found]


def run_student(student: Any, exporter: Exporter, request: ExportRequest, feeds: Arrays) -> Arrays:
    """The student's outputs; its own failure is told with the inputs that it had."""
    try:
        return exporter.run(student, request, feeds)
    except Exception as error:
        if str(error).startswith("export_onnx: "):
            raise
        given = {name: (str(array.dtype), array.shape) for name, array in feeds.items()}
        raise ValueError(
            f"export_onnx: the student itself fails on the inputs {given}; got {brief(error)}; "
            "give example_input, or dtype, as it takes them, and let it take a batch of any size."
        ) from error


def write_graph(
    student: Any, exporter: Exporter, request: ExportRequest, names: Sequence[str]
) -> Any:
    """The exporter's graph; its own failure is told in one line."""
    try:
        return exporter.write(student, request, names)
    except ImportError:
        raise
    except Exception as error:
        raise RuntimeError(
            f"export_onnx: the exporter of {exporter.FRAMEWORK} fails on the student; got "
            f"{brief(error)}; no file was written. Try another opset, rewrite the layer that it "
            "names, or see the known gaps in the guide on export."
        ) from error
