"""The arguments of one call, as NumPy arrays: what the oracles and every backend are given."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

DEFAULTS: dict[str, Any] = {
    "weight_instance": 1.0,
    "weight_sample": 0.25,
    "weight_category": 1.0,
    "weight_ce": 0.0,
    "similarity": "probability",
    "temperature": None,
    "key_temperature": 1.0,
    "sample_temperature": 4.0,
    "target_mask": True,
    "soft_targets": False,
    "sample_target_mask": True,
    "beta": 1.0,
    "category_contrast": "labels",
    "category_warmup": 1.0,
    "ignore_index": -100,
}


@dataclass(frozen=True, eq=False)
class Keys:
    """Teacher rows to contrast with, as `mcld_core.TeacherKeys` holds them."""

    logits: np.ndarray
    labels: np.ndarray | None = None
    where: np.ndarray | None = None
    own_start: int = 0
    prototypes: np.ndarray | None = None
    normalizer: float | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """One batch: logits (batch, classes) and what may come with them."""

    student: np.ndarray
    teacher: np.ndarray
    labels: np.ndarray | None = None
    sample_weight: np.ndarray | None = None
    where: np.ndarray | None = None
    keys: Keys | None = None
    progress: float = 1.0
    pairs: np.ndarray | None = None

    def but(self, **changes: Any) -> Case:
        """Return the same case with some arguments changed."""
        return replace(self, **changes)

    def take(self, rows: Any) -> Case:
        """Return the case of these rows alone, in this order (for a case without keys)."""
        if self.keys is not None:
            raise ValueError("take: a case with keys has no rows of its own to choose from.")
        pick = {
            name: None if (value := getattr(self, name)) is None else value[rows]
            for name in ("student", "teacher", "labels", "sample_weight", "where")
        }
        if self.pairs is not None:
            pick["pairs"] = self.pairs[rows][:, rows]
        return replace(self, **pick)


@dataclass(frozen=True)
class View:
    """A case after the conventions: which rows and keys count, and the label of each."""

    student: list[list[float]]
    teacher: list[list[float]]
    labels: list[Any]
    kept: list[bool]
    values: list[float]
    keys: list[list[float]]
    key_labels: list[Any]
    key_kept: list[bool]
    own: list[int]
    compared: list[list[bool]]
    classes: int
    prototypes: list[list[float]] | None
    normalizer: float | None
    settings: dict[str, Any] = field(default_factory=dict)


def view(case: Case, settings: dict[str, Any]) -> View:
    """Apply the conventions for labels, masks, weights and keys, row by row."""
    chosen = DEFAULTS | settings
    student = np.asarray(case.student, np.float64).tolist()
    teacher = np.asarray(case.teacher, np.float64).tolist()
    labels = _row_labels(case.labels, teacher)
    kept = []
    for i in range(len(student)):
        masked = case.where is not None and not case.where[i]
        kept.append(not masked and not _is_ignored(labels[i], chosen["ignore_index"]))
    values = []
    for i in range(len(student)):
        weight = 1.0 if case.sample_weight is None else float(case.sample_weight[i])
        values.append(weight if kept[i] else 0.0)
    keys = case.keys if case.keys is not None else Keys(case.teacher, case.labels)
    key_rows = np.asarray(keys.logits, np.float64).tolist()
    key_labels = _row_labels(keys.labels, key_rows)
    own = [keys.own_start + i for i in range(len(student))]
    key_kept = []
    for j in range(len(key_rows)):
        masked = keys.where is not None and not keys.where[j]
        key_kept.append(not masked and not _is_ignored(key_labels[j], chosen["ignore_index"]))
    for i in range(len(student)):
        key_kept[own[i]] = kept[i]
    compared = []
    for i in range(len(student)):
        seen = [case.pairs is None or bool(case.pairs[i][j]) for j in range(len(key_rows))]
        seen[own[i]] = True
        compared.append([seen[j] and key_kept[j] for j in range(len(key_rows))])
    prototypes = None if keys.prototypes is None else np.asarray(keys.prototypes).tolist()
    return View(
        student=student,
        teacher=teacher,
        labels=labels,
        kept=kept,
        values=values,
        keys=key_rows,
        key_labels=key_labels,
        key_kept=key_kept,
        own=own,
        compared=compared,
        classes=int(np.shape(case.student)[1]),
        prototypes=prototypes,
        normalizer=keys.normalizer,
        settings=chosen,
    )


def _row_labels(labels: np.ndarray | None, logits: list[list[float]]) -> list[Any]:
    """One label a row: a class number, or a list of class weights."""
    if labels is None:
        return [max(range(len(row)), key=lambda c, row=row: row[c]) for row in logits]
    if np.ndim(labels) == 1:
        return [int(label) for label in labels]
    return np.asarray(labels, np.float64).tolist()


def _is_ignored(label: Any, ignore_index: int) -> bool:
    return isinstance(label, int) and label == ignore_index
