"""The objective on a block of anchor rows: which terms it has, and their weighted sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mcld_core.backends import Backend
from mcld_core.config import MCLDConfig
from mcld_core.formulas.contrast import (
    Negatives,
    affinity,
    category_contrast,
    instance_contrast,
    relational_contrast,
)
from mcld_core.formulas.divergence import (
    MASKED,
    cross_entropy,
    decoupled_divergence,
    divide,
    kl_divergence,
    raised,
    target_class,
    times,
)
from mcld_core.formulas.similarity import embed
from mcld_core.formulas.stored import (
    StoredKeys,
    StoredRows,
    stored_decoupled_divergence,
    stored_kl_divergence,
    stored_products,
)
from mcld_core.typing import Array, Bool, Float, Int, Labels, Logits, Pairs, Places, Scalar, Values

TERMS = ("instance", "sample", "category", "ce")


class TermWeights(NamedTuple):
    """The weight of each term, the category-wise one with or without its ramp."""

    instance: Scalar = 0.0
    sample: Scalar = 0.0
    category: Scalar = 0.0
    ce: Scalar = 0.0


class KeySet(NamedTuple):
    """Keys as the formulas take them: converted, labelled, masked."""

    vectors: Float[Array, "keys classes"] | StoredRows | StoredKeys
    """Raw logits, until they are embedded for the similarity."""
    labels: Labels
    """-2, or zeros, where the key does not count: no anchor shares such a label."""
    kept: Bool[Array, " keys"] | None
    is_ready: bool = False
    """Whether the vectors are embedded already, and finite."""


class ExcludedKeys(NamedTuple):
    """Keys that do not push an anchor, whatever their labels.

    For rows with a place: a token is contrasted within its own sequence, a window with windows
    that it does not overlap. ``excludes(anchor, key)`` gets the facts of a block of anchors,
    each (block, 1), and of all keys, each (1, keys), and returns (block, keys) bool; the anchors'
    facts are those of their own keys. The own key always counts.
    """

    excludes: Callable[[tuple[Array, ...], tuple[Array, ...]], Array]
    facts: tuple[Int[Array, " keys"], ...]
    in_category: bool = False
    """Also leave such a key out of the category-wise term, unless it shares the label."""


class Block(NamedTuple):
    """A block of anchor rows."""

    student: Logits
    teacher: Logits | StoredRows
    labels: Labels
    own: Places
    """The place of each anchor's own key among the keys."""
    kept: Bool[Array, " block"] | None = None
    """Which rows count; None where all do."""
    pairs: Bool[Array, "block keys"] | None = None
    """Which keys each anchor is compared with, besides its own; None: with all."""
    factors: Float[Array, "block terms"] | None = None
    """What each row's terms (`TERMS`) are multiplied by in the total; None where by 1."""


class Setup(NamedTuple):
    """What all blocks have in common: the key sets and the numbers of the objective."""

    keys: KeySet | None
    """The teacher's rows."""
    prototypes: KeySet | None
    """One key a class."""
    weights: TermWeights
    temperature: Scalar
    key_temperature: Scalar
    sample_temperature: Scalar
    beta: Scalar
    log_prior: Float[Array, " classes"] | None = None
    excluded: ExcludedKeys | None = None


def is_zero(weight: Scalar) -> bool:
    """Whether a weight is the Python number 0, so that its term need not be computed.

    A ramp of 0 in NumPy's float64 is not: that type is a subclass of float.
    """
    return type(weight) in (int, float) and weight == 0


def is_present(config: MCLDConfig, weights: TermWeights, category_contrast: str) -> bool:
    """Whether the category-wise term is computed, and in this reading."""
    return config.category_contrast == category_contrast and not is_zero(weights.category)


def weighted_terms(
    ops: Backend,
    config: MCLDConfig,
    dtype: str,
    block: Block,
    setup: Setup,
    shown: tuple[str, ...] = TERMS,
) -> tuple[Values, ...]:
    """Return the total of each row, then the terms that are shown, unweighted; 0 without one."""
    student = raised(ops, _rows(ops, block.student, dtype, block.kept))
    teacher = block.teacher
    if not isinstance(teacher, StoredRows):  # whose rows that do not count hold zeros already
        teacher = _rows(ops, teacher, dtype, block.kept)
    terms = _contrasts(ops, config, student, teacher, block, setup)
    if setup.prototypes is not None:
        s = _similarity(ops, config, student, setup.prototypes, setup.temperature)
        same = affinity(ops, block.labels, setup.prototypes.labels, dtype)
        terms["category"] = category_contrast(ops, s, same, block.labels.ndim == 1)
    if not is_zero(setup.weights.sample):
        terms["sample"] = _sample_wise(ops, config, student, teacher, block.labels, setup)
    if not is_zero(setup.weights.ce):
        terms["ce"] = cross_entropy(ops, student, block.labels)
    total = None
    for name, value in terms.items():
        weighted = times(getattr(setup.weights, name), value)
        if block.factors is not None:
            weighted = weighted * block.factors[:, TERMS.index(name)]
        total = weighted if total is None else total + weighted
    if total is None:
        total = 0.0 * student[:, 0]
    return (total, *(terms[name] if name in terms else 0.0 * total for name in shown))


