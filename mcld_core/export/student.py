"""Which model is exported, and by which framework's exporter; the only place that chooses it."""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcld_core.export.inputs import EXPORT, Arrays, ExportRequest, brief, outputs_of, refused

WRAPPERS = {"DistributedDataParallel": "module", "DataParallel": "module",
            "OptimizedModule": "_orig_mod"}  # fmt: skip
"""Where torch's wrappers keep the module: of several processes or devices, or compiled."""


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
        needs = f"student is the path {path}, which cannot be read"
        cure = "Save the model again, or load it and pass it"
        raise EXPORT.wrong(needs, brief(error), cure) from error
    came = f"{path}, which is neither a .keras file nor a SavedModel folder"
    raise EXPORT.wrong("student is a path", came, "Load the model and pass it")


def find_exporter(student: Any) -> Any:
    """The module of the student's framework.

    Each has ``FRAMEWORK`` and ``TOOL`` (names for reports and errors), ``PACKAGES`` (that its
    exporter is made of), ``evaluation(student)`` (a context with the student as it is called, batch
    norm and dropout in evaluation mode), ``as_tensor(array)``, and ``write(student, request,
    output_names)``, which gives the exporter's graph, an ``onnx_ir.Model``.

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
        needs = "student needs a torch module, a Keras model, a tf.function, tf.Module or"
        needs += " SavedModel, a JAX function or a flax nnx module"
        came = f"{type(student).__module__}.{type(student).__name__}"
        raise EXPORT.wrong_type(needs, came, "Wrap it in one of these")
    return importlib.import_module(f"mcld_core.export.{framework}")


def _kinds(tf: Any) -> tuple[type, ...]:
    return tf.__internal__.tracking.AutoTrackable, tf.types.experimental.Callable


def references(
    run: Callable[[Arrays], Arrays], wanted: tuple[str, ...] | None, inputs: Sequence[Arrays]
) -> list[Arrays]:
    """The student's own outputs under the names that the file shall have."""
    found = [run(feeds) for feeds in inputs]
    names = tuple(found[0]) if wanted is None else wanted
    if len(names) != len(found[0]) or len(set(names)) < len(names):
        needs = f"output_names needs {len(found[0])} names, one an output of the student"
        raise EXPORT.wrong(f"{needs} ({list(found[0])}), all different", list(names))
    for name, reference in ((n, a) for outputs in found for n, a in outputs.items()):
        if not np.isfinite(reference).all():
            needs = f"the student's own output {name!r} is not finite"
            raise refused(needs, "NaN or infinity", "Give real rows as example_input")
    return [dict(zip(names, outputs.values(), strict=True)) for outputs in found]


def run_student(student: Any, exporter: Any, request: ExportRequest, feeds: Arrays) -> Arrays:
    """The student's outputs; its own failure is told with the inputs that it had."""
    try:
        return outputs_of(student, request, [*map(exporter.as_tensor, feeds.values())])
    except Exception as error:
        if str(error).startswith("export_onnx: "):
            raise
        given = {name: (str(array.dtype), array.shape) for name, array in feeds.items()}
        cure = "Give example_input, or dtype, as it takes them, and let it take a batch of any size"
        needs = f"the student itself fails on the inputs {given}"
        raise EXPORT.wrong(needs, brief(error), cure) from error


def write_graph(student: Any, exporter: Any, request: ExportRequest, names: Sequence[str]) -> Any:
    """The exporter's graph; its own failure is told in one line."""
    try:
        return exporter.write(student, request, names)
    except ImportError:
        raise
    except Exception as error:
        needs = f"the exporter of {exporter.FRAMEWORK} fails on the student"
        cure = "Try another opset, rewrite the layer that it names, or see the guide's known gaps"
        raise RuntimeError(*refused(needs, brief(error), cure).args) from error
