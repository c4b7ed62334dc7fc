"""The kinds of students, the inputs of each, and how an exported file is checked.

Each framework builds the same four: a CNN with batch norm and dropout, one with a depthwise
convolution, a transformer encoder for tokens with a mask, a 1-D convolution for series of any
length. Batch norm has statistics that are not those of the batch, so that train and eval differ.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

FAMILIES = ("cnn", "depthwise", "encoder", "series")
VOCABULARY, TOKENS, STEPS, SIZE = 50, 12, 24, 12
CLASSES = {"cnn": 10, "depthwise": 10, "encoder": 4, "series": 3}
TOLERANCE = 1e-5  # float32, sums of some hundred products


def token_rows(rows: int, length: int = TOKENS, dtype: str = "int32") -> dict[str, np.ndarray]:
    """Token ids and a mask of 1 (token) and 0 (padding); each row has a token."""
    generator = np.random.default_rng(rows)
    valid = generator.integers(1, length + 1, size=rows)
    mask = np.arange(length) < valid[:, None]
    tokens = generator.integers(1, VOCABULARY, size=(rows, length)) * mask
    return {"tokens": tokens.astype(dtype), "mask": mask.astype(dtype)}


def arguments(family: str, channels_last: bool, token_dtype: str = "int32") -> dict[str, Any]:
    """The arguments of `export_onnx` for one family."""
    if family == "encoder":
        time = {1: "time"}
        return {
            "example_input": tuple(token_rows(4, dtype=token_dtype).values()),
            "input_names": ["tokens", "mask"],
            "dynamic_axes": {"tokens": time, "mask": time},
        }
    if family == "series":
        axis = 1 if channels_last else 2
        shape = (STEPS, 4) if channels_last else (4, STEPS)
        return {"input_shape": shape, "dynamic_axes": {"input": {axis: "time"}}}
    return {"input_shape": (SIZE, SIZE, 3) if channels_last else (3, SIZE, SIZE)}


def feeds(
    family: str, channels_last: bool, token_dtype: str = "int32", rows: int = 5
) -> dict[str, np.ndarray]:
    """Inputs of a batch and a length that the export has not seen."""
    if family == "encoder":
        return token_rows(rows, TOKENS - 5, token_dtype)
    shape = list(arguments(family, channels_last)["input_shape"])
    if family == "series":
        shape[0 if channels_last else 1] = STEPS - 7
    values = np.random.default_rng(3).normal(0.5, 2.0, size=(rows, *shape))
    return {"input": values.astype(np.float32)}


def assert_exports(
    export: Callable[..., Any],
    student: Any,
    forward: Callable[..., Any],
    family: str,
    folder: Path,
    *,
    channels_last: bool,
    token_dtype: str = "int32",
) -> Path:
    """Export, then compare onnxruntime with the framework: its output, not the library's word."""
    path = folder / f"{family}.onnx"
    report = export(student, path, **arguments(family, channels_last, token_dtype))
    inputs = feeds(family, channels_last, token_dtype)
    expected = np.asarray(forward(*inputs.values()))
    runner = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (got,) = runner.run(["logits"], inputs)
    assert got.shape == (5, CLASSES[family]) == expected.shape
    assert np.ptp(expected, axis=0).min() > 1e-3, "the rows hardly differ: the test shows nothing"
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert report.max_relative_error <= TOLERANCE
    assert report.size == path.stat().st_size
    assert len(set(report.batch_sizes) - {4}) >= 2
    assert [entry.name for entry in runner.get_inputs()] == list(inputs)
    assert all(entry.shape[0] == "batch" for entry in runner.get_inputs())
    assert runner.get_outputs()[0].shape == ["batch", CLASSES[family]]
    assert [entry.name for entry in folder.iterdir()] == [path.name]
    return path


def assert_names_its_exporter(
    export: Callable[..., Any],
    student: Any,
    exporter: str,
    folder: Path,
    *,
    channels_last: bool,
) -> None:
    """Hide the exporter's package: the error says what to install, and nothing is written."""
    said = f"^export_onnx: packages are needed .*: {exporter}; run `pip install {exporter}`"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, exporter, None)
        with pytest.raises(ImportError, match=said):
            export(student, folder / "a.onnx", **arguments("cnn", channels_last))
    assert list(folder.iterdir()) == []
