"""Teacher rows of all ranks as keys, under ``torch.distributed``."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch.nn import functional

from mcld_core.arguments import Arguments, Checks
from mcld_core.keys import TeacherKeys
from mcld_core.typing import Array, Bool, Float, Int, Labels, Logits

if dist.is_available():
    # renamed in torch 2.13
    all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def gather_keys(
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Bool[Array, " batch"] | None = None,
    ignore_index: int = -100,
    rows: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> TeacherKeys:
    """Gather the teacher's rows of all ranks, so that each contrasts with the joined batch.

    Call it on every rank with the arguments that the loss gets. ``reduction="mean"`` then divides
    by ``(Σ v over all ranks) / R``, so that the plain mean over the R ranks of loss and gradient,
    which is what DDP and FSDP take, is that of the joined batch in one process. Only the teacher's
    side crosses ranks, hence no gradient does.

    Ranks may have different numbers of rows, as in a last batch; shorter ones are padded to the
    largest with rows that do not count. A rank without a kept row contributes 0 and breaks
    nothing. Without a process group the batch is gathered from itself.

    Args:
        teacher_logits: (batch, classes), this rank's rows, any float dtype. A NumPy array goes to
            the device of the other arguments, or to the accelerator if they are not tensors either.
        labels: (batch,) int, or (batch, classes) soft, or None: the teacher's arg max. The same
            kind on every rank.
        sample_weight, where: (batch,) numbers ≥ 0 and bool, as given to the loss.
        ignore_index: rows with this int label are dropped; as in the loss's `MCLDConfig`.
        rows: the largest batch of a rank, where it is known, the same number on all ranks. It
            saves the wait for the sizes of the others (a device synchronisation), and
            ``torch.compile(fullgraph=True)`` needs it.
        group: the process group; None: the default one.

    Returns:
        Keys of R · largest batch rows, ``own_start`` and ``normalizer`` set. With them
        ``category_contrast="columns"`` raises, because the student would have to cross ranks.

    Raises:
        ValueError, TypeError: a batch of more than ``rows``; shapes, dtypes, devices or labels that
            do not fit.
        ValueError: another number of classes, dtype, kind of labels or ``rows`` on another rank,
            or arguments that do not fit there. Every rank raises then, and none waits for rows
            that do not come. (With ``rows`` on an accelerator the ranks are compared at the first
            call of a kind, in a compiled graph never.)

    Example:
        >>> keys = gather_keys(torch.eye(3), torch.tensor([0, 1, -100]))
        >>> keys.where.tolist(), keys.own_start, keys.normalizer.item()
        ([True, True, False], 0, 2.0)
    """
    beside = (labels, sample_weight, where)
    return gather_with_index(teacher_logits, beside, None, ignore_index, rows, group)[0]


def gather_with_index(
    teacher_logits: Logits,
    beside: tuple[Any, Any, Any],
    index: Int[Array, " batch"] | None,
    ignore_index: int,
    rows: int | None,
    group: dist.ProcessGroup | None = None,
    *,
    student_and_progress: tuple[Any, Any] | None = None,
) -> tuple[TeacherKeys, torch.Tensor | None]:
    """Return `gather_keys` and the sample ids of its rows.

    ``beside`` are labels, sample weight and ``where``. The student's logits and the progress are
    what the loss gets on this rank: if they do not fit, every rank raises.
    """
    student, progress = student_and_progress or (None, None)
    given = (teacher_logits, student, *beside)
    like = next((x for x in given if isinstance(x, torch.Tensor)), None)
    ranks = world_size(group)
    with raising_on_every_rank(like, group):
        arguments = Arguments("gather_keys", *given, index)
        teacher = arguments.array("teacher_logits", teacher_logits, like).detach()
        checked = arguments.teacher_batch(teacher, beside, ignore_index)
        batch = teacher.shape[0]
        if index is not None:
            index = arguments.ids("index", index, teacher)
        if ranks > 1 and rows is not None and batch > rows:
            came = f"{rows} and a batch of {batch}"
            raise arguments.wrong("rows needs the largest batch of a rank", came)
        if student_and_progress is not None:
            arguments = Arguments("mcld_loss", student, teacher)
            logits, _ = arguments.pair(student, teacher)
            arguments.scalar("progress", progress, logits, "float32", maximum=1.0)
    of_one_kind = teacher, checked.labels, index
    table, largest = _sizes(checked.weight.sum(), batch, rows, of_one_kind, group)
    parts = [teacher, checked.kept.to(torch.uint8)]
    parts += [x for x in (checked.labels, index) if x is not None]
    logits, counts, *others = gather_rows(parts, largest, group)
    keys = TeacherKeys(
        logits=logits,
        labels=None if checked.labels is None else others[0],
        where=counts != 0,
        own_start=dist.get_rank(group) * largest if ranks > 1 else 0,
        normalizer=table[:, 0].mean().to(checked.weight.dtype),
    )
    return keys, None if index is None else others[-1]


@contextmanager
def raising_on_every_rank(
    like: Any = None, group: dist.ProcessGroup | None = None
) -> Iterator[None]:
    """Tell the ranks that wait in `gather_keys` of an error in here, so that they raise too."""
    try:
        yield
    except Exception:
        if world_size(group) > 1:
            nothing = torch.zeros((), device=_device(like, group))
            _table(nothing, 0, _UNFIT, group)
        raise


_UNFIT = -1.0
"""Stands for the arguments of a rank that do not fit: it raises an error of its own."""
_AGREED: WeakKeyDictionary[dist.ProcessGroup, set[str]] = WeakKeyDictionary()
"""The kinds of arguments that this rank has compared with the others'."""


