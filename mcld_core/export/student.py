"""Which model is exported, and by which framework's exporter."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from mcld_core.export.inputs import Arrays, ExportRequest


class Exporter(Protocol):
    """What each ``backends/<framework>/export.py`` offers."""

    def evaluation(self, student: Any) -> AbstractContextManager[Any]:
        """The student with batch norm and dropout in evaluation mode; its mode is restored."""

    def run(self, student: Any, request: ExportRequest, inputs: Arrays) -> Arrays:
        """The framework's own outputs, by name."""

    def write(
        self, student: Any, request: ExportRequest, output_names: Sequence[str], path: Path
    ) -> str:
        """Call the framework's exporter; return its name."""


def resolve_student(student: Any) -> Any:
    """The student itself: never a teacher beside it.

    A distiller (anything with an attribute ``student``) and a checkpoint (a mapping with a key
    ``"student"``) stand for their student; a path is that of a Keras file or a SavedModel.
    """
    if isinstance(student, (str, Path)):
        return load_saved(Path(student))
    if isinstance(student, Mapping) and "student" in student:
        student = student["student"]
    elif hasattr(student, "student"):
        student = student.student
    if isinstance(student, Mapping):
        raise TypeError(
            "export_onnx: student needs a model; got weights without the model they belong to; "
            "build it and load them into it (mcld_core.export.cli.load_student does)."
        )
    return student


def load_saved(path: Path) -> Any:
    """Load a file or folder that holds a model together with its weights.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another kind, or cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"export_onnx: student is the path {path}, which does not exist.")
    try:
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
            f"export_onnx: student is the path {path}, which cannot be read: "
            f"{type(error).__name__}: {error}; save the model again, or load it and pass it."
        ) from error
    raise ValueError(
        f"export_onnx: student is a path; got {path}, which is neither a .keras file nor a "
        "SavedModel folder; load the model and pass it, or use `python -m mcld_core export`."
    )


def find_exporter(student: Any) -> tuple[str, Exporter]:
    """The framework's name and its export module.

    Keras comes first: a Keras model is also a torch module or a TensorFlow object, by backend.
    A function without a framework's mark is JAX's.
    """
    if "keras" in sys.modules:
        import keras

        if isinstance(student, keras.Model):
            from mcld_core.backends.keras import export as keras_export

            return f"keras on {keras.backend.backend()}", keras_export
    if "torch" in sys.modules:
        import torch

        if isinstance(student, torch.nn.Module):
            from mcld_core.backends.torch import export as torch_export

            return "torch", torch_export
    if "tensorflow" in sys.modules:
        import tensorflow as tf

        kinds = (tf.__internal__.tracking.AutoTrackable, tf.types.experimental.Callable)
        if isinstance(student, kinds):
            from mcld_core.backends.tensorflow import export as tensorflow_export

            return "tensorflow", tensorflow_export
    if callable(student) and "jax" in sys.modules:
        from mcld_core.backends.jax import export as jax_export

        return "jax", jax_export
    raise TypeError(
        "export_onnx: student needs a torch module, a Keras model, a tf.function, tf.Module or "
        "SavedModel, a JAX function or a flax nnx module; got "
        f"{type(student).__module__}.{type(student).__name__}; wrap it in one of these."
    )


def named_outputs(result: Any) -> dict[str, Any]:
    """A student's outputs by name: one is ``logits``, a tuple ``output_0``, a dict has its keys."""
    if hasattr(result, "logits"):  # the model outputs of Hugging Face
        return {"logits": result.logits}
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items()}
    if isinstance(result, (tuple, list)):
        if len(result) == 1:
            return {"logits": result[0]}
        return {f"output_{i}": value for i, value in enumerate(result)}
    return {"logits": result}


def call(student: Any, request: ExportRequest, values: Sequence[Any]) -> dict[str, Any]:
    """Call the student with one value for each input, by position or by name."""
    if request.by_keyword:
        return named_outputs(student(**dict(zip(request.example, values, strict=True))))
    return named_outputs(student(*values))
