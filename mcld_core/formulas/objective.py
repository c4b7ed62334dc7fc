"""The terms of the objective on a block of rows: values only, one a row, and their weighted sum.

A term is a function of a block, the `Setup` and the `Contrast` of both; its name in `TERMS` and
its weight in `MCLDConfig` are all that the objective needs. A key that does not count has
``S = MASKED``, a finite number so far below every logit that its exponential is exactly 0 and so
small that nothing overflows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

from mcld_core.arguments.rows import clip01, one_hot
from mcld_core.backends import Backend
from mcld_core.config import MCLDConfig
from mcld_core.formulas.divergence import (
    MASKED,
    Softmax,
    cross_entropy,
    decoupled_divergence,
    divide,
    raised,
    softened,
    times,
    whole_divergence,
)
from mcld_core.formulas.similarity import SIMILARITIES
from mcld_core.typing import Array, Bool, Float, Labels, Logits, Pairs, Scalar, Values

NEGLIGIBLE = 1e-30
"""A sum of label weights up to it is none: float32 has no digits there to divide by."""


class KeySet(NamedTuple):
    """Keys as the formulas take them: converted, labelled, masked."""

    vectors: Float[Array, "keys classes"]
    """Raw logits, until they are embedded for the similarity."""
    labels: Labels
    """-2, or zeros, where the key does not count: no anchor shares such a label."""
    kept: Bool[Array, " keys"] | None
    is_ready: bool = False
    """Whether the vectors are embedded already, and finite."""

    @classmethod
    def of(
        cls, ops: Backend, vectors: Array, labels: Labels, kept: Any, is_ready: bool = False
    ) -> KeySet:
        """Return keys with the labels of those that do not count masked."""
        if labels.ndim == 2:
            labels = labels if kept is None else ops.where(kept[:, None], labels, 0.0)
        else:
            counts = labels >= 0 if kept is None else (labels >= 0) & kept
            labels = ops.where(counts, labels, -2)
        return cls(vectors, labels, kept, is_ready)


class Block(NamedTuple):
    """A block of rows: the anchors of the contrasts."""

    student: Logits
    teacher: Logits
    labels: Any = None
    """(block,) int, or (block, classes) soft; None where no label is needed."""
    own: Any = None
    """(block,) int, the place of each anchor's own key among the keys; None without keys."""
    kept: Bool[Array, " block"] | None = None
    """Which rows count; None where all do."""
    pairs: Bool[Array, "block keys"] | None = None
    """Which keys each anchor is compared with, besides its own; None: with all."""


class Setup(NamedTuple):
    """What all blocks have in common: the settings, the key sets and the numbers."""

    config: MCLDConfig
    weights: dict[str, Scalar]
    """Of the terms that are computed, the category-wise one's with its ramp."""
    keys: KeySet | None
    """The teacher's rows."""
    prototypes: KeySet | None
    """One key a class."""
    temperature: Scalar
    key_temperature: Scalar
    sample_temperature: Scalar
    beta: Scalar
    log_prior: Float[Array, " classes"] | None = None

    def embedded(self, ops: Backend, dtype: str) -> Setup:
        """Return the setup with its keys as they enter S: once for all blocks."""
        found = cast("dict[str, Any]", {})
        for name, keys in (("keys", self.keys), ("prototypes", self.prototypes)):
            if keys is not None:
                x = ops.astype(keys.vectors, dtype)
                if not keys.is_ready:
                    x = x if keys.kept is None else ops.where(keys.kept[:, None], x, 0.0)
                    x = key_vectors(ops, x, self.config.similarity, self.key_temperature)
                found[name] = keys._replace(vectors=x)
        return self._replace(**found)


class Contrast(NamedTuple):
    """A block of anchors compared with all keys: what the terms by rows as keys share."""

    similarity: Pairs
    """S, with a class prior of ``s - log π``."""
    same_label: Pairs | None
    """A; None where no term needs it."""
    is_hard: bool
    """Whether A is 0 or 1."""
    removed: Pairs | None = None
    """1 at the own key and, with a target mask, A; None where the teacher grades the positives."""
    log_negatives: Values | None = None
    """``log Σ (1 - removed) exp S``."""
    by_teacher: tuple[Pairs, Pairs] | None = None
    """S without the prior and ``S^t``, where the teacher grades the positives."""


