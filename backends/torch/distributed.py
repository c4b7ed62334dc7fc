"""Teacher rows of all ranks as keys, under ``torch.distributed``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch.nn import functional

from mcld_core.arguments import Arguments
from mcld_core.backends.ops import torch as torch_ops
from mcld_core.keys import TeacherKeys
from mcld_core.typing import Array, Bool, Float, Labels, Logits

if dist.is_available():
    from torch.distributed import _functional_collectives as collectives

    # renamed in torch 2.13
    all_gather = getattr(collectives, "all_gather_single", None) or collectives.all_gather_tensor


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
            the device of the other arguments, or to the accelerator if they are no tensors either.
        labels: (batch,) int, or (batch, classes) soft, or None: the teacher's arg max. The same
            kind on every rank.
        sample_weight: (batch,) ≥ 0, as given to the loss.
        where: (batch,) bool, True = keep, as given to the loss.
        ignore_index: rows with this int label are dropped; as in the loss's `MCLDConfig`.
        rows: the largest batch of a rank, where it is known and the same on all ranks. It saves
            the wait for the sizes of the others (a device synchronisation), and
            ``torch.compile(fullgraph=True)`` needs it.
        group: the process group; None: the default one.

    Returns:
        Keys of R · largest batch rows, ``own_start`` and ``normalizer`` set. With them
        ``category_contrast="columns"`` raises, because the student would have to cross ranks.

    Raises:
        ValueError, TypeError: a batch of more than ``rows``; shapes, dtypes, devices or labels that
            do not fit. All ranks need to raise alike: one that waits for another waits on.

    Example:
        >>> keys = gather_keys(torch.eye(3), torch.tensor([0, 1, -100]))
        >>> keys.where.tolist(), keys.own_start, keys.normalizer.item()
        ([True, True, False], 0, 2.0)
    """
    given = (teacher_logits, labels, sample_weight, where)
    like = next((x for x in given if isinstance(x, torch.Tensor)), None)
    teacher = torch_ops.asarray(teacher_logits, like).detach()
    arguments = Arguments("gather_keys", teacher, labels, sample_weight, where)
    checked = arguments.teacher_batch(
        "teacher_logits",
        teacher,
        labels,
        sample_weight=sample_weight,
        where=where,
        ignore_index=ignore_index,
    )
    ranks, rank = _place(group)
    batch = teacher.shape[0]
    if ranks > 1 and rows is not None and batch > rows:
        raise ValueError(
            f"gather_keys: rows needs the largest batch of a rank; got {rows} and a batch of "
            f"{batch}"
        )
    weight = checked.weight
    own_sizes = torch.stack([weight.new_full((), batch), weight.sum()])[None]
    (sizes,) = gather_rows([own_sizes], 1, group)
    largest = batch if ranks == 1 else rows
    if largest is None:
        largest = int(sizes[:, 0].max().item())
    parts = [teacher, checked.kept.to(torch.uint8)]
    parts += [] if labels is None else [checked.labels]
    logits, counts, *key_labels = gather_rows(parts, largest, group)
    return TeacherKeys(
        logits=logits,
        labels=key_labels[0] if key_labels else None,
        where=counts != 0,
        own_start=rank * largest,
        normalizer=sizes[:, 1].mean(),
    )


def gather_rows(
    parts: Sequence[torch.Tensor], rows: int, group: dist.ProcessGroup | None = None
) -> list[torch.Tensor]:
    """Return the rows of all ranks of each tensor, every rank's padded with zeros to ``rows``."""
    ranks, _ = _place(group)
    padded = [
        functional.pad(x, [0, 0] * (x.ndim - 1) + [0, rows - x.shape[0]]).contiguous()
        for x in parts
    ]
    if ranks == 1:
        return padded
    started = [all_gather(x, 0, group or dist.group.WORLD) for x in padded]
    return [_wait(x) for x in started]


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Return the number of ranks; 1 where no process group runs."""
    return _place(group)[0]


def _place(group: dist.ProcessGroup | None) -> tuple[int, int]:
    """Return how many ranks there are and which one this is."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1, 0
    return dist.get_world_size(group), dist.get_rank(group)


def _wait(x: torch.Tensor) -> torch.Tensor:
    """Return the plain tensor behind a started collective."""
    return x.wait() if isinstance(x, collectives.AsyncCollectiveTensor) else x
