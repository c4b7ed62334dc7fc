"""What has to be the same on every rank, compared before the rows are exchanged."""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

_DTYPES = tuple(sorted(str(x) for x in vars(torch).values() if isinstance(x, torch.dtype)))


class Signature(NamedTuple):
    """What one rank brings, as numbers that cross ranks; -1: not given."""

    fits: int
    """0 where the rank's own arguments do not fit each other: it raises an error of its own."""
    classes: int = -1
    logits: int = -1
    """The number of a dtype, as in all that follow."""
    labels: int = -1
    ids: int = -1
    rows: int = -1


def signature_of(
    logits: torch.Tensor, labels: torch.Tensor | None, index: torch.Tensor | None, rows: int | None
) -> Signature:
    """Return the signature of arguments that were checked; int labels are int32 here."""
    of_logits, of_labels, of_ids = (
        -1 if x is None else _DTYPES.index(str(x.dtype)) for x in (logits, labels, index)
    )
    known = -1 if rows is None else rows
    return Signature(1, logits.shape[1], of_logits, of_labels, of_ids, known)


def check_agreement(table: list[list[float]]) -> None:
    """Raise the same error on every rank unless all signatures, one a rank, are equal.

    It names the argument, and the first two ranks that differ.
    """
    signatures = [Signature(*map(int, row)) for row in table]
    for rank, signature in enumerate(signatures):
        if not signature.fits:
            raise ValueError(
                "gather_keys: the arguments need to fit on every rank; got some that do not on "
                f"rank {rank}, whose own error says which. No rows were exchanged"
            )
    for field, wanted, cure in (
        ("classes", "teacher_logits needs the same number of classes", "Map them to one space"),
        ("logits", "teacher_logits needs the same dtype", "Convert them to one"),
        ("labels", "labels needs the same kind", "Pass one kind of labels, or None"),
        ("ids", "index needs the same dtype", "Pass it, and a bank, on all ranks or on none"),
        ("rows", "rows needs the same number", "Pass the largest batch of all ranks"),
    ):
        values = [getattr(signature, field) for signature in signatures]
        other = next((i for i, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise ValueError(
                f"gather_keys: {wanted} on every rank; got {_text(field, values[0])} on rank 0 "
                f"and {_text(field, values[other])} on rank {other}. {cure}"
            )


def reads_at_once(x: torch.Tensor) -> bool:
    """Whether a tensor's values are read without a wait for a device."""
    return x.device.type == "cpu"


AGREED: WeakKeyDictionary[dist.ProcessGroup, set[Signature]] = WeakKeyDictionary()
"""The signatures that this rank has compared with the others'."""


def _text(field: str, value: int) -> str:
    if value < 0:
        return "None"
    if field in ("classes", "rows"):
        return str(value)
    dtype = _DTYPES[value].removeprefix("torch.")
    if field != "labels":
        return dtype
    return f"soft labels in {dtype}" if "float" in dtype else "int labels"
