"""Which model is exported, and by which framework's exporter; the only place that chooses it."""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mcld_core.export.inputs import Arrays, ExportRequest, brief, require

NOTES = ("normalization", "method", "teacher", "accuracy", "dataset", "center_crop")
"""What a torch checkpoint may say beside its model, for the metadata."""


WRAPPERS = {"DistributedDataParallel": "module", "DataParallel": "module",
            "OptimizedModule": "_orig_mod"}  # fmt: skip
"""Where torch's wrappers keep the module: of several processes or devices, or compiled."""


class Exporter(Protocol):
    """What each ``backends/<framework>/export.py`` offers."""

    PACKAGES: tuple[str, ...]  # that its exporter is made of

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
    if isinstance(student, Mapping):
        raise TypeError(
            "export_onnx: student needs a model; got weights without the model they belong to; "
            "build it and load them into it (load_student of this module does)."
        )
    return _unwrapped(student)


def _unwrapped(student: Any) -> Any:
    while type(student).__name__ in WRAPPERS:
        student = getattr(student, WRAPPERS[type(student).__name__])
    return student


def check_archive(path: Path) -> None:
    """Compare the checksums of a zip archive, which torch.load and Keras do not; others pass."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # half a dozen types, by where the damage is
        damaged = brief(error)
    if damaged is not None:
        raise ValueError(
            f"export: {path} cannot be read: it is damaged, the checksum of a part does not fit "
            f"({damaged}); copy it again."
        )


def load_saved(path: Path) -> Any:
    """Load a file or folder that holds a model together with its weights."""
    if not path.exists():
        raise FileNotFoundError(f"export_onnx: student is the path {path}, which does not exist.")
    try:
        if path.suffix == ".keras":
            check_archive(path)
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
            from mcld_core.export import keras as keras_export

            return f"keras on {keras.backend.backend()}", keras_export
    if "torch" in sys.modules:
        import torch

        if isinstance(student, torch.nn.Module):
            from mcld_core.export import torch as torch_export

            return "torch", torch_export
    if "tensorflow" in sys.modules:
        import tensorflow as tf

        kinds = (tf.__internal__.tracking.AutoTrackable, tf.types.experimental.Callable)
        if isinstance(student, kinds):
            from mcld_core.export import tensorflow as tensorflow_export

            return "tensorflow", tensorflow_export
    if callable(student) and "jax" in sys.modules:
        from mcld_core.export import jax as jax_export

        return "jax", jax_export
    raise TypeError(
        "export_onnx: student needs a torch module, a Keras model, a tf.function, tf.Module or "
        "SavedModel, a JAX function or a flax nnx module; got "
        f"{type(student).__module__}.{type(student).__name__}; wrap it in one of these."
    )


def references(
    student: Any, exporter: Exporter, request: ExportRequest, inputs: Sequence[Arrays]
) -> list[Arrays]:
    """The student's own outputs under the names that the file shall have."""
    found = [run_student(student, exporter, request, feeds) for feeds in inputs]
    names = request.output_names or tuple(found[0])
    if len(names) != len(found[0]):
        raise ValueError(
            f"export_onnx: output_names needs {len(found[0])} names, one an output of the student "
            f"({list(found[0])}); got {list(names)}."
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
    student: Any,
    exporter: Exporter,
    framework: str,
    request: ExportRequest,
    names: Sequence[str],
    draft: Path,
) -> str:
    try:
        return exporter.write(student, request, names, draft)
    except ImportError:
        raise
    except Exception as error:
        raise RuntimeError(
            f"export_onnx: the exporter of {framework} fails on the student; got {brief(error)}; "
            "no file was written. Try another opset, rewrite the layer that it names, or see the "
            "known gaps in the guide on export."
        ) from error


