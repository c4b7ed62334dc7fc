"""The modalities of one side, checked, with the rows that miss one set to 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mcld_core.arguments import Arguments, differ
from mcld_core.backends import Backend
from mcld_core.typing import Array, Bool, Float


class Modality(NamedTuple):
    """One modality of one side, 0 in the rows that miss it."""

    rows: Float[Array, "batch width"] | Float[Array, "batch parts width"]
    present: Bool[Array, " batch"]


def check_mapping(function: str, name: str, value: Any, holds: str) -> None:
    """Raise TypeError unless the value is a dict (or another mapping)."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{function}: {name} needs a dict {holds}; got {type(value).__name__}")


def modalities(
    arguments: Arguments, side: str, rows: Mapping[str, Any], where: Mapping[str, Any]
) -> dict[str, Modality]:
    """Return the modalities of one side, checked and converted."""
    return {
        name: _modality(arguments, f"{side}[{name!r}]", x, where.get(name))
        for name, x in rows.items()
    }


def check_batches(arguments: Arguments, sides: Mapping[str, Mapping[str, Modality]]) -> None:
    """Raise ValueError unless all modalities have as many rows."""
    shapes = {
        f"{side}[{name!r}]": tuple(one.rows.shape)
        for side, given in sides.items()
        for name, one in given.items()
    }
    first = next(iter(shapes.values()))
    for name, shape in shapes.items():
        if differ(shape[0], first[0]):
            raise ValueError(
                f"{arguments.function}: all modalities need the same batch; got {name} of shape "
                f"{shape} beside {first}. Rows that miss a modality are marked by its where"
            )


def mask_rows(ops: Backend, modality: Modality, kept: Bool[Array, " batch"]) -> Modality:
    """Drop rows: 0 there, so that their content changes neither value nor gradient."""
    rows = modality.rows
    keep = ops.reshape(kept, (-1, *(1 for _ in rows.shape[1:])))
    return Modality(ops.where(keep, rows, 0.0), modality.present & kept)


def check_widths(arguments: Arguments, names: tuple[str, str], ours: Array, theirs: Array) -> None:
    """Raise ValueError unless both have the same width, and as many parts."""
    shapes = tuple(ours.shape), tuple(theirs.shape)
    axes = zip(shapes[0][1:], shapes[1][1:], strict=False)
    if len(shapes[0]) != len(shapes[1]) or any(differ(*axis) for axis in axes):
        raise ValueError(
            f"{arguments.function}: student[{names[0]!r}] and teacher[{names[1]!r}] need the same "
            f"width (and parts); got {shapes[0]} and {shapes[1]}. Bring one to the other's width "
            "first: a projection in the model, or mcld_core.select_classes"
        )


def _modality(arguments: Arguments, name: str, x: Any, where: Any) -> Modality:
    ops, function, like = arguments.ops, arguments.function, arguments.like
    rows = arguments.array(name, x, like)
    shape = tuple(rows.shape)
    if len(shape) not in (2, 3) or not shape[-1] or "float" not in ops.dtype(rows):
        raise ValueError(
            f"{function}: {name} needs shape (batch, width) or (batch, parts, width), the width "
            f"known, and a float dtype; got shape {shape}, {ops.dtype(rows)}"
        )
    if like is not None:
        arguments.device(name, rows, like, "another argument")
    every = Modality(rows, ops.arange(ops.size(rows, 0), rows) >= 0)
    if where is None:
        return every
    return mask_rows(ops, every, arguments.mask(f"where of {name}", where, shape[0], rows, name))
