"""One teacher with its labels, some of them wrong, for the tests of `teachers`."""

from __future__ import annotations

import numpy as np

from mcld_core.extensions.teachers import TeacherQuality
from tests.cases import logits, soft_labels
from tests.extensions.teachers import teacher_oracles
from tests.frameworks import Framework

ROWS, CLASSES = 12, 4
RNG = np.random.default_rng(7)
TEACHER = logits(RNG, ROWS, CLASSES)
LABELS = np.where(RNG.random(ROWS) < 0.6, TEACHER.argmax(1), RNG.integers(0, CLASSES, ROWS))
WHERE = np.arange(ROWS) % 5 != 3
SOFT = soft_labels(RNG, ROWS, CLASSES)
SOFT[:, 1] += 1 / 32  # no two largest weights alike
SOFT /= SOFT.sum(1, keepdims=True)
LABELS[4] = -100
COUNTS = teacher_oracles.counts_of(TEACHER, LABELS, WHERE)


def measured(backend: Framework, dtype: str = "float64") -> TeacherQuality:
    return TeacherQuality.from_logits(
        backend.array(TEACHER, dtype), backend.array(LABELS), where=backend.array(WHERE)
    )