def by_block(
    ops: Backend,
    function: Callable[[Block, Any], tuple[Array, ...]],
    prepare: Callable[[Any], Any],
    block: Block,
    dtype: str,
    shared: Any,
    block_rows: Any,
) -> tuple[Array, ...]:
    """Evaluate ``function(block, shared)`` on all rows, block after block, by `Backend.by_block`.

    The function gets logits in ``dtype``, with zeros in rows that do not count, the student's
    raised to `MASKED`.
    """
    given = {name: x for name, x in block._asdict().items() if x is not None}
    names = tuple(given)  # what a backend keeps for the backward pass holds no array

    def of_rows(rows: tuple[Array, ...], shared: Any) -> tuple[Array, ...]:
        part = Block(**dict(zip(names, rows, strict=True)))
        student, teacher = ops.astype(part.student, dtype), ops.astype(part.teacher, dtype)
        if part.kept is not None:
            kept = part.kept[:, None]
            student, teacher = ops.where(kept, student, 0.0), ops.where(kept, teacher, 0.0)
        part = part._replace(student=ops.at_least(student, MASKED), teacher=teacher)
        return function(part, shared)

    return ops.by_block(of_rows, prepare, tuple(given.values()), shared, block_rows)


def rows_of_a_block(ops: Backend, rows: Any, keys: Any, classes: int, least: int) -> Any:
    """Return how many anchor rows a block has: all where they and the keys are few.

    The plain form is the fastest where its largest array takes less than 4 MB (a larger one is
    asked of the system in each call). Otherwise a block has 256 rows, or, where 4 MB hold fewer, as
    many as they hold, but at least ``least``. Where sizes are symbols, as in an export, there is
    one block.
    """
    if isinstance(rows, int) and isinstance(keys, int):
        whole = 2**20 // max(keys, classes, 1)
        return whole if rows < whole else max(min(whole, 256), least)
    if not (ops.is_tensor(rows) or ops.is_tensor(keys)):
        return None
    whole = 2**20 // ops.maximum(keys, classes)
    return ops.where(rows < whole, whole, ops.maximum(ops.minimum(whole, 256), least))


def weighted_terms(
    ops: Backend, block: Block, setup: Setup, shown: tuple[str, ...] = ()
) -> tuple[Values, ...]:
    """Return the total of each row, then the terms that are shown, unweighted; 0 without one."""
    contrast = None if setup.keys is None else compare(ops, block, setup, setup.keys)
    total, values = None, cast("dict[str, Any]", {})  # AutoGraph cannot read an annotation
    for name, weight in setup.weights.items():
        values[name] = TERMS[name](ops, block, setup, contrast)
        weighted = times(weight, values[name])
        total = weighted if total is None else total + weighted
    if total is None:
        total = 0.0 * block.student[:, 0]
    for name in shown:
        values.setdefault(name, 0.0 * total)
    return (total, *map(values.get, shown))


# the terms


def instance_term(ops: Backend, block: Block, setup: Setup, contrast: Any) -> Values:
    """InfoNCE with the own key as the positive: ``-S_own + log( exp S_own + Σ (1 - A) exp S )``.

    The sum is over the other keys. Written as ``softplus(log Σ - S_own)``, whose gradient keeps
    its digits where the own key is all but certain. With soft targets, whose positives the teacher
    grades, ``KL( softmax_j S^t_ij ‖ softmax_j S_ij )``: 0 with its gradient where S is ``S^t``.
    """
    if contrast.by_teacher is not None:
        s, of_teacher = contrast.by_teacher
        return Softmax.of(ops, of_teacher).kl_to(ops, Softmax.of(ops, s))
    at_own = ops.take_along_axis(contrast.similarity, block.own[:, None], 1)[:, 0]
    return -ops.log_sigmoid(at_own - contrast.log_negatives)


