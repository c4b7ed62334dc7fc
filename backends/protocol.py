"""What a backend is: one-line operations, named as in the Python array API, and `by_block`.

The modules ``mcld_core.backends.<name>`` satisfy `Backend`. A dtype is passed by its name
(``"float32"``, ``"int32"``, ``"bool"``), an axis is always given (or the array has one), and no
operation works in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

Array: TypeAlias = Any
Arrays: TypeAlias = tuple[Array, ...]

RowFunction: TypeAlias = Callable[[Arrays, Any], Arrays]
"""``function(rows, shared)``: see `Backend.by_block`."""


class KeptRows(NamedTuple):
    """Rows whose loss is summed, of which some do not count: see `Backend.by_kept_block`."""

    x: Array
    """(rows, outputs), or (rows, width) where there is a layer."""
    beside: Arrays
    """Arrays with one entry a row."""
    shared: Arrays = ()
    layer: Arrays = ()
    """The weight (outputs, width) of a linear layer, and a bias where it has one."""
    kept: Array | None = None
    """(rows,) bool: which count; None: all."""
    weight: Array | None = None
    """(rows,); None: 1 each."""
    scale: Any = None
    """A factor of the sum; None: the values are not summed."""


class Backend(Protocol):
    """The operations that the losses are written in."""

    name: str
    checks_devices: bool
    """Whether tensors on two devices are an error that is ours to explain."""
    least_rows: int
    """Of a block: with fewer, products of matrices slow down, or the loop costs too much."""

    # conversion and inspection
    def is_tensor(self, x: Any) -> bool: ...
    def is_trained(self, x: Any) -> bool: ...
    def asarray(self, x: Any, like: Array | None = None) -> Array: ...
    def astype(self, x: Array, dtype: str) -> Array: ...
    def dtype(self, x: Array) -> str: ...
    def size(self, x: Array, axis: int) -> Any: ...
    def host_values(self, x: Array) -> np.ndarray[Any, Any] | None: ...

    # element by element
    def where(self, condition: Array, x: Any, y: Any) -> Array: ...
    def exp(self, x: Array) -> Array: ...
    def expm1(self, x: Array) -> Array: ...
    def tanh(self, x: Array) -> Array: ...
    def log(self, x: Array) -> Array: ...
    def sqrt(self, x: Array) -> Array: ...
    def abs(self, x: Array) -> Array: ...
    def log_sigmoid(self, x: Array) -> Array: ...
    def maximum(self, x: Array, y: Any) -> Array: ...
    def minimum(self, x: Array, y: Any) -> Array: ...
    def at_least(self, x: Array, least: float) -> Array:
        """Return ``maximum(x, least)``; its gradient where x is smaller is not specified."""

    def isfinite(self, x: Array) -> Array: ...

    # along an axis
    def sum(self, x: Array, axis: int | None, keepdims: bool = False) -> Array: ...
    def max(self, x: Array, axis: int, keepdims: bool = False) -> Array: ...
    def all(self, x: Array, axis: int) -> Array: ...
    def argmax(self, x: Array, axis: int) -> Array: ...
    def logsumexp(self, x: Array, axis: int, keepdims: bool = False) -> Array: ...
    def softmax(self, x: Array, axis: int, out: Array | None = None) -> Array:
        """Return it, in ``out`` where the framework can write there; else ``out`` is left."""

    def log_softmax(self, x: Array, axis: int) -> Array: ...
    def cumulative_sum(self, x: Array) -> Array: ...

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
    def add_along_axis(self, x: Array, indices: Array, values: Array) -> Array:
        """Return x with values added, in its place where the framework can; not differentiated."""

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

    def value_and_slopes(self, function: Callable[..., Array], arrays: Arrays) -> Any:
        """Return ``function(*arrays)``, one value a row, and the gradients of their sum."""
        ...

    def by_kept_block(self, loss: Any, rows: KeptRows, sizes: tuple[int, int]) -> Array:
        """Return ``scale · Σ weight · loss`` of the rows that count, or their values.

        ``loss.with_slope(x, beside)`` gives the values of a block of ``sizes[1]`` rows, and their
        slope by ``x``. Rows that do not count are left out: no block holds one, but the last. The
        gradient is formed with the values, in one array as large as ``x`` that the backward pass
        returns: so there is one backward pass, and no second derivative. With a layer the blocks
        are of what it makes of ``x``, formed ``sizes[0]`` rows at a time, and so are
        ``loss.prepare(beside, shared)``; the layer has a gradient too, where the values are summed.

        ``loss.whole(rows)``, which the framework differentiates, stands in where it has to see
        through: for a compiler (PyTorch's), a functional transform, sizes that are not known.
        """
        ...