def _table(
    weight: torch.Tensor, batch: int, kind: float, group: dist.ProcessGroup | None
) -> torch.Tensor:
    """Return each rank's weight and number of rows, and a number for its kind of arguments."""
    numbers = (weight.new_full((), x, dtype=torch.float64) for x in (batch, kind))
    return gather_rows([torch.stack([weight.double(), *numbers])[None]], 1, group)[0]


def _sizes(
    weight: torch.Tensor,
    batch: int,
    rows: int | None,
    arrays: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None],
    group: dist.ProcessGroup | None,
) -> tuple[torch.Tensor, int]:
    """Return `_table` and the largest batch of a rank; raise where the ranks do not agree.

    ``arrays`` are teacher, labels and ids. Reading the table waits for the device. Where the rows
    are known it is read once a kind: a rank that changes its arguments later raises, though the
    others may wait for it. A compiled graph compares nothing.
    """
    compiled, kind, code = torch.compiler.is_compiling(), "", 0.0
    if not compiled:
        of_teacher, *others = (None if x is None else str(x.dtype)[6:] for x in arrays)
        kind = f"{arrays[0].shape[1]} classes in {of_teacher}, labels {others[0]}, "
        kind = f"{kind}index {others[1]}, rows {rows}"
        code = float(zlib.crc32(kind.encode()))
    table = _table(weight, batch, code, group)
    if len(table) == 1:
        return table, batch
    if compiled:
        return table, int(table[:, 1].max().item()) if rows is None else rows
    agreed = _AGREED.setdefault(group or dist.group.WORLD, set())
    if rows is None or kind not in agreed or _reads_at_once(table):
        _, batches, codes = table.mT.tolist()
        _check_agreement(kind, codes, dist.get_rank(group))
        agreed.add(kind)
        rows = int(max(batches)) if rows is None else rows
    return table, rows


def _check_agreement(kind: str, codes: list[float], rank: int) -> None:
    """Raise on every rank unless all have arguments of one kind; 0 is that of a compiled graph."""
    other = next((i for i, x in enumerate(codes) if x not in (0.0, codes[rank])), None)
    if other is not None:
        needs = "the arguments need to fit, and to be of one kind, on every rank"
        came = f"{kind} on rank {rank}, and not on rank {other}, whose own error says what"
        raise Checks("gather_keys").wrong(needs, came, "No rows were exchanged")


def _reads_at_once(x: torch.Tensor) -> bool:
    """Whether a tensor's values are read without a wait for a device."""
    return x.device.type == "cpu"


def _device(like: torch.Tensor | None, group: dist.ProcessGroup | None) -> torch.device | str:
    """Return where a rank without rows of its own meets the others."""
    if dist.get_backend(group) == "gloo" or not torch.accelerator.is_available():
        return "cpu" if like is None else like.device
    return torch.accelerator.current_accelerator() or "cpu"


def gather_rows(
    parts: Sequence[torch.Tensor], rows: int, group: dist.ProcessGroup | None = None
) -> list[torch.Tensor]:
    """Return the rows of all ranks of each tensor, every rank's padded with zeros to ``rows``."""
    ranks = world_size(group)
    padded = [
        functional.pad(x, [0, 0] * (x.ndim - 1) + [0, rows - x.shape[0]]).contiguous()
        for x in parts
    ]
    if ranks == 1:
        return padded
    # not the functional collectives: on gloo they now and then corrupt memory (torch 2.13)
    gathered = [x.new_empty(ranks * rows, *x.shape[1:]) for x in padded]
    for out, x in zip(gathered, padded, strict=True):
        all_gather(out, x, group=group)
    return gathered


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Return the number of ranks; 1 where no process group runs."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(group)
