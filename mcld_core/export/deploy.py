"""Smaller ONNX files, each measured on an evaluation set before it appears; and latency."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcld_core.export.graph import (
    check_path,
    decode_metadata,
    drafted,
    encode_metadata,
    write_single,
)
from mcld_core.export.inputs import Arrays, require
from mcld_core.export.verify import find_logits, session

ROWS = 128
"""Rows at a time in evaluation and calibration."""

TYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}
"""NumPy's names of onnxruntime's types, where they differ."""


@dataclass(frozen=True)
class Deployed:
    """A smaller file beside the one it comes from.

    Args:
        path: the new file.
        kind: ``float16``, ``int8 dynamic`` or ``int8 static``.
        size: bytes of the new file.
        source_size: bytes of the file it comes from.
        accuracy: share of the evaluation set that the new file gets right.
        source_accuracy: the same for the file it comes from.
        output: the output whose arg max was compared with the labels.
    """

    path: Path
    kind: str
    size: int
    source_size: int
    accuracy: float
    source_accuracy: float
    output: str

    @property
    def accuracy_drop(self) -> float:
        """Accuracy lost, as a share of 1; below 0 where some was won."""
        return self.source_accuracy - self.accuracy

    def __str__(self) -> str:
        return (
            f"{self.path.name}: {self.kind}, {self.size / 1e3:,.0f} kB of "
            f"{self.source_size / 1e3:,.0f} kB, accuracy {100 * self.accuracy:.2f} % of "
            f"{100 * self.source_accuracy:.2f} % by {self.output}"
        )


@dataclass(frozen=True)
class Latency:
    """Seconds of one call for two files, measured in turns.

    Args:
        student: median of the first file.
        teacher: median of the second file.
        fastest_student: the fastest call of the first file.
        fastest_teacher: the fastest call of the second file.
        student_size: bytes of the first file.
        teacher_size: bytes of the second file.
    """

    student: float
    teacher: float
    fastest_student: float
    fastest_teacher: float
    student_size: int
    teacher_size: int

    @property
    def ratio(self) -> float:
        """The student's median as a share of the teacher's."""
        return self.student / self.teacher

    @property
    def fastest_ratio(self) -> float:
        """The same of the fastest calls, which other work on the machine disturbs less."""
        return self.fastest_student / self.fastest_teacher

    def __str__(self) -> str:
        return (
            f"student {self.student_size / 1e3:,.0f} kB, median {1e3 * self.student:.2f} ms "
            f"(fastest {1e3 * self.fastest_student:.2f}); teacher "
            f"{self.teacher_size / 1e3:,.0f} kB, median {1e3 * self.teacher:.2f} ms "
            f"(fastest {1e3 * self.fastest_teacher:.2f}); latency ratio {self.ratio:.2f}, of the "
            f"fastest {self.fastest_ratio:.2f}"
        )


def convert_float16(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    evaluation: tuple[Any, Any],
    max_accuracy_drop: float = 0.01,
    output: str | None = None,
) -> Deployed:
    """Write a file with float16 weights and arithmetic; inputs and outputs stay float32.

    Args:
        source: a file of `export_onnx`.
        path: the file to write.
        evaluation: ``(inputs, labels)``; inputs: an array (rows, ...), or a dict of them by
            input name; labels: (rows,) int.
        max_accuracy_drop: the largest loss of accuracy, as a share of 1, that is accepted.
        output: the name of the output that holds the logits. Default: the only one, else
            ``logits``, else the only one as wide as there are classes (by the metadata, else by
            the labels).

    Returns:
        Sizes and accuracies.

    Raises:
        ValueError: the accuracy falls by more, or the source is damaged; no file is written.
    """

    def convert(draft: Path) -> Any:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = onnx.load(str(source))
        return convert_float_to_float16(model, keep_io_types=True, force_fp16_initializers=True)

    files = Path(source), Path(path)
    return _deploy("float16", *files, convert, evaluation, max_accuracy_drop, output)


def quantize_int8(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    evaluation: tuple[Any, Any],
    calibration: Any = None,
    max_accuracy_drop: float = 0.01,
    output: str | None = None,
) -> Deployed:
    """Write a file with int8 weights, by onnxruntime's quantiser.

    With `calibration` the activations are int8 too, their ranges taken from it (static; for
    convolutions). Without, onnxruntime scales them at run time (dynamic; for transformers and
    dense layers; convolutions stay float32).

    Args:
        source: a file of `export_onnx`.
        path: the file to write.
        evaluation: ``(inputs, labels)`` as in `convert_float16`.
        calibration: rows like the inputs, some hundreds from the training set.
        max_accuracy_drop: the largest loss of accuracy, as a share of 1, that is accepted.
        output: as in `convert_float16`.

    Returns:
        Sizes and accuracies.

    Raises:
        ValueError: the accuracy falls by more, nothing could be quantised, or the source is
            damaged; no file is written.
    """
    kind = "int8 dynamic" if calibration is None else "int8 static"

    def convert(draft: Path) -> Any:
        import onnx
        from onnxruntime import quantization

        prepared = draft.with_suffix(".prepared.onnx")
        # Folds batch norm into the convolutions and infers the shapes that static ranges need.
        quantization.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        if calibration is None:
            quantization.quantize_dynamic(
                str(prepared),
                str(draft),
                op_types_to_quantize=["MatMul", "Gemm", "Gather"],
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
            )
        else:
            parts = _parts(_named(session(Path(source)), calibration))
            quantization.quantize_static(
                str(prepared),
                str(draft),
                SimpleNamespace(get_next=lambda: next(parts, None)),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                reduce_range=True,  # exact on processors without VNNI as well
            )
        model = onnx.load(str(draft))
        if all(weight.data_type != onnx.TensorProto.INT8 for weight in model.graph.initializer):
            raise ValueError(
                f"{kind}: nothing in the student can be quantised; got no weight of int8; no file "
                "was written. Static int8, with calibration rows, is the one for convolutions."
            )
        return model

    files = Path(source), Path(path)
    return _deploy(kind, *files, convert, evaluation, max_accuracy_drop, output)


def accuracy(
    path: str | os.PathLike[str], inputs: Any, labels: Any, output: str | None = None
) -> float:
    """The share of rows whose largest logit is the label's; `output` as in `convert_float16`."""
    return _measure(Path(path), inputs, labels, output)[0]