def _contrasts(
    ops: Backend, config: MCLDConfig, student: Logits, teacher: Logits, block: Block, setup: Setup
) -> dict[str, Values]:
    """Return the instance-wise term, and the category-wise one by labels: those by rows as keys."""
    keys, terms = setup.keys, {}
    if keys is None:
        return terms
    has_instance = not is_zero(setup.weights.instance)
    is_soft = has_instance and config.soft_targets
    compared = None
    if block.pairs is not None:
        own = ops.arange(ops.size(keys.labels, 0), student)[None, :] == block.own[:, None]
        compared = block.pairs | own

    def similarity(anchors: Logits) -> Pairs:
        s = _similarity(ops, config, anchors, keys, setup.temperature)
        return s if compared is None else ops.where(compared, s, MASKED)

    s = None
    if is_soft:
        s = similarity(student)
        terms["instance"] = relational_contrast(ops, s, similarity(raised(ops, teacher)))
        if not is_present(config, setup.weights, "labels"):
            return terms
    if s is None or setup.log_prior is not None:
        s = similarity(student if setup.log_prior is None else student - setup.log_prior[None, :])
    same = affinity(ops, block.labels, keys.labels, ops.dtype(s))
    if compared is not None:
        same = ops.where(compared, same, 0.0)
    hard = block.labels.ndim == 1 and keys.labels.ndim == 1
    excluded = negatives = None
    if setup.excluded is not None:
        anchor = tuple(ops.take(fact, block.own)[:, None] for fact in setup.excluded.facts)
        others = tuple(fact[None, :] for fact in setup.excluded.facts)
        excluded = setup.excluded.excludes(anchor, others)
    if has_instance and not is_soft:
        removed = same if config.target_mask else None
        if excluded is not None:
            removed = ops.where(excluded, 1.0, 0.0 * s if removed is None else removed)
        negatives = Negatives.of(ops, s, removed, block.own, hard)
        terms["instance"] = instance_contrast(ops, s, negatives, block.own)
    if is_present(config, setup.weights, "labels"):
        split = negatives if excluded is None and config.target_mask else None
        if setup.excluded is not None and setup.excluded.in_category:
            s = ops.where(excluded & (same <= 0), MASKED, s)
        terms["category"] = category_contrast(ops, s, same, hard, split)
    return terms


def _sample_wise(
    ops: Backend,
    config: MCLDConfig,
    student: Logits,
    teacher: Logits | StoredRows,
    labels: Array,
    setup: Setup,
) -> Values:
    """The sample-wise term: decoupled at the label (or its arg max), or plain."""
    if student.shape[1] == 1:
        return 0.0 * student[:, 0]
    temperature, is_stored = setup.sample_temperature, isinstance(teacher, StoredRows)
    if not config.sample_target_mask:
        divergence = stored_kl_divergence if is_stored else kl_divergence
        return divergence(ops, student, teacher, temperature)
    target = target_class(ops, labels)
    if is_stored:
        return stored_decoupled_divergence(ops, student, teacher, target, temperature, setup.beta)
    return decoupled_divergence(ops, student, teacher, target, temperature, 1.0, setup.beta)


def _similarity(
    ops: Backend, config: MCLDConfig, logits: Logits, keys: KeySet, temperature: Scalar
) -> Pairs:
    """Return S for a block of anchors, `MASKED` at the keys that do not count."""
    anchors = divide(embed(ops, logits, config.similarity), temperature)
    if isinstance(keys.vectors, StoredKeys):
        s = stored_products(ops, anchors, keys.vectors)
    else:
        s = ops.matmul(anchors, ops.matrix_transpose(keys.vectors))
    if keys.kept is None:
        return s
    counts = ops.astype(keys.kept, ops.dtype(s))  # the vectors that do not count are finite
    return s + MASKED * (1.0 - counts)[None, :]


def _rows(ops: Backend, x: Array, dtype: str, kept: Array | None) -> Array:
    """Convert rows, with zeros in those that do not count."""
    x = ops.astype(x, dtype)
    return x if kept is None else ops.where(kept[:, None], x, 0.0)
