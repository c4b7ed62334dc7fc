"""What a backend is: one-line operations, named as in the Python array API, and `by_block`.

The modules ``mcld_core.backends.<name>`` satisfy `Backend`. A dtype is passed by its name
(``"float32"``, ``"int32"``, ``"bool"``), an axis is always given (or the array has one), and no
operation works in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

Array: TypeAlias = Any
Arrays: TypeAlias = tuple[Array, ...]

RowFunction: TypeAlias = Callable[[Arrays, Any], Arrays]
"""``function(rows, shared)``: see `Backend.by_block`."""

SharedFunction: TypeAlias = Callable[[Arrays, Arrays], Arrays]
"""``function(rows, trained)``: see `Backend.by_block_twice`."""

RowsFunction: TypeAlias = Callable[[Arrays], Arrays]
LayerFunction: TypeAlias = Callable[[Array, Arrays], Array]
"""``function(rows)`` and ``outputs(hidden, layer)``: see `Backend.layer_by_block`."""


def through_layer(outputs: LayerFunction, function: RowsFunction) -> SharedFunction:
    """Return ``(rows, layer) → function((outputs(rows[0], layer), *rows[1:]))``."""
    return lambda rows, layer: function((outputs(rows[0], layer), *rows[1:]))


def layer_by_block_twice(by_block_twice: Callable[..., Any]) -> Callable[..., Any]:
    """Return `Backend.layer_by_block` that evaluates each block twice, whatever the weights."""

    def layer_by_block(
        outputs: LayerFunction, function: RowsFunction, rows: Any, layer: Any, _: Any, size: Any
    ) -> Any:
        return by_block_twice(through_layer(outputs, function), rows, layer, size)

    return layer_by_block


class Backend(Protocol):
    """The operations that the losses are written in."""

    name: str
    least_rows: int
    """Of a block: with fewer, products of matrices slow down, or the loop costs too much."""

    # conversion and inspection
    def is_tensor(self, x: Any) -> bool: ...
    def is_trained(self, x: Any) -> bool: ...
    def asarray(self, x: Any, like: Array | None = None) -> Array: ...
    def astype(self, x: Array, dtype: str) -> Array: ...
    def dtype(self, x: Array) -> str: ...
    def size(self, x: Array, axis: int) -> Any: ...
    def device(self, x: Array) -> str | None: ...
    def host_values(self, x: Array) -> np.ndarray[Any, Any] | None: ...

    # element by element
    def where(self, condition: Array, x: Any, y: Any) -> Array: ...
    def exp(self, x: Array) -> Array: ...
    def log(self, x: Array) -> Array: ...
    def sqrt(self, x: Array) -> Array: ...
    def abs(self, x: Array) -> Array: ...
    def log_sigmoid(self, x: Array) -> Array: ...
    def maximum(self, x: Array, y: Any) -> Array: ...
    def minimum(self, x: Array, y: Any) -> Array: ...
    def at_least(self, x: Array, least: float) -> Array:
        """Return ``maximum(x, least)``; its gradient where x is smaller is not specified."""

    def add_scaled(self, x: Array, y: Array, factor: float) -> Array:
        """Return ``x + factor · y``, in one pass where that can be."""

    def isfinite(self, x: Array) -> Array: ...

    # along an axis
    def sum(self, x: Array, axis: int | None, keepdims: bool = False) -> Array: ...
    def max(self, x: Array, axis: int, keepdims: bool = False) -> Array: ...
    def all(self, x: Array, axis: int) -> Array: ...
    def argmax(self, x: Array, axis: int) -> Array: ...
    def logsumexp(self, x: Array, axis: int, keepdims: bool = False) -> Array: ...
    def softmax(self, x: Array, axis: int) -> Array: ...
    def log_softmax(self, x: Array, axis: int) -> Array: ...
    def cumulative_sum(self, x: Array) -> Array: ...
    def sort(self, x: Array) -> Array: ...
    def searchsorted(self, x: Array, values: Array) -> Array: ...

    # shape and place
    def arange(self, n: Any, like: Array) -> Array: ...
    def reshape(self, x: Array, shape: Sequence[Any]) -> Array: ...
    def matmul(self, x: Array, y: Array) -> Array: ...
    def matrix_transpose(self, x: Array) -> Array: ...
    def take(self, x: Array, indices: Array) -> Array: ...
    def take_along_axis(self, x: Array, indices: Array, axis: int) -> Array: ...
    def concat(self, arrays: Sequence[Array]) -> Array: ...
    def put(self, x: Array, indices: Array, values: Array) -> Array: ...
    def put_along_axis(self, x: Array, indices: Array, values: Any) -> Array: ...
    def add_along_axis(self, x: Array, indices: Array, values: Array) -> Array: ...

    # a sparse matrix: k entries a row, each column at most once in it
    def sparse(self, values: Array, indices: Array, columns: int) -> Any: ...
    def sparse_matmul(self, x: Array, y: Any) -> Array:
        """Return the product of ``x`` with the transpose of a sparse matrix: (rows, its rows)."""
        ...

    # gradient
    def stop_gradient(self, x: Array) -> Array: ...

    def by_block(
        self,
        function: RowFunction,
        prepare: Callable[[Any], Any],
        rows: Arrays,
        shared: Any,
        block_rows: Any,
    ) -> Arrays:
        """Evaluate a function of rows; its first result has a gradient in ``rows[0]``.

        ``function(rows, prepare(shared))`` returns arrays with one value a row of ``rows``; the
        value of a row must depend on that row of ``rows[0]`` alone. It is evaluated on blocks of
        ``block_rows`` rows, and the framework differentiates each block in the forward pass:
        all that is kept for the backward pass is the gradient, and no array of rows × keys
        outlives its block.

        The plain form, the function on all rows, is evaluated and differentiated as it stands
        where ``block_rows`` is None or one block holds all rows, and where the framework needs
        to see through: a compiler that fuses (PyTorch's, for few blocks), a functional transform,
        a second derivative. Only there does something in ``shared`` get a gradient.
        ``is_trained`` says what needs it.
        """
        ...

    def by_block_twice(
        self, function: SharedFunction, rows: Arrays, trained: Arrays, block_rows: Any
    ) -> Arrays:
        """Evaluate a function of rows whose results have a gradient in ``rows[0]`` and ``trained``.

        ``function(rows, trained)`` returns arrays with one entry of any shape a row, as in
        `by_block`. The backward pass evaluates each block again, with the gradient that came, so
        that nothing of a block outlives it; what each block adds to the gradients of ``trained``,
        arrays that all rows share, is summed in at least float32. The plain form where `by_block`
        has it.
        """
        ...

    def layer_by_block(
        self,
        outputs: LayerFunction,
        function: RowsFunction,
        rows: Arrays,
        layer: Arrays,
        weights: Array | None,
        block_rows: Any,
    ) -> Arrays:
        """Evaluate a function of what a linear layer makes of ``rows[0]``, by block.

        ``function((outputs(rows[0], layer), *rows[1:]))`` as in `by_block`, whose first result has
        a gradient in ``rows[0]`` and in ``layer``: its weight, (outputs, width), and a bias where
        it has one. With ``weights``, one a row, the gradient that comes back for the first result
        is a multiple of them, as those of a sum or a mean are, and a framework may form it with
        the values; without, or where it does not, each block is evaluated twice.
        """
        ...
