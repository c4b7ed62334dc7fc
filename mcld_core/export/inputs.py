"""What to export: the inputs' names, shapes, types and dynamic axes, and inputs to check with.

The ground of this folder: the frameworks' modules import it and nothing above it.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcld_core.arguments import Checks, plain_number, to_numpy

EXPORT = Checks("export_onnx")

Arrays = dict[str, NDArray[Any]]
"""One array for each input or output, by name."""

NUMBERS = re.compile(r"\b(float(16|32|64)|u?int(8|16|32|64)|bool)\b")
"""Types that NumPy, onnxruntime and every framework hold, in any framework's spelling."""

BATCH_SIZES = (1, 3, 8)
"""Batches to check with; the one that the exporter has seen is left out."""


@dataclass(frozen=True)
class ExportRequest:
    """The inputs of one export: an array for each, in the order of the call, batch axis first."""

    example: Arrays
    by_keyword: bool  # whether the student takes its inputs by name instead of by position
    dynamic_axes: dict[str, dict[int, str]]  # of each input the free axes, and their names
    output_names: tuple[str, ...] | None  # None: those of the student
    opset: int | None  # None: the exporter's own choice

    @property
    def free_batch(self) -> bool:
        """Whether the batch may have any size."""
        return any(0 in axes for axes in self.dynamic_axes.values())

    def symbolic_shape(self, name: str) -> tuple[int | str, ...]:
        """The shape of an input, dynamic axes by name."""
        axes = self.dynamic_axes[name]
        return tuple(axes.get(axis, size) for axis, size in enumerate(self.example[name].shape))

    def check_inputs(self) -> list[Arrays]:
        """Inputs that look like the example, at other sizes than the exporter has seen.

        Batches of two or more sizes that are not the example's; the other dynamic axes at the
        example's size, then at three quarters, then at half of it (the example is their largest
        size). Without a dynamic batch, two other inputs of the example's size. Whole rows are
        drawn, so that tokens and masks stay what they were; floats are multiplied by noise below
        1, so that they stay where a root, a logarithm or an arc sine of the example is defined.
        """
        batch, generator, found = rows_of(self.example), np.random.default_rng(0), []
        sizes = [size for size in BATCH_SIZES if size != batch] if self.free_batch else [batch] * 2
        for step, rows in enumerate(sizes):
            drawn, feeds = generator.integers(0, batch, size=rows), {}
            for name, array in self.example.items():
                varied = array[drawn]
                for axis in self.dynamic_axes[name].keys() - {0}:
                    size = max(1, array.shape[axis] * (4 - step) // 4)
                    varied = varied.take(range(size), axis)
                if np.issubdtype(array.dtype, np.floating):
                    varied = varied if array.any() else np.ones_like(varied)
                    varied = varied * generator.uniform(0.5, 1.0, varied.shape)
                feeds[name] = np.ascontiguousarray(varied.astype(array.dtype))
            found.append(feeds)
        return found

    def alone(self, arrays: Arrays) -> list[Arrays]:
        """Some rows of a batch, each alone; where its size is fixed, in the company of copies."""
        batch = rows_of(arrays)
        copies = 1 if self.free_batch else batch
        return [
            {name: np.repeat(array[[row]], copies, axis=0) for name, array in arrays.items()}
            for row in (0, batch // 2, batch - 1)
        ]


def rows_of(feeds: Arrays) -> int:
    """How many rows each input has."""
    return int(next(iter(feeds.values())).shape[0])


def read_inputs(
    input_shape: Any, example_input: Any, dtype: Any, input_names: Sequence[str] | str | None
) -> tuple[Arrays, bool]:
    """An array for each input, by name, and whether the student takes them by name."""
    if (input_shape is None) == (example_input is None):
        cure = "Give the shape without the batch axis, such as (3, 32, 32), or arrays with it"
        came = "neither" if input_shape is None else "both"
        raise EXPORT.wrong("exactly one of input_shape and example_input is needed", came, cure)
    given, several = example_input if input_shape is None else input_shape, (tuple, list)
    by_keyword = isinstance(given, Mapping)
    if input_shape is not None and isinstance(given, several):  # a shape is a tuple itself
        given = given if any(isinstance(size, several) for size in given) else [given]
    found = by_name(given, "input", "input")
    if not found:
        raise EXPORT.wrong("input_shape or example_input needs one input or more", given)
    if input_shape is not None:
        found = {n: _example(x, dtype, seed) for seed, (n, x) in enumerate(found.items())}
    names = tuple(found) if input_names is None else names_of(input_names)
    if len(set(names)) != len(found) or (by_keyword and names != tuple(found)):
        needs = f"input_names needs {len(found)} different names, one an input (the keys, where the"
        raise EXPORT.wrong(f"{needs} inputs have any: {list(found)})", list(names))
    example = dict(zip(names, map(_as_numpy, names, found.values()), strict=True))
    if len({array.shape[0] for array in example.values()}) > 1:
        sizes = {name: array.shape for name, array in example.items()}
        needs = "example_input needs the same number of rows in each input"
        raise EXPORT.wrong(needs, sizes, "The first axis is the batch")
    return example, by_keyword


def by_name(found: Any, one: str, prefix: str) -> dict[str, Any]:
    """Values by name: those of a dict have its keys, one has the name, several are numbered."""
    if isinstance(found, Mapping):
        return {str(name): value for name, value in found.items()}
    values = list(found) if isinstance(found, (tuple, list)) else [found]
    if len(values) == 1:
        return {one: values[0]}
    return {f"{prefix}_{i}": value for i, value in enumerate(values)}


def names_of(given: Sequence[str] | str) -> tuple[str, ...]:
    """Names as a tuple; a text is one name."""
    return (given,) if isinstance(given, str) else tuple(given)


def _example(shape: Any, dtype: Any, seed: int) -> NDArray[Any]:
    """Rows that look like signals: noise, and its sums along every axis."""
    sizes = tuple(map(plain_number, shape)) if isinstance(shape, (tuple, list)) else (None,)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        cure = "Give the largest size of a dynamic axis and name it in dynamic_axes"
        needs = "input_shape needs a tuple of sizes above 0, without the batch axis"
        raise EXPORT.wrong(needs, repr(shape), cure)
    with told("dtype needs a name that NumPy knows", "Give 'float32'"):
        kind = np.dtype(dtype)
    if not np.issubdtype(kind, np.floating):
        cure = "Give some real rows, whose values show the range (of token ids, of a mask)"
        needs = f"inputs of dtype {kind} need example_input"
        raise EXPORT.wrong(needs, f"input_shape={shape}", cure)
    noise = np.random.default_rng(seed).standard_normal((4, *sizes))
    rows = noise + sum(noise.cumsum(axis) for axis in range(1, noise.ndim))
    return np.asarray(rows / rows.std(), dtype=kind)


def _as_numpy(name: str, value: Any) -> NDArray[Any]:
    if not hasattr(value, "dtype"):
        value = np.asarray(value)
    if not value.shape or value.shape[0] == 0 or not NUMBERS.search(str(value.dtype)):
        came = f"{name} of shape {tuple(value.shape)} and dtype {value.dtype}"
        cure = "Give it with the batch axis first, in a type that NumPy holds"
        needs = "example_input needs arrays of numbers, of one row or more"
        raise EXPORT.wrong(needs, came, cure)
    return np.ascontiguousarray(to_numpy(value))


def free_axes(
    example: Arrays, dynamic_batch: bool, wanted: Mapping[str, Mapping[int, str]]
) -> dict[str, dict[int, str]]:
    """For each input the axes of free size and their names."""
    axes: dict[str, dict[int, str]] = {n: {0: "batch"} if dynamic_batch else {} for n in example}
    for name, named in wanted.items():
        shape = example[name].shape if name in example else ()
        is_named = isinstance(named, Mapping) and name in example
        if not is_named or not all(a in range(1, len(shape)) and shape[a] > 1 for a in named):
            needs = f"dynamic_axes needs, for some of the inputs {list(example)}, names of axes"
            cure = f"Write {{{next(iter(example))!r}: {{1: 'time'}}}}"
            came = f"{ {name: named} }, where the shape is {shape}"
            needs += " from 1 (0 is the batch), of a size of 2 or more"
            raise EXPORT.wrong(needs, came, cure)
        axes[name] |= named
    return axes


def call(student: Any, request: ExportRequest, values: Sequence[Any]) -> dict[str, Any]:
    """Call the student with a value for each input; its outputs by name: one is ``logits``."""
    if request.by_keyword:
        return named_outputs(student(**dict(zip(request.example, values, strict=True))))
    return named_outputs(student(*values))


def named_outputs(result: Any) -> dict[str, Any]:
    """A student's outputs by name; of the model outputs of Hugging Face the logits alone."""
    return by_name(getattr(result, "logits", result), "logits", "output")


def require(*packages: str) -> None:
    """Raise an ImportError that names all that are missing, and how to install them."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        needs = f"packages are needed that are not installed: {', '.join(missing)}"
        raise ImportError(f"export_onnx: {needs}; run `pip install {' '.join(missing)}`.")


@contextmanager
def quiet() -> Iterator[None]:
    """Without the deprecations of an exporter, and what it logs below an error."""
    level = logging.root.manager.disable
    logging.disable(max(level, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextmanager
def told(needs: str, cure: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """Tell an error of another library, of any type, in our form; not that of a missing package.

    On one line, without the colours and advice of exporters.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        text = " ".join(re.sub(r"\x1b\[[\d;]*m", "", str(cause)).split())
        came = f"{type(cause).__name__}: {text[:400]}{'…' if len(text) > 400 else ''}"
        raise kind(*EXPORT.wrong(needs, came, cure).args) from error
