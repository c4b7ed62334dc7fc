"""The modalities of both sides, checked, with the rows that miss one set to 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mcld_core.arguments import Arguments, differ
from mcld_core.backends import Backend
from mcld_core.typing import Array, Bool, Float

Pair = tuple[str, str]
"""A modality of the student and one of the teacher."""


class Modality(NamedTuple):
    """One modality of one side, 0 in the rows that miss it."""

    rows: Float[Array, "batch width"] | Float[Array, "batch parts width"]
    present: Bool[Array, " batch"]


class Given(NamedTuple):
    """What the caller gave of one side."""

    name: str
    arrays: Mapping[str, Any]
    masks: Mapping[str, Any]


class Sides(NamedTuple):
    """The modalities of both sides."""

    student: dict[str, Modality]
    teacher: dict[str, Modality]

    def both(self, pair: Pair) -> Bool[Array, " batch"]:
        """Return which samples have both modalities of a pair."""
        return self.student[pair[0]].present & self.teacher[pair[1]].present

    def rows(self, pair: Pair) -> tuple[Array, Array]:
        """Return the rows of both modalities of a pair."""
        return self.student[pair[0]].rows, self.teacher[pair[1]].rows


def given_side(function: str, name: str, arrays: Any, masks: Any) -> Given:
    """Return one side as it was given.

    Raises:
        ValueError, TypeError: what is not a dict, or a mask of a modality that is not there.
    """
    masks = {} if masks is None else masks
    check_mapping(function, name, arrays, "modality → array")
    check_mapping(function, f"{name}_where", masks, "modality → mask")
    side = Given(name, arrays, masks)
    check_names(function, side, masks)
    return side


def check_mapping(function: str, name: str, value: Any, holds: str) -> None:
    """Raise TypeError unless the value is a dict (or another mapping)."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{function}: {name} needs a dict {holds}; got {type(value).__name__}")


def check_names(function: str, side: Given, names: Iterable[str]) -> None:
    """Raise ValueError for a modality that is asked for and is not there."""
    for name in names:
        if name not in side.arrays:
            has = ", ".join(sorted(map(repr, side.arrays))) or "none"
            raise ValueError(f"{function}: {side.name} has no modality {name!r}; it has {has}")


def prepare_sides(arguments: Arguments, student: Given, teacher: Given) -> Sides:
    """Return the modalities of both sides, checked and converted.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices, batches or masks that do not fit.
    """
    sides = Sides(_modalities(arguments, student), _modalities(arguments, teacher))
    shapes = [
        (f"{given.name}[{name!r}]", tuple(one.rows.shape))
        for given, side in zip((student, teacher), sides, strict=True)
        for name, one in side.items()
    ]
    first = shapes[0][1]
    for name, shape in shapes:
        if differ(shape[0], first[0]):
            raise ValueError(
                f"{arguments.function}: all modalities need the same batch; got {name} of shape "
                f"{shape} beside {first}. Rows that miss a modality are marked by its where"
            )
    return sides


def mask_sides(ops: Backend, sides: Sides, kept: Bool[Array, " batch"]) -> Sides:
    """Drop rows of all modalities."""
    student, teacher = (
        {name: mask_rows(ops, one, kept) for name, one in side.items()} for side in sides
    )
    return Sides(student, teacher)


def mask_rows(ops: Backend, modality: Modality, kept: Bool[Array, " batch"]) -> Modality:
    """Drop rows: 0 there, so that their content changes neither value nor gradient."""
    rows = modality.rows
    keep = ops.reshape(kept, (-1, *(1 for _ in rows.shape[1:])))
    return Modality(ops.where(keep, rows, 0.0), modality.present & kept)


def check_widths(function: str, sides: Sides, pair: Pair) -> None:
    """Raise ValueError unless both modalities of a pair have one width, and as many parts."""
    ours, theirs = (tuple(rows.shape) for rows in sides.rows(pair))
    axes = zip(ours[1:], theirs[1:], strict=False)
    if len(ours) != len(theirs) or any(differ(*axis) for axis in axes):
        raise ValueError(
            f"{function}: student[{pair[0]!r}] and teacher[{pair[1]!r}] need the same width (and "
            f"parts); got {ours} and {theirs}. Bring one to the other's width first: a projection "
            "in the model, or mcld_core.select_classes"
        )


def _modalities(arguments: Arguments, given: Given) -> dict[str, Modality]:
    return {
        name: _modality(arguments, f"{given.name}[{name!r}]", x, given.masks.get(name))
        for name, x in given.arrays.items()
    }


def _modality(arguments: Arguments, name: str, x: Any, where: Any) -> Modality:
    """Return one modality; one without any part is missing in every row."""
    ops, function, like = arguments.ops, arguments.function, arguments.like
    rows = arguments.array(name, x, like)
    shape = tuple(rows.shape)
    if len(shape) not in (2, 3) or not shape[-1] or "float" not in ops.dtype(rows):
        raise ValueError(
            f"{function}: {name} needs shape (batch, width) or (batch, parts, width), the width "
            f"known and not 0, and a float dtype; got shape {shape}, {ops.dtype(rows)}"
        )
    if like is not None:
        arguments.device(name, rows, like, "another argument")
    parts = 1 if len(shape) == 2 else ops.size(rows, 1)
    every = Modality(rows, 0 * ops.arange(ops.size(rows, 0), rows) < parts)
    if where is None:
        return every
    return mask_rows(ops, every, arguments.mask(f"where of {name}", where, shape[0], rows, name))
