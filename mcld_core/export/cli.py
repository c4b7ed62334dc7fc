"""``python -m mcld_core export --checkpoint … --out …``: a checkpoint's student as ONNX."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcld_core.export.packages import require

RECIPES = "examples.recipes.models.torch:build"
"""Makes the models of the examples; found from the repository's root."""

NOTES = ("normalization", "method", "teacher", "accuracy", "dataset", "center_crop")
"""What a torch checkpoint may say beside its model, for the metadata."""


def load_student(
    path: str | Path, *, model: str = RECIPES, load: str | None = None
) -> tuple[Any, tuple[int, ...] | None, dict[str, Any]]:
    """Build a student and load its weights from a checkpoint.

    A .keras file and a SavedModel hold their model. A torch checkpoint is a dict of tensors and
    plain values, read with ``weights_only=True``, so that no code in it runs: the weights under
    ``"student"`` or ``"model"``, the model's ``"name"``, ``"image_shape"`` (height, width,
    channels) and ``"classes"`` (names, or their number). `model` makes the module of these three;
    it comes from the caller, never from the file. Any other file is read by `load`.

    Args:
        path: the checkpoint.
        model: ``package.module:function``, called as ``function(name, image_shape, classes)``.
        load: instead, ``package.module:function``, called as ``function(path)``, which returns
            the student of any framework with its weights, or a tuple of the three that this
            function returns.

    Returns:
        The student, the shape of its input without the batch axis (None where nothing says it),
        and the metadata that the checkpoint holds.

    Raises:
        ValueError: a key is missing, the weights do not fit, or `model` is no function.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"export: the checkpoint {path} does not exist.")
    if load is not None:
        return _loaded(_find(load, "load")(path), load)
    if path.is_dir() or path.suffix == ".keras":
        from mcld_core.export.student import load_saved

        student = load_saved(path)
        shape: Any = getattr(student, "input_shape", None)  # that of Keras, with the batch axis
        known = isinstance(shape, tuple) and all(isinstance(size, int) for size in shape[1:])
        return student, shape[1:] if known else None, {}
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
    require("torch", "torch", "export")
    import torch

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a dozen types for a damaged file, or one with code in it
        raise ValueError(
            f"export: checkpoint needs a torch file of tensors and plain values; {path} cannot "
            f"be read: {error}; give load, a function that reads it."
        ) from error
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
            f"export: the weights of {path} do not fit the model {name!r}: {error}"
        ) from error
    metadata = {
        "model": name,
        "layout": "NCHW",
        "classes": None if isinstance(names, int) else names,
        **{key: checkpoint.get(key) for key in NOTES},
    }
    height, width, channels = shape
    return student, (channels, height, width), metadata


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
            f"{error}; run from the repository's root, or give your own function."
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        _export(options)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mcld_core export",
        description="Write a checkpoint's student as an ONNX file, verified before it appears.",
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="a torch checkpoint, .keras or SavedModel")
    add("--out", type=Path, required=True, help="the ONNX file to write")
    add(
        "--model",
        default=RECIPES,
        metavar="PACKAGE.MODULE:FUNCTION",
        help=f"makes the torch module of name, image shape and classes (default: {RECIPES})",
    )
    add(
        "--load",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="reads any other checkpoint: called with its path, returns the student, or (student, "
        "input shape, metadata)",
    )
    add("--input-shape", type=_shape, help="sizes without the batch axis, such as 3,32,32")
    add("--opset", type=int, help="ONNX operator set (default: the exporter's own)")
    add("--softmax", action="store_true", help="probabilities instead of logits")
    add("--tolerance", type=float, default=1e-4, help="largest relative error (default: 1e-4)")
    add("--class-names", type=Path, metavar="FILE", help="names of the classes, one a line")
    add("--mean", type=_numbers, help="of the pixels in 0..1, by channel, such as 0.51,0.49,0.44")
    add("--std", type=_numbers, help="of the pixels in 0..1, by channel")
    add("--evaluation", type=Path, metavar="NPZ", help="arrays inputs and labels, and calibration")
    add("--float16", action="store_true", help="also write OUT.float16.onnx")
    add("--int8", choices=("dynamic", "static"), help="also write OUT.int8.onnx")
    add("--max-accuracy-drop", type=float, default=0.01, help="as a share of 1 (default: 0.01)")
    return parser


def _export(options: argparse.Namespace) -> None:
    from mcld_core.export import convert_float16, export_onnx, quantize_int8

    smaller = options.float16 or options.int8
    if smaller and options.evaluation is None:
        raise ValueError(
            "export: --float16 and --int8 need --evaluation, on which to measure them."
        )
    student, shape, metadata = load_student(
        options.checkpoint, model=options.model, load=options.load
    )
    if options.class_names is not None:
        metadata["classes"] = _lines(options.class_names)
    given = {"mean": options.mean, "std": options.std}
    if any(given.values()):
        known = {"mean": [0.0], "std": [1.0]} | (metadata.get("normalization") or {})
        metadata["normalization"] = known | {key: part for key, part in given.items() if part}
    shape = options.input_shape or shape
    if shape is None:
        raise ValueError("export: --input-shape is needed where the checkpoint does not say it.")
    rows = _rows(options, tuple(shape)) if smaller else {}  # read before anything is written
    report = export_onnx(
        student,
        options.out,
        input_shape=shape,
        opset=options.opset,
        softmax=options.softmax,
        tolerance=options.tolerance,
        metadata=metadata,
    )
    print(report)
    if not smaller:
        return
    limits: dict[str, Any] = {
        "evaluation": (rows["inputs"], rows["labels"]),
        "max_accuracy_drop": options.max_accuracy_drop,
    }
    stem = options.out.name.removesuffix(".onnx")
    if options.float16:
        target = options.out.with_name(f"{stem}.float16.onnx")
        print(convert_float16(options.out, target, **limits))
    if options.int8:
        target = options.out.with_name(f"{stem}.int8.onnx")
        print(quantize_int8(options.out, target, calibration=rows.get("calibration"), **limits))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # -sig: some editors' first bytes
    except UnicodeDecodeError as error:
        raise ValueError(f"export: --class-names needs text in UTF-8; {path}: {error}.") from error
    return text.removesuffix("\n").split("\n")  # splitlines ends a line at others, too


def _rows(options: argparse.Namespace, shape: tuple[Any, ...]) -> dict[str, Any]:
    """The arrays of ``--evaluation``, checked: inputs, labels and, for static int8, calibration."""
    path = options.evaluation
    wanted: dict[str, tuple[str, tuple[Any, ...]]] = {"inputs": ("f", shape), "labels": ("iu", ())}
    if options.int8 == "static":
        wanted["calibration"] = "f", shape
    try:
        with path.open("rb") as file, np.load(file) as data:
            found = sorted(data)
            rows = {name: data[name] for name in wanted if name in found}
    except Exception as error:  # half a dozen types for a damaged file
        raise ValueError(
            f"export: --evaluation needs an NPZ file of plain arrays; {path} cannot be read: "
            f"{error}."
        ) from error
    if len(rows) < len(wanted):
        raise ValueError(
            f"export: --evaluation needs the arrays {list(wanted)}; got {found} in {path}."
        )
    for name, (kinds, sizes) in wanted.items():
        array = rows[name]
        if array.dtype.kind not in kinds or array.shape[1:] != sizes or not array.size:
            kind = "float" if "f" in kinds else "int"
            raise ValueError(
                f"export: --evaluation needs {name} of {kind} and the shape "
                f"{('rows', *sizes)}; got {array.dtype} and {array.shape} in {path}."
            )
    if len(rows["labels"]) != len(rows["inputs"]):
        raise ValueError(
            f"export: --evaluation needs a label for each row of inputs; got "
            f"{len(rows['labels'])} and {len(rows['inputs'])} in {path}."
        )
    return rows


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(","))


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]
