"""Shapes of which TensorFlow knows a part when it traces, and JAX with its usual 32 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core.extensions.multimodal import multimodal_mcld_loss
from mcld_core.extensions.nlp import token_mcld_loss
from mcld_core.extensions.timeseries import window_mcld_loss
from tests.extensions.cases import BATCH, CLASSES, TIME, make_case
from tests.frameworks import Framework, only
from tests.tolerance import assert_value

SHAPES = [
    ((None, TIME, CLASSES), (BATCH, TIME, CLASSES), (BATCH, TIME)),
    ((BATCH, TIME, CLASSES), (None, None, CLASSES), (None, TIME)),
    ((BATCH, None, CLASSES), (None, TIME, CLASSES), (None, None)),
    ((None, None, CLASSES), (None, None, CLASSES), (None, None)),
]


def traced(function: Any, arrays: list[np.ndarray], shapes: list[tuple[int | None, ...]]) -> Any:
    """Return the value of a tf.function whose arguments have these shapes when it is traced."""
    import tensorflow as tf

    tensors = [tf.constant(x) for x in arrays]
    signature = [tf.TensorSpec(shape, x.dtype) for shape, x in zip(shapes, tensors, strict=True)]
    return tf.function(function, input_signature=signature, autograph=False)(*tensors).numpy()


@pytest.mark.parametrize("backend", only("tensorflow"), indirect=True)
@pytest.mark.parametrize(("student", "teacher", "rows"), SHAPES, ids=str)
def test_sizes_that_one_argument_knows(
    backend: Framework, student: Any, teacher: Any, rows: Any
) -> None:
    case = make_case(40)
    arrays = [case.student, case.teacher, case.labels, case.mask]
    found = traced(
        lambda s, t, y, mask: token_mcld_loss(s, t, y, attention_mask=mask),
        arrays,
        [student, teacher, rows, rows],
    )
    reference = token_mcld_loss(*arrays[:3], attention_mask=case.mask)
    assert_value(found, reference, scale=10.0)

    found = traced(
        lambda s, t, y, mask: window_mcld_loss(s, t, y[:, 0], mask=mask, step_labels=y),
        [case.student, case.teacher, np.abs(case.labels) % 3, case.mask],
        [student, teacher, rows, rows],
    )
    labels = np.abs(case.labels) % 3
    reference = window_mcld_loss(
        case.student, case.teacher, labels[:, 0], mask=case.mask, step_labels=labels
    )
    assert_value(found, reference, scale=10.0)

    found = traced(
        lambda s, t: multimodal_mcld_loss({"image": s}, {"image": t}),
        [case.student, case.teacher],
        [student, teacher],
    )
    reference = multimodal_mcld_loss({"image": case.student}, {"image": case.teacher})
    assert_value(found, reference, scale=10.0)
