"""The modalities of both sides, checked, and the rows of their pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mcld_core.arguments import Arguments, both_kept, differ, fits
from mcld_core.typing import Array, Bool, Float

Pair = tuple[str, str]
"""A modality of the student and one of the teacher."""


class Modality(NamedTuple):
    """One modality of one side."""

    rows: Float[Array, "batch width"] | Float[Array, "batch parts width"]
    present: Bool[Array, " batch"]


class Given(NamedTuple):
    """What the caller gave of one side."""

    name: str
    arrays: Mapping[str, Any]
    masks: Mapping[str, Any]


class PairRows(NamedTuple):
    """The rows of a modality of the student and of one of the teacher."""

    student: Float[Array, "batch width"] | Float[Array, "batch parts width"]
    teacher: Float[Array, "batch width"] | Float[Array, "batch parts width"]
    both: Bool[Array, " batch"]
    """Which samples have both; what the others hold plays no part."""


def given_side(function: str, name: str, arrays: Any, masks: Any) -> Given:
    """Return one side as given; raise for what is not a dict, and for a mask of no modality."""
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


def modalities(arguments: Arguments, *sides: Given) -> list[dict[str, Modality]]:
    """Return the modalities of each side, converted; raise for arrays or masks that do not fit."""
    found: list[dict[str, Modality]] = []
    first = None
    for side in sides:
        found.append({})
        for name, x in side.arrays.items():
            label = f"{side.name}[{name!r}]"
            found[-1][name] = _modality(arguments, label, x, side.masks.get(name))
            shape = tuple(found[-1][name].rows.shape)
            first = shape if first is None else first
            if differ(shape[0], first[0]):
                raise ValueError(
                    f"{arguments.function}: all modalities need the same batch; got {label} of "
                    f"shape {shape} beside {first}. Rows that miss a modality are marked by its "
                    "where"
                )
    return found


def pair_rows(
    function: str,
    pair: Pair,
    student: Modality,
    teacher: Modality,
    labelled: Bool[Array, " batch"] | None,
) -> PairRows:
    """Return the rows of a pair, and which samples count; raise where the widths differ."""
    ours, theirs = tuple(student.rows.shape), tuple(teacher.rows.shape)
    if not fits((None, *ours[1:]), theirs):
        raise ValueError(
            f"{function}: student[{pair[0]!r}] and teacher[{pair[1]!r}] need the same width (and "
            f"parts); got {ours} and {theirs}. Bring one to the other's width first: a projection "
            "in the model, or mcld_core.select_classes"
        )
    present = both_kept(student.present & teacher.present, labelled)
    return PairRows(student.rows, teacher.rows, present)


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
    has_parts = 0 * ops.arange(ops.size(rows, 0), rows) < parts
    present = both_kept(has_parts, arguments.mask(f"where of {name}", where, rows, name))
    return Modality(rows, present)
