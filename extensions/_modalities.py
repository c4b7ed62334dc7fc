"""The modalities of both sides, checked, and the rows of their pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mcld_core.arguments import Arguments, both_kept, fits, sizes_differ
from mcld_core.typing import Array, Bool, Float

Pair = tuple[str, str]
"""A modality of the student and one of the teacher."""


class Modality(NamedTuple):
    """One modality of one side."""

    rows: Float[Array, "batch width"] | Float[Array, "batch parts width"]
    present: Bool[Array, " batch"]


class PairRows(NamedTuple):
    """The rows of a modality of the student and of one of the teacher."""

    student: Float[Array, "batch width"] | Float[Array, "batch parts width"]
    teacher: Float[Array, "batch width"] | Float[Array, "batch parts width"]
    both: Bool[Array, " batch"]
    """Which samples have both; what the others hold plays no part."""


def check_mapping(function: str, name: str, value: Any, holds: str) -> None:
    """Raise TypeError unless the value is a dict (or another mapping)."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{function}: {name} needs a dict {holds}; got {type(value).__name__}")


def check_side(function: str, side: str, arrays: Any, masks: Any) -> None:
    """Raise for what is not a dict, and for a mask of a modality that is not there."""
    check_mapping(function, side, arrays, "modality → array")
    check_mapping(function, f"{side}_where", masks, "modality → mask")
    for name in masks:
        _check_name(function, side, name, arrays)


def check_pairs(function: str, pairs: Any, others: Any, student: Any, teacher: Any) -> None:
    """Raise unless there is a pair, each of two modalities, with a weight and a function."""
    check_mapping(function, "pairs", pairs, "(student's modality, teacher's) → weight")
    check_mapping(function, "other_losses", others, "(student's, teacher's) → (weight, function)")
    if not pairs and not others:
        raise ValueError(f"{function}: pairs needs at least one pair of modalities; got none")
    for name, given in (("pairs", pairs), ("other_losses", others)):
        for pair in given:
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise TypeError(
                    f"{function}: each key of {name} needs (student's modality, teacher's); got "
                    f"{pair!r}"
                )
            _check_name(function, "student", pair[0], student)
            _check_name(function, "teacher", pair[1], teacher)
    for pair, entry in others.items():
        if not isinstance(entry, (tuple, list)) or len(entry) != 2 or not callable(entry[1]):
            raise TypeError(
                f"{function}: other_losses[{pair!r}] needs (weight, function); got {entry!r}"
            )


def modalities(
    arguments: Arguments, side: str, arrays: Mapping[str, Any], masks: Mapping[str, Any]
) -> dict[str, Modality]:
    """Return the modalities of one side, converted; raise for arrays or masks that do not fit.

    One without any part is missing in every row.
    """
    ops, function, like = arguments.ops, arguments.function, arguments.like
    found = {}
    for modality, x in arrays.items():
        name = f"{side}[{modality!r}]"
        rows = arguments.array(name, x, like)
        shape = tuple(rows.shape)
        if len(shape) not in (2, 3) or not shape[-1] or "float" not in ops.dtype(rows):
            raise ValueError(
                f"{function}: {name} needs shape (batch, width) or (batch, parts, width), the "
                f"width known and not 0, and a float dtype; got shape {shape}, {ops.dtype(rows)}"
            )
        if like is not None:
            arguments.device(name, rows, like, "another argument")
        parts = 1 if len(shape) == 2 else ops.size(rows, 1)
        has_parts = 0 * ops.arange(ops.size(rows, 0), rows) < parts
        mask = arguments.mask(f"where of {name}", masks.get(modality), rows, name)
        found[modality] = Modality(rows, both_kept(has_parts, mask))
    return found


def pair_rows(
    function: str,
    pair: Pair,
    student: Modality,
    teacher: Modality,
    labelled: Bool[Array, " batch"] | None,
) -> PairRows:
    """Return the rows of a pair, and which samples count; raise where the shapes differ."""
    ours, theirs = tuple(student.rows.shape), tuple(teacher.rows.shape)
    names = f"{function}: student[{pair[0]!r}] and teacher[{pair[1]!r}] need the same"
    if sizes_differ(ours[0], theirs[0]):
        raise ValueError(
            f"{names} batch; got {ours} and {theirs}. Rows that miss a modality are marked by its "
            "where"
        )
    if not fits((None, *ours[1:]), theirs):
        raise ValueError(
            f"{names} width (and parts); got {ours} and {theirs}. Bring one to the other's width "
            "first: a projection in the model, or mcld_core.select_classes"
        )
    return PairRows(
        student.rows, teacher.rows, both_kept(student.present & teacher.present, labelled)
    )


def _check_name(function: str, side: str, name: str, arrays: Mapping[str, Any]) -> None:
    if name not in arrays:
        has = ", ".join(sorted(map(repr, arrays))) or "none"
        raise ValueError(f"{function}: {side} has no modality {name!r}; it has {has}")
