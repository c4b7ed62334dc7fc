"""TensorFlow: eager, tf.function and XLA, with an unknown batch, in one trace."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, TeacherKeys, mcld_loss
from tests import oracles
from tests.calls import CALLS, Arrays, arrays, has_batch, used_by
from tests.cases import make_case, make_keys, value_and_grad
from tests.frameworks import Framework, only
from tests.tolerance import assert_gradient, assert_value

pytestmark = pytest.mark.parametrize("backend", only("tensorflow"), indirect=True)

SETTINGS: list[dict[str, Any]] = [
    {},
    {"similarity": "pearson", "category_contrast": "prototypes"},
    {"similarity": "cosine", "weight_ce": 0.5, "sample_target_mask": False},
    {"similarity": "dot", "category_contrast": "columns", "target_mask": False},
]


def compiled_step(backend: Framework, settings: dict[str, Any], xla: bool, soft: bool) -> Any:
    """Return (student, teacher, labels, where, progress) → (loss, gradient), batch unknown."""
    tf = backend.tf  # type: ignore[attr-defined]
    config = MCLDConfig(**settings)
    labels = tf.TensorSpec([None, 4], tf.float64) if soft else tf.TensorSpec([None], tf.int64)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 4], tf.float64),
            tf.TensorSpec([None, 4], tf.float64),
            labels,
            tf.TensorSpec([None], tf.bool),
            tf.TensorSpec([], tf.float64),
        ],
        jit_compile=xla,
        autograph=False,
    )
    def step(student: Any, teacher: Any, labels: Any, where: Any, progress: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(student)
            loss = mcld_loss(
                student, teacher, labels, where=where, progress=progress, config=config
            )
        return loss, tape.gradient(loss, student)

    return step


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize(
    ("settings", "labels"),
    [*((settings, "int") for settings in SETTINGS), (SETTINGS[0], "soft")],
    ids=str,
)
def test_graph_equals_eager_with_an_unknown_batch(
    backend: Framework, settings: dict[str, Any], labels: str, xla: bool
) -> None:
    step = compiled_step(backend, settings, xla, labels == "soft")
    for batch in (3,) if xla and settings else (5, 3, 1):  # XLA compiles each size anew
        case = make_case(batch, batch=batch, labels=labels, where=True).but(progress=0.5)
        arrays = (case.student, case.teacher, case.labels, case.where, np.float64(0.5))
        loss, gradient = step(*(backend.array(a) for a in arrays))
        expected, reference = value_and_grad(backend, mcld_loss, case, settings=settings)
        scale = oracles.scale(case, **settings)
        assert_value(backend.to_numpy(loss), expected, scale=scale)
        assert_gradient(backend.to_numpy(gradient), reference, scale=scale, floor=1e-3)
    assert step.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("xla", [False, True])
def test_keys_in_a_graph_with_unknown_rows(backend: Framework, xla: bool) -> None:
    tf = backend.tf  # type: ignore[attr-defined]

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 4], tf.float64),
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None, 4], tf.float64),
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([], tf.int32),
        ],
        jit_compile=xla,
        autograph=False,
    )
    def step(student: Any, labels: Any, logits: Any, key_labels: Any, own_start: Any) -> Any:
        keys = TeacherKeys(logits, key_labels, own_start=own_start)
        teacher = tf.gather(logits, own_start + tf.range(tf.shape(student)[0]))
        return mcld_loss(student, teacher, labels, keys=keys)

    for batch, rows, start in ((5, 9, 2), (3, 11, 8), (1, 4, 0)):
        case = make_case(batch, batch=batch)
        case = case.but(keys=make_keys(case, rows=rows, own_start=start))
        assert case.keys is not None
        arrays = (case.student, case.labels, case.keys.logits, case.keys.labels, np.int32(start))
        found = step(*(backend.array(a) for a in arrays))
        assert_value(backend.to_numpy(found), oracles.mcld_loss(case))
    assert step.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("xla", [False, True])
def test_an_empty_batch_in_a_graph(backend: Framework, xla: bool) -> None:
    step = compiled_step(backend, {}, xla, soft=False)
    empty = np.zeros((0, 4))
    arrays = (empty, empty, np.zeros(0, np.int64), np.zeros(0, bool), np.float64(1.0))
    loss, gradient = step(*(backend.array(a) for a in arrays))
    assert float(loss) == 0.0
    assert gradient.shape == (0, 4)


def test_labels_that_are_only_compared_may_be_any_in_a_graph(backend: Framework) -> None:
    from mcld_core import category_wise

    case = make_case(154)
    labels = case.labels.copy()
    labels[2] = 77
    expected = oracles.category_wise(case.but(labels=labels), "none")
    teacher = backend.array(case.teacher)
    graph = backend.jit(lambda s, y: category_wise(s, teacher, y, reduction="none"))
    rows = graph(backend.array(case.student), backend.array(labels))
    assert_value(backend.to_numpy(rows), expected)


def test_autograph_reads_the_losses(
    backend: Framework, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # a user's tf.function rewrites the library's source too; where it cannot, it logs a warning
    monkeypatch.setattr(logging.getLogger("tensorflow"), "propagate", True)
    x = Arrays(**{name: backend.array(values) for name, values in arrays().items()})
    names = ("mcld_loss, blocks", "bounded_loss")
    backend.tf.function(lambda: [CALLS[name](x) for name in names]).get_concrete_function()
    assert "AutoGraph" not in caplog.text


@pytest.mark.parametrize("name", CALLS)
def test_every_loss_with_an_unknown_batch(backend: Framework, name: str) -> None:
    tf = backend.tf  # type: ignore[attr-defined]
    x = {key: backend.array(values) for key, values in arrays().items()}
    x = used_by(name, Arrays(**x))
    specs = {}
    for key, values in x.items():
        shape = [None, *values.shape[1:]] if has_batch(name, key) else values.shape
        specs[key] = tf.TensorSpec(shape, values.dtype)
    graph = tf.function(
        lambda x: CALLS[name](Arrays(**x)), input_signature=[specs], autograph=False
    )
    assert_value(backend.to_numpy(graph(x)), backend.to_numpy(CALLS[name](Arrays(**x))), "float32")
