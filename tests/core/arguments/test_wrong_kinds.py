"""What is no array of numbers, no 64-bit int or no dict is named by the error of every function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mcld_core
from mcld_core.extensions import multimodal, nlp, teachers, timeseries

Z, TOKENS = np.eye(3), np.zeros((2, 3, 4))
LABELS, HOLE, HUGE = np.arange(3), [[1.0, None]], 10**30
ONE = {"a": Z}

WRONG: list[tuple[str, Callable[[], Any]]] = [
    ("labels", lambda: mcld_core.check_finite(Z, Z, "labels")),
    ("logits", lambda: mcld_core.adjust_logits(HOLE, [1, 1])),
    ("class_prior", lambda: mcld_core.balance_logits(Z, HOLE)),
    ("mapping", lambda: mcld_core.select_classes(Z, HOLE)),
    ("temperature", lambda: mcld_core.kd_loss(Z, Z, temperature=HUGE)),
    ("ignore_index", lambda: mcld_core.dkd_loss(Z, Z, LABELS, ignore_index=None)),
    ("ignore_index", lambda: mcld_core.nkd_loss(Z, Z, LABELS, ignore_index=-HUGE)),
    ("logits", lambda: mcld_core.TeacherBank.from_logits("rows")),
    ("attention_mask", lambda: nlp.token_kd_loss(TOKENS, TOKENS, attention_mask={})),
    ("labels", lambda: nlp.token_mcld_loss(TOKENS, TOKENS, "labels")),
    ("sequence_contrast", lambda: nlp.token_mcld_loss(TOKENS, TOKENS, sequence_contrast=None)),
    (
        "teacher_logprobs",
        lambda: nlp.sampled_token_kd_loss(TOKENS, TOKENS[..., 0].astype(int), None),
    ),
    ("tokens", lambda: nlp.sampled_token_kd_loss(TOKENS, None, TOKENS[..., 0])),
    ("logits", lambda: nlp.TopKLogits.from_logits([1, 2], 1)),
    ("ids", lambda: nlp.TopKLogits.from_samples("drawn")),
    ("generator", lambda: nlp.sample_teacher(TOKENS, 2, 0)),
    ("step_labels", lambda: timeseries.window_mcld_loss(TOKENS, TOKENS, step_labels=object())),
    ("student_logits", lambda: nlp.token_kd_loss((TOKENS, TOKENS[0]), TOKENS)),
    ("teacher", lambda: nlp.token_kd_loss(TOKENS, (TOKENS,) * 6)),
    ("series", lambda: timeseries.cut_windows(None, length=4)),
    ("scale", lambda: timeseries.forecast_to_logits(Z, [0.0], scale=[1.0, 2.0])),
    ("length", lambda: timeseries.cut_windows([Z], length="4")),
    ("bins", lambda: timeseries.forecast_bins(Z, bins=2.5)),
    ("targets", lambda: timeseries.forecast_bins("targets")),
    ("ignore_index", lambda: timeseries.bin_labels(Z, [0.0], ignore_index=None)),
    ("edges", lambda: timeseries.forecast_to_logits(Z, "edges")),
    ("student", lambda: multimodal.multimodal_mcld_loss([Z], ONE)),
    ("teacher_where", lambda: multimodal.multimodal_mcld_loss(ONE, ONE, teacher_where=0.5)),
    ("labels", lambda: teachers.outlier_weights(Z, HOLE)),
]


@pytest.mark.parametrize(
    ("argument", "call"), WRONG, ids=[f"{i}-{x}" for i, (x, _) in enumerate(WRONG)]
)
def test_the_error_names_the_argument(argument: str, call: Callable[[], Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^\w[\w.]*: {argument} needs? "):
        call()
