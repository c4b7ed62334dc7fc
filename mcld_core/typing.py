"""Names for the annotations: arrays of any framework, with their shapes.

The axis words are the same everywhere: ``batch``, ``classes``, ``keys``, ``tokens``, ``time``,
``block``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from jaxtyping import Bool as Bool
from jaxtyping import Float as Float
from jaxtyping import Int as Int
from jaxtyping import Num as Num

if TYPE_CHECKING:
    from typing_extensions import TypeVar

Array: TypeAlias = Any
"""An array or tensor of NumPy, PyTorch, TensorFlow or JAX, or a list that NumPy can convert."""


class HasShape(Protocol):
    """What every array and tensor has."""

    @property
    def shape(self) -> Any:
        """The sizes of the axes."""


if TYPE_CHECKING:
    Tensor = TypeVar("Tensor", bound=HasShape, default=Any)
else:
    Tensor = Any
"""The framework's own type: what goes in comes out, so that an editor shows it. A list comes out as
Any; NumPy's scalar counts as an array."""

Scalar: TypeAlias = Any
"""A Python number, or a zero-dimensional array (which may be traced)."""

Reduction: TypeAlias = Literal["mean", "sum", "none"]

Logits: TypeAlias = Float[Array, "batch classes"]
Labels: TypeAlias = Num[Array, " batch"] | Num[Array, "batch classes"]

Values: TypeAlias = Float[Array, " batch"]
"""One number a row; the rows are those of a batch, or of a block of it."""

Places: TypeAlias = Int[Array, " batch"]
"""One place a row: of its own key among the keys, or of its target among the classes."""

Pairs: TypeAlias = Float[Array, "batch keys"]
"""One number for each row and key."""
