"""The losses as a PyTorch user writes them by hand: plain autograd, one Gram matrix a term.

The benchmarks compare with these functions, so they are kept ordinary: no sharing between
the terms, no custom gradient, integer labels, mean over the rows. Without `key_logits` the
batch is its own keys; with them, the first rows of the keys are the batch's own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def instance_wise(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    key_logits: Tensor | None = None,
    key_labels: Tensor | None = None,
    *,
    target_mask: bool = True,
) -> Tensor:
    """InfoNCE of student logits against teacher probabilities, same-label keys masked."""
    keys = (teacher if key_logits is None else key_logits).detach().softmax(-1)
    gram = student @ keys.T
    own = torch.arange(len(student), device=student.device)
    if target_mask:
        same = labels[:, None] == (labels if key_labels is None else key_labels)[None, :]
        same[own, own] = False
        gram = gram.masked_fill(same, float("-inf"))
    return F.cross_entropy(gram, own)


def category_wise(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    key_logits: Tensor | None = None,
    key_labels: Tensor | None = None,
) -> Tensor:
    """Supervised contrast: every key of the same label is a positive."""
    keys = (teacher if key_logits is None else key_logits).detach().softmax(-1)
    gram = student @ keys.T
    same = labels[:, None] == (labels if key_labels is None else key_labels)[None, :]
    positives = same.to(gram.dtype) / same.sum(-1, keepdim=True)
    return -(positives * gram.log_softmax(-1)).sum(-1).mean()


def sample_wise(
    student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float = 4.0, beta: float = 1.0
) -> Tensor:
    """The decoupled loss: the target against the rest, and the rest without the target."""
    student, teacher = student / temperature, teacher.detach() / temperature
    is_target = F.one_hot(labels, student.shape[-1]).bool()

    def split(logits: Tensor) -> tuple[Tensor, Tensor]:
        rest = logits.masked_fill(is_target, float("-inf")).logsumexp(-1)
        gap = logits[is_target] - rest
        others = logits[~is_target].view(len(logits), -1).log_softmax(-1)
        return torch.stack([F.logsigmoid(gap), F.logsigmoid(-gap)], -1), others

    (student_binary, student_rest), (teacher_binary, teacher_rest) = split(student), split(teacher)
    binary = F.kl_div(student_binary, teacher_binary, log_target=True, reduction="batchmean")
    others = F.kl_div(student_rest, teacher_rest, log_target=True, reduction="batchmean")
    return temperature**2 * (binary + beta * others)


def mcld_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    key_logits: Tensor | None = None,
    key_labels: Tensor | None = None,
    *,
    weight_instance: float = 1.0,
    weight_sample: float = 0.25,
    weight_category: float = 1.0,
) -> Tensor:
    """The weighted sum of the three, each computed on its own."""
    return (
        weight_instance * instance_wise(student, teacher, labels, key_logits, key_labels)
        + weight_sample * sample_wise(student, teacher, labels)
        + weight_category * category_wise(student, teacher, labels, key_logits, key_labels)
    )


def kd_loss(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Hinton's distillation loss with T²."""
    student_log = (student / temperature).log_softmax(-1)
    teacher_log = (teacher.detach() / temperature).log_softmax(-1)
    divergence = F.kl_div(student_log, teacher_log, log_target=True, reduction="batchmean")
    return temperature**2 * divergence
