"""Which model is exported, and by which framework's exporter; the only place that chooses it."""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcld_core.arguments import to_numpy
from mcld_core.export.inputs import (
    EXPORT,
    NUMBERS,
    Arrays,
    ExportRequest,
    call,
    quiet,
    rows_of,
    told,
)

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
    unread = f"student is the path {path}, which cannot be read"
    with told(unread, "Save the model again, or load it and pass it"):
        damaged = zipfile.ZipFile(path).testzip() if path.suffix == ".keras" else None
        if damaged:  # Keras does not compare the checksums
            raise ValueError(f"it is damaged, the checksum of {damaged} does not fit")
        if path.suffix in {".keras", ".h5"}:
            import keras

            return resolve_student(keras.saving.load_model(path, compile=False))
        if (path / "saved_model.pb").exists():
            import tensorflow as tf

            return tf.saved_model.load(str(path))
    came = f"{path}, which is neither a .keras file nor a SavedModel folder"
    raise EXPORT.wrong("student is a path", came, "Load the model and pass it, or use --load")


def find_exporter(student: Any) -> Any:
    """The module of the student's framework.

    Each has ``FRAMEWORK`` and ``TOOL`` (names for reports and errors), ``PACKAGES`` (that its
    exporter is made of), ``inference(student)`` (what is called: batch norm and dropout in
    evaluation mode, the student's own mode as it was), ``as_tensor(array)``, and ``write(inference,
    request, output_names)``, which gives the exporter's graph, an ``onnx_ir.Model``.

    Its class says which: Keras comes first, for a Keras model is also a torch module or a
    TensorFlow object, by backend. A function without a framework's mark is JAX's.
    """
    homes = {kind.__module__.partition(".")[0] for kind in type(student).__mro__}
    framework = next((name for name in ("keras", "torch", "tensorflow") if name in homes), "jax")
    known = framework == "tensorflow" or callable(student)  # a SavedModel may have signatures alone
    if not known or framework not in sys.modules:
        needs = "student needs a torch module, a Keras model, a tf.function, tf.Module or"
        needs += " SavedModel, a JAX function or a flax nnx module"
        came = f"{type(student).__module__}.{type(student).__name__}"
        raise EXPORT.wrong_type(needs, came, "Wrap it in one of these")
    return importlib.import_module(f"mcld_core.export.{framework}")


def references(
    student: Any, exporter: Any, request: ExportRequest, inputs: Sequence[Arrays]
) -> list[Arrays]:
    """The student's own outputs under the names that the file shall have."""
    found = [_outputs(student, exporter, request, feeds) for feeds in inputs]
    names = tuple(found[0]) if request.output_names is None else request.output_names
    taken = {*names, *request.example}
    if len(names) != len(found[0]) or len(taken) < len(names) + len(request.example):
        needs = f"output_names needs {len(found[0])} names, one an output of the student"
        needs += f" ({list(found[0])}), all different and none an input's"
        raise EXPORT.wrong(needs, list(names))
    return [dict(zip(names, outputs.values(), strict=True)) for outputs in found]


def _outputs(student: Any, exporter: Any, request: ExportRequest, feeds: Arrays) -> Arrays:
    """The student's outputs: each a tensor of finite numbers whose first axis is the batch."""
    given = {name: (str(array.dtype), array.shape) for name, array in feeds.items()}
    cure = "Give example_input, or dtype, as it takes them, and let it take a batch of any size"
    with told(f"the student itself fails on the inputs {given}", cure):
        outputs = call(student, request, [exporter.as_tensor(x.copy()) for x in feeds.values()])
    found, rows = {}, rows_of(feeds)
    for name, value in outputs.items():
        shape, dtype = tuple(getattr(value, "shape", ())), getattr(value, "dtype", "no dtype")
        if shape[:1] != (rows,) or not NUMBERS.search(str(dtype)):
            needs = "the student needs to give tensors, one or a tuple or a dict of them, of a type"
            needs += " that NumPy holds and with the batch as their first axis"
            came = f"{name!r}, a {type(value).__name__} of {dtype} {shape}, for a batch of {rows}"
            cure = "Wrap the student so that it gives the logits alone, in float32"
            raise EXPORT.wrong(needs, came, cure)
        found[name] = to_numpy(value)
        if not np.isfinite(found[name]).all():
            needs = f"the student's own output {name!r} is not finite"
            raise EXPORT.wrong(needs, "NaN or infinity", "Give real rows as example_input")
    return found


def write_graph(student: Any, exporter: Any, request: ExportRequest, names: Sequence[str]) -> Any:
    """The exporter's graph."""
    cure = "Try another opset, rewrite the layer that it names, or see the guide's known gaps"
    needs = f"the exporter of {exporter.FRAMEWORK} fails on the student"
    with told(needs, cure, RuntimeError), quiet():
        graph = exporter.write(student, request, names)
    return graph
