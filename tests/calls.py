"""Every loss of the library, called with arrays of any framework, device or tracer."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

import mcld_core
from mcld_core import (
    MCLDConfig,
    TeacherBank,
    TeacherKeys,
    adjust_logits,
    category_wise,
    dist_loss,
    dkd_loss,
    instance_wise,
    kd_loss,
    mcld_loss,
    nkd_loss,
    rld_loss,
    sample_wise,
    select_classes,
    ttm_loss,
)
from mcld_core.extensions import multimodal, nlp, teachers, timeseries
from mcld_core.extensions.multimodal import embedding_contrast, multimodal_mcld_loss
from mcld_core.extensions.nlp import (
    TopKLogits,
    linear_token_kd_loss,
    sampled_token_kd_loss,
    token_kd_loss,
    token_mcld_loss,
)
from mcld_core.extensions.teachers import (
    adaptive_mcld_loss,
    bounded_loss,
    ensemble,
    outlier_weights,
    reliability_weights,
    repair_rows,
)
from mcld_core.extensions.timeseries import window_mcld_loss
from mcld_core.formulas.similarity import SIMILARITIES

BATCH, CLASSES, TOKENS, KEPT = 6, 4, 3, 2
Arrays = SimpleNamespace
"""``student`` and the like as in `arrays`, of one framework."""


def arrays(dtype: str = "float32") -> dict[str, np.ndarray]:
    """Return what the calls are made of; floats in a dtype of NumPy."""
    rng = np.random.default_rng(0)

    def floats(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(dtype)

    def ints(most: int, *shape: int) -> np.ndarray:
        return rng.integers(0, most, shape).astype("int32")

    return {
        "student": floats(BATCH, CLASSES), "teacher": floats(BATCH, CLASSES),
        "labels": ints(CLASSES, BATCH), "soft": np.full((BATCH, CLASSES), 1 / CLASSES, dtype),
        "prior": np.arange(1.0, 1 + CLASSES).astype(dtype), "where": np.arange(BATCH) > 0,
        "weight": np.linspace(0.0, 1.0, BATCH).astype(dtype), "progress": np.asarray(0.5, dtype),
        "token_student": floats(BATCH, TOKENS, CLASSES),
        "token_teacher": floats(BATCH, TOKENS, CLASSES),
        "token_labels": ints(CLASSES, BATCH, TOKENS),
        "mask": np.ones((BATCH, TOKENS), bool),
        "values": np.full((BATCH, TOKENS, KEPT), np.log(0.45), dtype),
        "indices": np.broadcast_to(np.arange(KEPT, dtype="int32"), (BATCH, TOKENS, KEPT)),
        "tail": np.full((BATCH, TOKENS), np.log(0.1), dtype),
        "starts": np.arange(BATCH, dtype="int32"),
    }  # fmt: skip


def _rows(x: Arrays) -> tuple[Any, Any, Any]:
    return x.student, x.teacher, x.labels


def _tokens(x: Arrays) -> tuple[Any, Any, Any]:
    return x.token_student, x.token_teacher, x.token_labels


def _stored(x: Arrays) -> TopKLogits:
    return TopKLogits(x.values, x.indices, x.tail)


def _bank(x: Arrays) -> Any:
    bank = TeacherBank.empty(2 * BATCH, CLASSES, like=x.teacher).push(x.teacher, x.labels)
    return mcld_loss(*_rows(x), keys=bank.keys(x.teacher, x.labels))


def _modalities(x: Arrays) -> Any:
    student = {"image": x.student, "text": x.soft}
    teacher = {"image": x.teacher, "text": x.soft}
    return multimodal_mcld_loss(student, teacher, x.labels, class_prior=x.prior)


def _repaired(x: Arrays) -> Any:
    trust = reliability_weights(x.teacher, x.labels)
    mended = repair_rows(x.teacher, x.labels, trust * outlier_weights(x.teacher, x.labels))
    return adaptive_mcld_loss(x.student, mended, x.labels, reliability=trust)


CALLS: dict[str, Callable[[Arrays], Any]] = {
    "mcld_loss": lambda x: mcld_loss(*_rows(x)),
    "mcld_loss, every argument": lambda x: mcld_loss(
        *_rows(x), class_prior=x.prior, progress=x.progress, sample_weight=x.weight,
        where=x.where, config=MCLDConfig(weight_ce=1.0), return_terms=True)[0],
    "mcld_loss, soft labels": lambda x: mcld_loss(x.student, x.teacher, x.soft),
    "mcld_loss, no labels": lambda x: mcld_loss(x.student, x.teacher),
    "mcld_loss, soft targets": lambda x: mcld_loss(
        *_rows(x), config=MCLDConfig(soft_targets=True)),
    "mcld_loss, blocks": lambda x: mcld_loss(*_rows(x), config=MCLDConfig(block_size=2)),
    "mcld_loss, bank": _bank,
    "mcld_loss, pairs": lambda x: mcld_loss(
        *_rows(x), pairs=x.where[:, None] == x.where[None, :]),
    "mcld_loss, prototypes": lambda x: mcld_loss(
        *_rows(x), config=MCLDConfig(category_contrast="prototypes"),
        keys=TeacherKeys(x.teacher, x.labels)),
    "mcld_loss, columns": lambda x: mcld_loss(
        *_rows(x), config=MCLDConfig(category_contrast="columns")),
    "mcld_loss, adjusted": lambda x: mcld_loss(
        adjust_logits(x.student, x.prior), x.teacher, x.labels, class_prior=x.prior),
    "instance_wise": lambda x: instance_wise(*_rows(x)),
    "sample_wise": lambda x: sample_wise(*_rows(x)),
    "category_wise": lambda x: category_wise(*_rows(x), class_prior=x.prior),
    "kd_loss": lambda x: kd_loss(x.student, x.teacher, sample_weight=x.weight, where=x.where),
    "kd_loss, reverse": lambda x: kd_loss(x.student, x.teacher, divergence="reverse"),
    "kd_loss, jsd": lambda x: kd_loss(x.student, x.teacher, divergence="jsd"),
    "kd_loss, standardize": lambda x: kd_loss(x.student, x.teacher, standardize=True),
    "kd_loss, other classes": lambda x: kd_loss(x.student, select_classes(x.teacher, [3, 2, 1, 0])),
    "kd_loss, ensemble": lambda x: kd_loss(x.student, ensemble([x.teacher, x.soft])),
    "dkd_loss": lambda x: dkd_loss(*_rows(x)),
    "nkd_loss": lambda x: nkd_loss(*_rows(x)),
    "rld_loss": lambda x: rld_loss(*_rows(x)),
    "dist_loss": lambda x: dist_loss(x.student, x.teacher),
    "ttm_loss": lambda x: ttm_loss(x.student, x.teacher),
    "token_mcld_loss": lambda x: token_mcld_loss(
        *_tokens(x), attention_mask=x.mask, shift=True, class_prior=x.prior),
    "token_mcld_loss, every contrast": lambda x: token_mcld_loss(
        *_tokens(x), token_contrast=1.0, sequence_contrast=1.0, sequence_labels=x.labels),
    "linear_token_kd_loss": lambda x: linear_token_kd_loss(
        x.token_student, x.teacher, (x.token_teacher, x.teacher)),
    "linear_token_kd_loss, stored": lambda x: linear_token_kd_loss(
        x.token_student, x.teacher, _stored(x)),
    "token_kd_loss": lambda x: token_kd_loss(*_tokens(x), attention_mask=x.mask),
    "token_kd_loss, stored": lambda x: token_kd_loss(x.token_student, _stored(x)),
    "token_kd_loss, stored, jsd": lambda x: token_kd_loss(
        x.token_student, _stored(x), divergence="jsd"),
    "sampled_token_kd_loss": lambda x: sampled_token_kd_loss(
        x.token_student, x.token_labels, 0.01 * x.tail, attention_mask=x.mask),
    "window_mcld_loss": lambda x: window_mcld_loss(*_rows(x), starts=x.starts, lengths=2),
    "window_mcld_loss, steps": lambda x: window_mcld_loss(
        x.token_student, x.token_teacher, x.labels, mask=x.mask),
    "embedding_contrast": lambda x: embedding_contrast(*_rows(x)),
    "multimodal_mcld_loss": _modalities,
    "adaptive_mcld_loss": _repaired,
    "bounded_loss": lambda x: bounded_loss(instance_wise(*_rows(x), reduction="none"), 0.5),
}  # fmt: skip
"""Name → loss of some arrays; what comes before the comma is the function's name."""
for _name in SIMILARITIES:
    CALLS[f"mcld_loss, {_name}"] = lambda x, similarity=_name: mcld_loss(
        *_rows(x), config=MCLDConfig(similarity=similarity)
    )


def losses() -> set[str]:
    """Return the names of the library's public losses."""
    modules = (mcld_core, multimodal, nlp, teachers, timeseries)
    names = {name for module in modules for name in vars(module) if not name.startswith("_")}
    return {name for name in names if re.fullmatch(r"\w+_(loss|wise|contrast)", name)}


def used_by(name: str, x: Arrays) -> dict[str, Any]:
    """Return the arrays that a call reads, by name."""
    used = {}

    class Reads:
        def __getattr__(self, key: str) -> Any:
            used[key] = getattr(x, key)
            return used[key]

    CALLS[name](Reads())
    return used


def has_batch(name: str, key: str) -> bool:
    """Whether the first axis of an array is the batch's; that of a last layer is its classes."""
    is_layer = name.startswith("linear_") and key == "teacher"
    return key not in ("prior", "progress") and not is_layer


def longer(name: str, x: dict[str, Any], concat: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """Return the arrays of a call with three rows more."""
    grown = {key: concat([value, value[:3]]) for key, value in x.items() if has_batch(name, key)}
    return x | grown
