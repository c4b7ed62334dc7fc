"""The losses as a PyTorch user writes them by hand: plain autograd, one Gram matrix a term.

The benchmarks compare with these functions, so they are kept ordinary: no sharing between
the terms, no custom gradient, integer labels, mean over the rows. Without `key_logits` the
batch is its own keys; with them, the first rows of the keys are the batch's own. Some of the
baselines underflow where the library's do not.
"""

from __future__ import annotations

import math

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


def lskd_loss(student: Tensor, teacher: Tensor, *, temperature: float = 2.0) -> Tensor:
    """KD of standardised logits."""
    student, teacher = (
        (z - z.mean(-1, keepdim=True)) / (z.std(-1, keepdim=True) + 1e-7)
        for z in (student, teacher.detach())
    )
    return kd_loss(student, teacher, temperature=temperature)


def reverse_kl(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """KD with the divergence turned round."""
    student_log = (student / temperature).log_softmax(-1)
    teacher_log = (teacher.detach() / temperature).log_softmax(-1)
    divergence = F.kl_div(teacher_log, student_log, log_target=True, reduction="batchmean")
    return temperature**2 * divergence


def jsd(student: Tensor, teacher: Tensor, *, temperature: float = 4.0, mix: float = 0.5) -> Tensor:
    """The divergence of both from their mixture."""
    student_log = (student / temperature).log_softmax(-1)
    teacher_log = (teacher.detach() / temperature).log_softmax(-1)
    both = torch.stack([student_log + math.log(1 - mix), teacher_log + math.log(mix)])
    mixture = both.logsumexp(0)
    of_teacher = F.kl_div(mixture, teacher_log, log_target=True, reduction="batchmean")
    of_student = F.kl_div(mixture, student_log, log_target=True, reduction="batchmean")
    return temperature**2 * (mix * of_teacher + (1 - mix) * of_student)


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """The decoupled loss by probabilities, as it is usually written."""
    student, teacher = student / temperature, teacher.detach() / temperature
    is_target = F.one_hot(labels, student.shape[-1]).bool()

    def pair(logits: Tensor) -> Tensor:
        p = logits.softmax(-1)
        at_target = p[is_target]
        return torch.stack([at_target, 1 - at_target], -1)

    def rest(logits: Tensor) -> Tensor:
        return logits.masked_fill(is_target, -1000.0).log_softmax(-1)

    binary = F.kl_div(pair(student).log(), pair(teacher), reduction="batchmean")
    others = F.kl_div(rest(student), rest(teacher), log_target=True, reduction="batchmean")
    return temperature**2 * (alpha * binary + beta * others)


def dist_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the correlation of the rows, and of the columns, of the probabilities."""

    def apart(q: Tensor, p: Tensor) -> Tensor:
        q, p = q - q.mean(-1, keepdim=True), p - p.mean(-1, keepdim=True)
        return 1 - ((q * p).sum(-1) / (q.norm(dim=-1) * p.norm(dim=-1))).mean()

    q, p = student.softmax(-1), teacher.detach().softmax(-1)
    return apart(q, p) + apart(q.T, p.T)


def nkd_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    gamma: float = 1.5,
    temperature: float = 1.0,
) -> Tensor:
    """The cross-entropy of the target, and that of the others among themselves."""
    teacher = teacher.detach()
    index = labels[:, None]
    at_target = teacher.softmax(-1).gather(1, index) * student.log_softmax(-1).gather(1, index)
    others = ~F.one_hot(labels, student.shape[-1]).bool()
    student, teacher = (z[others].view(len(z), -1) / temperature for z in (student, teacher))
    cross = (teacher.softmax(-1) * student.log_softmax(-1)).sum(-1)
    return -at_target.mean() - gamma * temperature**2 * cross.mean()


def ttm_loss(student: Tensor, teacher: Tensor, *, gamma: float = 0.1) -> Tensor:
    """The weighted form, WTTM."""
    power = teacher.detach().softmax(-1) ** gamma
    total = power.sum(-1)
    divergence = F.kl_div(student.log_softmax(-1), power / total[:, None], reduction="none")
    return (total * divergence.sum(-1)).mean()


def rld_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """The teacher's confidence at the label, and the classes that it ranks below the label."""
    teacher, index = teacher.detach(), labels[:, None]
    confidence, at_label = teacher.softmax(-1).amax(-1), student.softmax(-1).gather(1, index)[:, 0]
    binary = F.kl_div(
        torch.stack([at_label, 1 - at_label], -1).log(),
        torch.stack([confidence, 1 - confidence], -1),
        reduction="batchmean",
    )
    above = teacher >= teacher.gather(1, index)
    student_rest, teacher_rest = (
        (z / temperature).masked_fill(above, -1e9).log_softmax(-1) for z in (student, teacher)
    )
    below = F.kl_div(student_rest, teacher_rest, log_target=True, reduction="batchmean")
    return alpha * binary + beta * temperature**2 * below