def load_student(
    path: str | Path, *, model: str | None = None, load: str | None = None
) -> tuple[Any, tuple[int, ...] | None, dict[str, Any]]:
    """Build a student and load its weights from a checkpoint.

    A .keras file and a SavedModel hold their model. A torch checkpoint is a dict of tensors and
    plain values, read with ``weights_only=True``, so that no code in it runs: the weights under
    ``"student"`` or ``"model"``, the model's ``"name"``, ``"image_shape"`` (height, width,
    channels) and ``"classes"`` (names, or their number). `model` makes the module of these three;
    it comes from the caller, never from the file. Any other file is read by `load`.

    Args:
        path: the checkpoint.
        model: ``package.module:function``, called as ``function(name, image_shape, classes)``;
            needed for a torch checkpoint.
        load: instead, ``package.module:function``, called as ``function(path)``, which returns
            the student of any framework with its weights, or what this function returns.

    Returns:
        The student, the shape of its input without the batch axis (None where nothing says it),
        and the metadata that the checkpoint holds.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"export: the checkpoint {path} does not exist.")
    if load is not None:
        return _loaded(_find(load, "load")(path), load)
    if path.is_dir() or path.suffix == ".keras":
        student = load_saved(path)
        shape: Any = getattr(student, "input_shape", None)  # that of Keras, with the batch axis
        known = isinstance(shape, tuple) and all(isinstance(size, int) for size in shape[1:])
        return student, shape[1:] if known else None, {}
    if model is None:
        raise ValueError(
            f"export: model or load is needed for {path}; got neither; give model, "
            "package.module:function, which makes the module of a torch checkpoint, or load, which "
            "reads any other file."
        )
    return _from_torch(path, model)


def _loaded(found: Any, load: str) -> tuple[Any, tuple[int, ...] | None, dict[str, Any]]:
    """What a function of `load` returned: the student alone, or with its shape and metadata."""
    if not isinstance(found, tuple):
        return found, None, {}
    if len(found) != 3:
        raise ValueError(
            f"export: load needs the student, or (student, input shape, metadata); {load} "
            f"returned a tuple of {len(found)}."
        )
    student, shape, metadata = found
    return student, shape, dict(metadata)


def _from_torch(path: Path, model: str) -> tuple[Any, tuple[int, ...], dict[str, Any]]:
    checkpoint = _read_torch(path)
    if not isinstance(checkpoint, Mapping):
        raise ValueError(
            f"export: checkpoint needs a dict of tensors and plain values; {path} holds a "
            f"{type(checkpoint).__name__}; give load, a function that reads it."
        )
    needed = ("name", "image_shape", "classes")
    weights = checkpoint.get("student", checkpoint.get("model"))
    missing = [key for key in needed if key not in checkpoint]
    if missing or not isinstance(weights, Mapping):
        raise ValueError(
            f"export: checkpoint needs the weights under 'student' or 'model', and {needed}; got "
            f"the keys {sorted(map(str, checkpoint))}; save these beside the weights."
        )
    name, shape, names = _described(path, *(checkpoint[key] for key in needed))
    count = names if isinstance(names, int) else len(names)
    student = _find(model, "model")(name, shape, count)
    try:
        student.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"export: the weights of {path} do not fit the model {name!r}; got {brief(error)}; "
            "give the model that was trained."
        ) from error
    metadata = {
        "model": name,
        "layout": "NCHW",
        "classes": None if isinstance(names, int) else names,
        **{key: checkpoint.get(key) for key in NOTES},
    }
    height, width, channels = shape
    return student, (channels, height, width), metadata


def _read_torch(path: Path) -> Any:
    """Read a file of torch.save without running code in it, every byte of it checked."""
    require("torch", purpose="export")
    import torch

    check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # half a dozen types; their advice is to run the file's code
        raise ValueError(
            f"export: checkpoint needs a file of torch.save with tensors and plain values; {path} "
            "cannot be read: it is damaged, or holds something else, such as a whole module; copy "
            "it again, save the module's state_dict, or give load, a function that reads it."
        ) from error


def _described(
    path: Path, name: Any, shape: Any, classes: Any
) -> tuple[str, tuple[int, int, int], int | list[str]]:
    """The model's name, (height, width, channels), and the names of the classes or their number."""
    try:
        height, width, channels = map(int, shape)
        names = classes if isinstance(classes, int) else list(map(str, classes))
    except (TypeError, ValueError):
        names = 0
    if not isinstance(name, str) or isinstance(classes, str) or not names:
        raise ValueError(
            "export: checkpoint needs a text as 'name', three sizes as 'image_shape' and names or "
            f"their number as 'classes'; got {name!r}, {shape!r} and {classes!r} in {path}; save "
            "these beside the weights."
        )
    return name, (height, width, channels), names


def _find(name: str, argument: str) -> Any:
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"export: {argument} needs package.module:function; {name!r} cannot be imported: "
            f"{error}; run where it can be imported, or give another function."
        ) from error
