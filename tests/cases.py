"""Cases to test with, and the library called on a case in a backend."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np

import mcld_core
from mcld_core import MCLDConfig, TeacherKeys
from tests.frameworks import Framework
from tests.oracles import Case, Keys

BATCH, CLASSES, KEYS = 5, 4, 9


def logits(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random multiples of 1/16 in [−8, 8]: exact in every dtype down to bfloat16."""
    return np.clip(np.round(rng.normal(scale=2.5, size=shape) * 16) / 16, -8, 8)


def soft_labels(rng: np.random.Generator, rows: int, classes: int) -> np.ndarray:
    """Random class weights in sixteenths, each row's sum exactly 1."""
    return rng.multinomial(16, np.full(classes, 1 / classes), size=rows) / 16


def make_case(
    seed: int = 0,
    *,
    batch: int = BATCH,
    classes: int = CLASSES,
    labels: str = "int",
    weights: bool = False,
    where: bool = False,
) -> Case:
    """Return a batch with labels "int", "soft" or "none", and weights and a mask if asked for."""
    rng = np.random.default_rng(seed)
    student, teacher = logits(rng, batch, classes), logits(rng, batch, classes)
    int_labels = rng.integers(0, min(classes, 3), size=batch)
    soft = soft_labels(rng, batch, classes)
    sample_weight = rng.integers(1, 9, size=batch) / 4
    keep = np.arange(batch) % 3 != 1
    return Case(
        student=student,
        teacher=teacher,
        labels={"int": int_labels, "soft": soft, "none": None}[labels],
        sample_weight=sample_weight if weights else None,
        where=keep if where else None,
    )


def make_keys(
    case: Case, seed: int = 1, *, rows: int = KEYS, own_start: int = 0, labels: str = "int"
) -> Keys:
    """Return keys that hold the case's own rows from `own_start` on, others around them."""
    rng = np.random.default_rng(seed)
    batch, classes = case.teacher.shape
    key_logits = logits(rng, rows, classes)
    own = slice(own_start, own_start + batch)
    key_logits[own] = case.teacher
    if labels == "none":
        return Keys(key_logits, own_start=own_start)
    if labels == "int":
        key_labels = rng.integers(0, min(classes, 3), size=rows)
        own_labels = case.labels
        if own_labels is not None and own_labels.ndim == 2:
            own_labels = own_labels.argmax(-1)
    else:
        key_labels = soft_labels(rng, rows, classes)
        own_labels = case.labels
        if own_labels is not None and own_labels.ndim == 1:
            own_labels = np.eye(classes)[own_labels]
    if own_labels is not None:
        key_labels[own] = own_labels
    return Keys(key_logits, key_labels, own_start=own_start)


def bind(
    backend: Framework,
    function: Callable[..., Any],
    case: Case,
    dtype: str = "float64",
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Callable[[Any], Any]:
    """Return student → function(student, the case's other arguments in this backend).

    `settings` go into an `MCLDConfig`, `options` straight into the call.
    """

    def array(values: Any) -> Any:
        return backend.array(values, dtype)

    arguments = [array(case.teacher)]
    options |= {"sample_weight": array(case.sample_weight), "where": array(case.where)}
    given = signature(function).parameters
    if "labels" in given:
        arguments.append(array(case.labels))
    if "pairs" in given:
        options["pairs"] = array(case.pairs)
    if "config" in given:
        options["config"] = MCLDConfig(**(settings or {}))
        options["keys"] = teacher_keys(backend, case.keys, dtype)
    if function is mcld_core.mcld_loss:
        options.setdefault("progress", case.progress)
    return lambda student: function(student, *arguments, **options)


def teacher_keys(backend: Framework, keys: Keys | None, dtype: str) -> TeacherKeys | None:
    """Return the keys as the library's, in this backend's arrays."""
    if keys is None:
        return None
    return TeacherKeys(
        logits=backend.array(keys.logits, dtype),
        labels=backend.array(keys.labels, dtype),
        where=backend.array(keys.where),
        own_start=keys.own_start,
        prototypes=backend.array(keys.prototypes, dtype),
        normalizer=backend.array(keys.normalizer, dtype),
    )


def value(
    backend: Framework,
    function: Callable[..., Any],
    case: Case,
    dtype: str = "float64",
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> np.ndarray:
    """Return the library's value on the case, as NumPy."""
    call = bind(backend, function, case, dtype, settings, **options)
    return backend.to_numpy(call(backend.array(case.student, dtype)))


def value_and_grad(
    backend: Framework,
    function: Callable[..., Any],
    case: Case,
    dtype: str = "float64",
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the library's value and gradient on the case, as NumPy."""
    call = bind(backend, function, case, dtype, settings, **options)
    return backend.value_and_grad(call, case.student, dtype)