def sample_term(ops: Backend, block: Block, setup: Setup, contrast: Any) -> Values:
    """Within one row of logits: decoupled at the label (or its arg max), or plain."""
    student, teacher, temperature = block.student, block.teacher, setup.sample_temperature
    if student.shape[1] == 1:
        return 0.0 * student[:, 0]
    if not setup.config.sample_target_mask:
        return whole_divergence(ops, student, teacher, temperature, "forward")
    target = block.labels if block.labels.ndim == 1 else ops.argmax(block.labels, 1)
    return decoupled_divergence(ops, student, teacher, target, temperature, 1.0, setup.beta)


def category_term(ops: Backend, block: Block, setup: Setup, contrast: Any) -> Values:
    """One anchor against all keys: ``log Σ_k exp S_ik - Σ_j w_ij S_ij``, ``w = A / Σ A``.

    0, with a zero gradient, where no key has the anchor's label. With hard labels, a row in which
    one key alone is left out of the negatives, its positive, is written as
    ``softplus(log Σ_neg exp S - S_pos)``, whose gradient keeps its digits where the positive is
    all but certain. The keys are the teacher's rows, or one a class (``"prototypes"``).
    """
    if setup.prototypes is not None:
        s = similarity(ops, block.student, setup.prototypes, setup)
        same = affinity(ops, block.labels, setup.prototypes.labels, ops.dtype(s))
        contrast = Contrast(s, same, block.labels.ndim == 1)
    s, same = contrast.similarity, contrast.same_label
    count = ops.sum(same, 1)
    has_positive = count > NEGLIGIBLE
    mean = ops.sum(same * s, 1) / ops.where(has_positive, count, 1.0)
    value = Softmax.of(ops, s).log_sum - mean
    if contrast.is_hard:
        removed, log_negatives = contrast.removed, contrast.log_negatives
        if removed is None or not setup.config.target_mask:  # which leaves out all positives
            removed, log_negatives = same, log_sum_without(ops, s, same, True)
        alone = ops.sum(removed, 1) <= 1.0
        value = ops.where(alone, -ops.log_sigmoid(mean - log_negatives), value)
    return ops.where(has_positive, value, 0.0)


def ce_term(ops: Backend, block: Block, setup: Setup, contrast: Any) -> Values:
    """Cross-entropy with the labels."""
    return cross_entropy(ops, block.student, block.labels)


TERMS: dict[str, Callable[[Backend, Block, Setup, Any], Values]] = {
    "instance": instance_term,
    "sample": sample_term,
    "category": category_term,
    "ce": ce_term,
}
CONTRASTS = frozenset(("instance", "category"))
"""The terms that compare rows with keys: labels are compared there, and need not be classes."""


# what the contrasts share


def compare(ops: Backend, block: Block, setup: Setup, keys: KeySet) -> Contrast:
    """Compare anchors with all keys, as far as the terms need it."""
    student, own, config, weights = block.student, block.own, setup.config, setup.weights
    compared = None
    if block.pairs is not None:
        is_own = ops.arange(ops.size(keys.labels, 0), student)[None, :] == own[:, None]
        compared = block.pairs | is_own

    def of_anchors(logits: Logits) -> Pairs:
        s = similarity(ops, logits, keys, setup)
        return s if compared is None else ops.where(compared, s, MASKED)

    by_teacher = None
    if config.soft_targets and "instance" in weights:
        by_teacher = of_anchors(student), of_anchors(raised(ops, block.teacher))
        if "category" not in weights or setup.prototypes is not None:
            return Contrast(by_teacher[0], None, False, by_teacher=by_teacher)
    if setup.log_prior is not None:
        s = of_anchors(student - setup.log_prior[None, :])
    else:
        s = of_anchors(student) if by_teacher is None else by_teacher[0]
    same = affinity(ops, block.labels, keys.labels, ops.dtype(s))
    if compared is not None:
        same = ops.where(compared, same, 0.0)
    is_hard = block.labels.ndim == 1 and keys.labels.ndim == 1
    removed = log_negatives = None
    if by_teacher is None and "instance" in weights:
        removed = same if config.target_mask else ops.stop_gradient(0.0 * s)
        removed = ops.put_along_axis(removed, own[:, None], 1.0)
        log_negatives = log_sum_without(ops, s, removed, is_hard)
    return Contrast(s, same, is_hard, removed, log_negatives, by_teacher)


