"""Each argument of each function as what it is not: taken, or refused by an error of the library.

What is wrong is told by a ValueError or TypeError that begins with the name of the function, or of
the public function that it calls, never by a framework's own error, a warning, or a NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, TeacherKeys
from mcld_core.extensions.multimodal import embedding_contrast, feature_mse, multimodal_mcld_loss
from mcld_core.extensions.teachers import (
    TeacherQuality,
    adaptive_mcld_loss,
    bounded_loss,
    ensemble,
    outlier_weights,
    quality_weights,
    reliability_weights,
    repair_rows,
)
from tests.frameworks import Framework

ROWS, CLASSES = 6, 4
RNG = np.random.default_rng(0)
TEACHER, LABELS = RNG.normal(size=(ROWS, CLASSES)), RNG.integers(0, CLASSES, ROWS)
Call = tuple[Callable[..., Any], dict[str, Any]]

NONSENSE: dict[str, Any] = {
    "None": None,
    "NaN": np.nan,
    "infinity": np.inf,
    "-1": -1.0,
    "text": "x",
    "bool": True,
    "list": [1.0, 2.0],
    "no entry": [],
    "ragged": [[1.0], [1.0, 2.0]],
    "dict": {},
    "class": MCLDConfig,
    "object": object(),
    "vector": np.ones(ROWS + 1),
    "matrix": np.ones((ROWS, CLASSES + 1)),
    "three axes": np.ones((ROWS, CLASSES, 2)),
    "complex": np.ones(ROWS) * 1j,
    "NaN in a row": np.where(np.arange(ROWS) == 2, np.nan, 1.0),
    "below 0": -np.ones(ROWS),
    "ints": np.ones((ROWS, CLASSES), int),
    "texts": np.array(["a"] * ROWS),
    "no axes": np.asarray(0.5),
}
MAY_BE_NAN = {("bounded_loss", "rows")}  # a NaN of a loss is not hidden


def calls(backend: Framework) -> dict[str, Call]:
    """Return each function with arguments that it takes."""
    t, y, where = backend.array(TEACHER), backend.array(LABELS), backend.array(LABELS >= 0)
    r, prior = backend.array(np.linspace(0.0, 1.0, ROWS)), backend.array(np.ones(CLASSES))
    quality = TeacherQuality.from_logits(t, y)
    config, pair = MCLDConfig(), ("image", "text")
    rows = {"labels": y, "where": where}
    teacher = {"teacher_logits": t, "ignore_index": -100, **rows}
    loss = {"sample_weight": r, "where": where, "reduction": "mean"}
    batch = {"config": config, "progress": 0.5, **rows, **loss}
    of_modalities = {
        "student": {"image": t}, "teacher": {"text": t}, "labels": y, "pairs": {pair: 1.0},
        "kind": "logits", "config": config, "logit_scale": None, "student_where": {"image": where},
        "teacher_where": {"text": where}, "weight_local": 1.0, "class_prior": prior,
        "other_losses": {pair: (1.0, feature_mse)}, "progress": 0.5, "sample_weight": r,
        "reduction": "mean", "return_terms": False,
    }  # fmt: skip
    return {
        "reliability_weights": (
            reliability_weights,
            {**teacher, "quality": quality, "temperature": 0.5, "strength": 1.0}),
        "repair_rows": (repair_rows, {**teacher, "reliability": r, "smoothing": 0.1}),
        "outlier_weights": (outlier_weights, {**teacher, "cutoff": 0.5}),
        "adaptive_mcld_loss": (
            adaptive_mcld_loss,
            {**batch, "student_logits": t, "teacher_logits": t, "reliability": r,
             "keys": TeacherKeys(t, y), "class_prior": prior}),
        "bounded_loss": (bounded_loss, {**loss, "rows": r, "q": 0.5}),
        "ensemble": (
            ensemble,
            {"logits_list": [t, t], "weights": [r, 1.0], "where": [where, None],
             "temperatures": [1.0, 2.0], "space": "logits", "return_where": False}),
        "quality_weights": (quality_weights, {"qualities": [quality], "power": 1.0}),
        "TeacherQuality.from_logits": (
            TeacherQuality.from_logits, {**rows, "teacher_logits": t}),
        "TeacherQuality.update": (quality.update, {**teacher, "decay": 1.0}),
        "TeacherQuality.empty": (
            TeacherQuality.empty, {"classes": CLASSES, "like": t}),
        "embedding_contrast": (
            embedding_contrast,
            {**batch, "student": t, "teacher": t, "temperature": 0.1, "logit_scale": None}),
        "feature_mse": (feature_mse, {"student_rows": t, "teacher_rows": t}),
        "multimodal_mcld_loss": (multimodal_mcld_loss, of_modalities),
    }  # fmt: skip


NAMES = list(calls(Framework()))


def arrays(backend: Framework, x: Any) -> list[np.ndarray]:
    """Return the float arrays in a result."""
    if backend.owns(x):
        return [backend.to_numpy(x)]
    parts = x.values() if isinstance(x, dict) else x if isinstance(x, (tuple, list)) else ()
    return [found for part in parts for found in arrays(backend, part)]


@pytest.mark.parametrize("name", NAMES)
def test_nonsense_is_taken_whole_or_refused_by_name(backend: Framework, name: str) -> None:
    function, arguments = calls(backend)[name]
    function(**arguments)
    texts = backend.name != "numpy"  # other frameworks have no array of texts
    for argument in arguments:
        for kind, value in NONSENSE.items():
            if isinstance(value, np.ndarray) and not (texts and kind == "texts"):
                value = backend.array(value)
            found, text = None, ""
            try:
                found = function(**arguments | {argument: value})
            except (TypeError, ValueError) as error:
                text = str(error)
            if found is None:
                begins = (
                    f"{name}: ",
                    "mcld_loss: ",
                    "embedding_contrast: ",
                    "TeacherQuality.update: ",
                )
                assert text.startswith(begins), f"{argument} = {kind}: {text}"
            else:
                finite = all(np.isfinite(x).all() for x in arrays(backend, found))
                assert finite or (name, argument) in MAY_BE_NAN, f"{argument} = {kind}"