def _measure(path: Path, inputs: Any, labels: Any, output: str | None) -> tuple[float, str]:
    """The accuracy, and the output that it is of."""
    runner = session(path)
    feeds = _named(runner, inputs)
    wanted = np.asarray(labels)
    rows = len(next(iter(feeds.values())))
    if wanted.shape != (rows,) or not rows:
        raise ValueError(
            f"accuracy: evaluation needs one int label for each row; got {wanted.shape} labels "
            f"and {rows} rows."
        )
    names = decode_metadata(runner.get_modelmeta().custom_metadata_map).get("classes")
    classes = len(names) if names else int(wanted.max()) + 1
    output = find_logits(runner, output=output, classes=classes)
    found = [runner.run([output], part)[0].argmax(axis=-1) for part in _parts(feeds)]
    return float((np.concatenate(found) == wanted).mean()), output


def compare_latency(
    student: str | os.PathLike[str],
    teacher: str | os.PathLike[str],
    inputs: Any,
    *,
    repeats: int = 30,
    threads: int = 1,
) -> Latency:
    """Time two ONNX files on the same inputs, in turns, by onnxruntime on the CPU.

    Args:
        student: the first file.
        teacher: the second file; its inputs have the same names.
        inputs: one batch: an array, or a dict of them by input name.
        repeats: timed calls of each, after three to warm up. Default 30.
        threads: threads of onnxruntime. Default 1.

    Returns:
        Medians, fastest calls and sizes.
    """
    require("onnxruntime", purpose="compare_latency")
    paths = [Path(student), Path(teacher)]
    runners = [session(path, threads) for path in paths]
    feeds = [_named(runner, inputs) for runner in runners]
    times: list[list[float]] = [[], []]
    for turn in range(repeats + 3):
        for which in (0, 1):
            start = time.perf_counter()
            runners[which].run(None, feeds[which])
            if turn >= 3:
                times[which].append(time.perf_counter() - start)
    (first, second), (first_path, second_path) = times, paths
    return Latency(
        student=float(np.median(first)),
        teacher=float(np.median(second)),
        fastest_student=min(first),
        fastest_teacher=min(second),
        student_size=first_path.stat().st_size,
        teacher_size=second_path.stat().st_size,
    )


def _deploy(
    kind: str,
    source: Path,
    target: Path,
    convert: Callable[[Path], Any],
    evaluation: tuple[Any, Any],
    limit: float,
    output: str | None,
) -> Deployed:
    """Convert under a temporary name, measure, and only then rename.

    ``convert`` returns the model, and may write files of its own beside the draft.
    """
    require("onnx", "onnxruntime", purpose=kind)
    import onnx

    check_path(target, kind)
    before, output = _measure(source, *evaluation, output)
    with drafted(target) as draft:
        model = convert(draft)
        write_single(model, draft)
        after, _ = _measure(draft, *evaluation, output)
        if not before - after <= limit:
            raise ValueError(
                f"{kind}: max_accuracy_drop is {limit:.4f}; got {before - after:.4f} "
                f"({before:.4f} to {after:.4f}); no file was written. Calibrate on more rows, use "
                "another kind, or accept a larger drop."
            )
        known = {entry.key: entry.value for entry in onnx.load(str(source)).metadata_props}
        onnx.helper.set_model_props(
            model, known | encode_metadata({"precision": kind, "onnx_accuracy": after})
        )
        write_single(model, draft)
        sizes = draft.stat().st_size, source.stat().st_size
    return Deployed(target, kind, *sizes, after, before, output)


def _named(runner: Any, inputs: Any) -> Arrays:
    """One array by input name, in its type; the name of a single input comes from the file."""
    types = {value.name: value.type for value in runner.get_inputs()}
    if isinstance(inputs, Mapping):
        given = {str(name): array for name, array in inputs.items()}
    else:
        values = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
        given = dict(zip(types, values, strict=False)) if len(values) == len(types) else {}
    if set(given) != set(types):
        got = list(map(str, inputs)) if isinstance(inputs, Mapping) else len(values)
        raise ValueError(
            f"evaluation: inputs needs one array for each of {list(types)}; got {got}; pass a "
            "dict by name."
        )
    return {name: _typed(name, np.asarray(given[name]), kind) for name, kind in types.items()}


def _typed(name: str, array: NDArray[Any], kind: str) -> NDArray[Any]:
    """Floats of any width as the file wants them, and so ints; nothing else."""
    wanted = np.dtype(TYPES.get(kind, kind.removeprefix("tensor(").removesuffix(")")))
    if array.dtype.kind not in {"f": "f", "i": "iu", "u": "iu"}.get(wanted.kind, wanted.kind):
        raise ValueError(
            f"evaluation: the input {name!r} needs {wanted}; got {array.dtype}; give what the "
            "model was trained on."
        )
    return array.astype(wanted, copy=False)


def _parts(feeds: Arrays) -> Iterator[Arrays]:
    rows = len(next(iter(feeds.values())))
    for start in range(0, rows, ROWS):
        yield {name: array[start : start + ROWS] for name, array in feeds.items()}