def similarity(ops: Backend, logits: Logits, keys: KeySet, setup: Setup) -> Pairs:
    """Return S of anchors, `MASKED` at the keys that do not count."""
    embed = SIMILARITIES[setup.config.similarity].embed
    anchors = divide(logits if embed is None else embed(ops, logits), setup.temperature)
    s = ops.matmul(anchors, ops.matrix_transpose(keys.vectors))
    if keys.kept is None:
        return s
    counts = ops.astype(keys.kept, ops.dtype(s))  # the vectors that do not count are finite
    return s + MASKED * (1.0 - counts)[None, :]


def key_vectors(
    ops: Backend, logits: Float[Array, "keys classes"], similarity: str, key_temperature: Scalar
) -> Float[Array, "keys classes"]:
    """Return the teacher's rows as they enter S."""
    chosen = SIMILARITIES[similarity]
    if not chosen.of_distributions:
        return logits if chosen.embed is None else chosen.embed(ops, logits)
    if isinstance(key_temperature, (int, float)):  # without a pass for logits of -inf
        return ops.softmax(divide(logits, key_temperature), 1)
    return ops.softmax(softened(ops, logits, key_temperature), 1)


def affinity(ops: Backend, labels: Labels, key_labels: Labels, dtype: str) -> Pairs:
    """Return A: 1 where anchor and key share a label, else 0; for soft labels how far they agree.

    Keys that do not count must come with label -2, or with a soft label of zeros.
    """
    if labels.ndim == 1 and key_labels.ndim == 1:
        return ops.astype(labels[:, None] == key_labels[None, :], dtype)
    classes = (labels if labels.ndim == 2 else key_labels).shape[1]
    labels, key_labels = (one_hot(ops, y, classes, dtype) for y in (labels, key_labels))
    inner = ops.matmul(labels, ops.matrix_transpose(key_labels))
    return clip01(ops, inner)


def log_sum_without(ops: Backend, similarity: Pairs, removed: Pairs, is_hard: bool) -> Values:
    """Return ``log Σ (1 - removed) exp S``; within 1e-6 of 1 a key is removed whole."""
    if is_hard:
        left = similarity + MASKED * removed
    else:
        share = 1.0 - removed
        counts = share > 1e-6
        left = similarity + ops.where(counts, ops.log(ops.where(counts, share, 1.0)), MASKED)
    return Softmax.of(ops, left).log_sum


def column_contrast(ops: Backend, block: Block, key_temperature: Scalar) -> Values:
    """Category-wise contrast within a class column, across the kept rows of the batch.

    ``L_i = B' Σ_c ω_c q^t_ic log(q^t_ic / q^s_ic)``. Since ``ω_c = Σ_k p^t_kc / B'`` and
    ``q^t_ic = p^t_ic / Σ_k p^t_kc``, the product ``B' ω_c q^t_ic`` is ``p^t_ic`` itself.
    """
    log_p_student = ops.log_softmax(block.student, 1)
    log_p_teacher = ops.log_softmax(softened(ops, block.teacher, key_temperature), 1)
    if block.kept is not None:
        log_p_student = ops.where(block.kept[:, None], log_p_student, MASKED)
        log_p_teacher = ops.where(block.kept[:, None], log_p_teacher, MASKED)
    p_teacher = ops.exp(log_p_teacher)
    log_q_student = ops.log_softmax(log_p_student, 0)
    log_q_teacher = ops.log_softmax(log_p_teacher, 0)
    return ops.sum(p_teacher * (log_q_teacher - log_q_student), 1)
