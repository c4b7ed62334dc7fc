"""TeacherBank against a Python list that does the same, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, TeacherBank, TeacherKeys, mcld_loss
from tests import oracles
from tests.cases import logits, make_case, soft_labels
from tests.core.bank.banks import CLASSES, ListBank, arrays, batches, empty, entries
from tests.frameworks import Framework, only
from tests.oracles import Keys
from tests.tolerance import assert_value


@pytest.mark.parametrize(
    ("capacity", "sizes", "compiled"),
    [
        (7, (3, 3, 3, 3), False),
        (7, (3, 3, 3, 3), True),
        (4, (9, 9), False),
        (6, (2, 0, 6, 1), False),
    ],
    ids=str,
)
def test_push_forgets_the_oldest(
    backend: Framework, capacity: int, sizes: tuple[int, ...], compiled: bool
) -> None:
    def push(bank: TeacherBank, rows: Any, labels: Any, keep: Any, ids: Any) -> TeacherBank:
        return bank.push(rows, labels, where=keep, index=ids)

    if compiled or backend.name == "jax":
        push = backend.jit(push)
    bank, expected = empty(backend, capacity), ListBank(capacity)
    for batch in batches(1, sizes):
        before = [backend.to_numpy(x) for x in bank]
        pushed = push(bank, *arrays(backend, batch))
        for old, now in zip(before, bank, strict=True):
            np.testing.assert_array_equal(old, backend.to_numpy(now))  # pure
        bank = TeacherBank(*pushed)
        expected.push(*batch)
        assert entries(backend, bank) == expected.entries


@pytest.mark.parametrize("backend", only("tensorflow"), indirect=True)
def test_tensorflow_takes_any_batch_size_in_one_trace(backend: Framework) -> None:
    import tensorflow as tf

    traces = []

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, CLASSES], tf.float32),
            tf.TensorSpec([None], tf.int32),
            TeacherBank(
                tf.TensorSpec([5, CLASSES], tf.float32),
                tf.TensorSpec([5], tf.int32),
                tf.TensorSpec([5], tf.bool),
                tf.TensorSpec([5], tf.int32),
                tf.TensorSpec([], tf.int32),
            ),
        ],
        jit_compile=False,
        autograph=False,
    )
    def step(rows: Any, labels: Any, bank: TeacherBank) -> tuple[Any, TeacherBank]:
        traces.append(1)
        loss = mcld_loss(rows, rows, labels, keys=bank.keys(rows, labels, index=labels))
        return loss, bank.push(rows, labels)

    bank, expected = empty(backend, 5), ListBank(5)
    for size in (3, 8, 1):
        rows, labels, _, _ = batches(2, (size,))[0]
        loss, bank = step(*arrays(backend, (rows, labels.astype(np.int32))), bank)
        assert np.isfinite(loss.numpy())
        expected.push(rows, labels, np.ones(size, bool), np.full(size, -1))
        assert entries(backend, bank) == expected.entries
        assert [tuple(x.shape) for x in bank] == [(5, CLASSES), (5,), (5,), (5,), ()]
    assert len(traces) == 1


@pytest.mark.parametrize("backend", only("tensorflow"), indirect=True)
def test_tensorflow_xla(backend: Framework) -> None:
    import tensorflow as tf

    batch = batches(3, (6,))[0]
    bank, expected = empty(backend, 4), ListBank(4)

    @tf.function(jit_compile=True, autograph=False)
    def step(bank: TeacherBank, rows: Any, labels: Any, keep: Any, ids: Any) -> Any:
        keys = bank.keys(rows, labels, where=keep, index=ids)
        return keys.where, bank.push(rows, labels, where=keep, index=ids)

    for _ in range(2):
        where, bank = step(bank, *arrays(backend, batch))
        expected.push(*batch)
    assert entries(backend, bank) == expected.entries
    np.testing.assert_array_equal(where.numpy()[:6], batch[2] & (batch[1] != -100))
    assert not where.numpy()[6:].any()  # the bank holds rows of these very samples


def test_the_loss_with_a_bank_equals_its_definition(backend: Framework) -> None:
    """Unfilled rows, and rows of the batch's own samples, are no keys; compiled or not."""
    case = make_case(61)
    rows, labels, keep, ids = batches(4, (6,))[0]
    own_ids = np.array([ids[0], 100, ids[3], 101, 102])
    bank = empty(backend, 8).push(
        *arrays(backend, (rows, labels)), where=backend.array(keep), index=backend.array(ids)
    )

    def loss(student: Any, teacher: Any, labels: Any, ids: Any, bank: TeacherBank) -> Any:
        keys = bank.keys(teacher, labels, index=ids)
        return mcld_loss(student, teacher, labels, keys=keys)

    given = arrays(backend, (case.student, case.teacher, case.labels, own_ids))
    found = [call(*given, bank) for call in (loss, backend.jit(loss))]
    counts = keep & (labels != -100) & ~np.isin(ids, own_ids)
    assert 0 < counts.sum() < (keep & (labels != -100)).sum()
    keys = Keys(
        np.concatenate([case.teacher, rows[counts]]), np.concatenate([case.labels, labels[counts]])
    )
    expected = oracles.mcld_loss(case.but(keys=keys))
    for value in found:
        assert_value(backend.to_numpy(value), expected, "float32", oracles.scale(case))


def test_ids_of_dropped_or_unknown_rows_mask_nothing(backend: Framework) -> None:
    rows, labels = arrays(backend, (np.eye(CLASSES), np.arange(CLASSES)))
    index, keep = backend.array(np.array([7, 8, 9, -1])), backend.array(np.arange(4) != 1)
    bank = empty(backend, 6).push(rows, labels, index=index).push(rows[:1], labels[:1])
    where = backend.to_numpy(bank.keys(rows, labels, where=keep, index=index).where)
    expected = [True, False, True, True, False, True, False, True, True, False]
    np.testing.assert_array_equal(where, expected)
    ignored = backend.array(np.array([0, 255, 2, 3]))
    keys = bank.keys(rows, ignored, index=index, ignore_index=255)
    np.testing.assert_array_equal(backend.to_numpy(keys.where), expected)


@pytest.mark.parametrize("batch_labels", ["int", "soft", "none"])
@pytest.mark.parametrize("bank_labels", ["int", "soft", "none"])
def test_label_kinds_meet(backend: Framework, bank_labels: str, batch_labels: str) -> None:
    case = make_case(63, labels=batch_labels)
    rng = np.random.default_rng(3)
    rows = logits(rng, 6, CLASSES)
    kinds = {"int": rng.integers(0, CLASSES, 6), "soft": soft_labels(rng, 6, CLASSES), "none": None}
    stored = kinds[bank_labels]
    bank = empty(backend, 6, soft_labels=bank_labels == "soft").push(
        backend.array(rows, "float32"), backend.array(stored, "float32")
    )
    whole = TeacherBank.from_logits(
        backend.array(rows, "float32"), backend.array(stored, "float32")
    )
    student, teacher = arrays(backend, (case.student, case.teacher))
    labels = backend.array(case.labels, "float32")
    ours = case.teacher.argmax(-1) if case.labels is None else case.labels
    theirs = rows.argmax(-1) if stored is None else stored
    if ours.ndim != theirs.ndim:
        ours, theirs = (np.eye(CLASSES)[y] if y.ndim == 1 else y for y in (ours, theirs))
    keys = Keys(np.concatenate([case.teacher, rows]), np.concatenate([ours, theirs]))
    expected = oracles.mcld_loss(case.but(keys=keys))
    for memory in (bank, whole):
        keys = memory.keys(teacher, labels)
        found = backend.to_numpy(mcld_loss(student, teacher, labels, keys=keys))
        assert_value(found, expected, "float32", oracles.scale(case))


def test_soft_bank_takes_int_labels(backend: Framework) -> None:
    rows, labels = arrays(backend, (np.eye(CLASSES), np.array([3, -100, 1, 0])))
    bank = empty(backend, 4, soft_labels=True)
    assert not np.shares_memory(bank.vectors, bank.labels)
    bank = bank.push(rows, labels)
    expected = np.zeros((4, CLASSES))
    expected[[0, 1, 2], [3, 1, 0]] = 1.0
    np.testing.assert_array_equal(backend.to_numpy(bank.labels), expected)
    np.testing.assert_array_equal(backend.to_numpy(bank.where), [True, True, True, False])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_storage_dtype(backend: Framework, dtype: str) -> None:
    """The rows are multiples of 1/16, exact in every dtype; keys come back in float32 or 64."""
    if dtype not in backend.dtypes:  # NumPy has no bfloat16, but ml_dtypes may have added it
        dtype = "float32"
    rows, labels, _, _ = batches(5, (6,))[0]
    values, labels = arrays(backend, (rows, np.maximum(labels, 0)))
    compute = "float64" if dtype == "float64" else "float32"
    for bank in (
        TeacherBank.from_logits(backend.array(rows, dtype), labels),
        TeacherBank.empty(6, CLASSES, like=backend.array(rows, dtype)).push(values, labels),
    ):
        assert backend.dtype(bank.vectors) == dtype
        np.testing.assert_array_equal(backend.to_numpy(bank.vectors), rows)
        keys = bank.keys(values, labels)
        assert backend.dtype(keys.logits) == compute
        assert backend.dtype(bank.class_means()) == compute


@pytest.mark.parametrize(
    ("settings", "labels"),
    [({}, "soft"), ({"key_temperature": 2.0}, "int"), ({"similarity": "cosine"}, "int")],
    ids=str,
)
def test_class_means(backend: Framework, settings: dict[str, Any], labels: str) -> None:
    rng = np.random.default_rng(6)
    rows = logits(rng, 7, CLASSES)
    hard = np.array([0, 2, 2, 0, 3, -100, 0])
    soft = np.eye(CLASSES)[np.maximum(hard, 0)]
    soft[0] = [0.5, 0.0, 0.5, 0.0]
    given = hard if labels == "int" else soft
    bank = empty(backend, 9, soft_labels=labels == "soft").push(
        *arrays(backend, (rows, given)), where=backend.array(np.arange(7) != 6)
    )
    membership = np.eye(CLASSES)[np.maximum(hard, 0)] * (hard >= 0)[:, None]
    membership = (membership if labels == "int" else soft) * (np.arange(7) != 6)[:, None]
    keys = rows / settings.get("key_temperature", 1.0)
    if "similarity" not in settings:
        keys = np.exp(keys) / np.exp(keys).sum(1, keepdims=True)
    means = backend.to_numpy(bank.class_means(MCLDConfig(**settings)))
    assert np.isnan(means[1]).all()
    for c in (0, 2, 3):
        total = sum(membership[i, c] * keys[i] for i in range(7))
        assert_value(means[c], total / membership[:, c].sum(), "float32", 8.0)


def test_from_logits_numbers_its_rows(backend: Framework) -> None:
    """So a batch of a training set masks its own samples by their numbers."""
    rows, labels = arrays(backend, (np.eye(CLASSES), np.array([0, 1, -100, 3])))
    index = backend.array(np.array([1, 3]))
    for ids, other in ((None, index), (backend.array(np.array([9, 5, 7, 8])), index + 4)):
        bank = TeacherBank.from_logits(rows, labels, ids)
        where = backend.to_numpy(bank.keys(rows[:2], labels[:2], index=other).where)
        found = [True, False, False, False] if ids is None else [True, False, False, True]
        np.testing.assert_array_equal(where[2:], found)


def test_a_numpy_bank_meets_tensors(backend: Framework) -> None:
    case = make_case(65)
    rows, labels, _, _ = batches(8, (6,))[0]
    student, teacher, own = arrays(backend, (case.student, case.teacher, case.labels))
    bank = TeacherBank.from_logits(rows, labels)
    converted = TeacherBank.from_logits(rows, labels, like=teacher)
    assert isinstance(bank.vectors, np.ndarray)
    assert backend.owns(converted.vectors)
    values = [
        backend.to_numpy(mcld_loss(student, teacher, own, keys=bank.keys(teacher, own)))
        for bank in (bank, converted)
    ]
    assert values[0] == values[1]


def test_gathered_keys_keep_their_place_and_their_normalizer(backend: Framework) -> None:
    rows, labels = arrays(backend, (np.eye(CLASSES), np.arange(CLASSES)))
    keys = empty(backend, 3).keys(TeacherKeys(rows, labels, own_start=2, normalizer=3.0))
    assert (keys.own_start, keys.normalizer) == (2, 3.0)


def test_no_gradient_reaches_the_teacher(differentiable: Framework) -> None:
    def through_the_bank(teacher: Any) -> Any:
        labels = differentiable.array(np.arange(CLASSES))
        bank = empty(differentiable, 3).push(teacher, labels)
        keys = bank.keys(teacher, labels)
        return keys.logits[0, 0] + bank.vectors[0, 0] + 0.0 * teacher[0, 0]

    _, gradient = differentiable.gradient(
        through_the_bank, differentiable.array(np.eye(CLASSES), "float32")
    )
    np.testing.assert_array_equal(differentiable.to_numpy(gradient), 0.0)


@pytest.mark.parametrize("backend", only("jax"), indirect=True)
def test_jax_scans_over_steps(backend: Framework) -> None:
    import jax

    steps = batches(9, (3, 3, 3))
    stacked = [backend.array(np.stack(x), "float32") for x in zip(*steps, strict=True)]

    def step(bank: TeacherBank, batch: tuple[Any, ...]) -> tuple[TeacherBank, Any]:
        rows, labels, keep, ids = batch
        keys = bank.keys(rows, labels, where=keep, index=ids)
        loss = mcld_loss(rows, rows, labels, keys=keys, where=keep)
        return bank.push(rows, labels, where=keep, index=ids), loss

    bank, losses = jax.jit(lambda bank, x: jax.lax.scan(step, bank, x), donate_argnums=0)(
        empty(backend, 5), tuple(stacked)
    )
    expected = ListBank(5)
    for batch in steps:
        expected.push(*batch)
    assert entries(backend, bank) == expected.entries
    assert np.isfinite(losses).all()


def test_errors(backend: Framework) -> None:
    rows, labels = arrays(backend, (np.eye(CLASSES), np.arange(CLASSES)))
    bank = empty(backend, 3)
    soft = backend.array(np.eye(CLASSES), "float32")
    cases: list[tuple[type[Exception], str, Any]] = [
        (ValueError, "empty: capacity needs an int ≥ 1; got 0", lambda: TeacherBank.empty(0, 2)),
        (ValueError, "empty: classes needs an int ≥ 1; got -1", lambda: TeacherBank.empty(2, -1)),
        (TypeError, "like needs a float dtype", lambda: TeacherBank.empty(2, 2, like=labels)),
        (ValueError, r"push: teacher_logits need shape \(rows, 4\), .*; got \(4, 3\)",
         lambda: bank.push(rows[:, :3], labels)),
        (ValueError, r"from_logits: logits needs two axes .*; got shape \(4,\)",
         lambda: TeacherBank.from_logits(rows[0])),
        (TypeError, "keys: teacher_logits needs a float dtype; got int",
         lambda: bank.keys(labels[:, None] * labels[None, :], labels)),
        (ValueError, r"keys: labels need shape|keys: labels needs shape",
         lambda: bank.keys(rows, labels[:2])),
        (TypeError, "push: labels need .*: TeacherBank.empty, or", lambda: bank.push(rows, soft)),
        (TypeError, "push: labels of shape", lambda: bank.push(rows, rows[0])),
        (ValueError, "push: labels needs labels in 0 … 3", lambda: bank.push(rows, labels + 1)),
        (TypeError, "keys: where needs dtype bool", lambda: bank.keys(rows, labels, where=labels)),
        (ValueError, r"keys: where needs shape \(4,\)",
         lambda: bank.keys(rows, labels, where=labels[:2] == 0)),
        (TypeError, "keys: index needs an integer dtype",
         lambda: bank.keys(rows, labels, index=rows[0])),
        (ValueError, r"push: index needs shape \(4,\)",
         lambda: bank.push(rows, labels, index=labels[:1])),
    ]  # fmt: skip
    for error, text, call in cases:
        with pytest.raises(error, match=f"TeacherBank.*{text}"):
            call()


@pytest.mark.parametrize("backend", only("torch"), indirect=True)
def test_devices_that_differ(backend: Framework) -> None:
    """The second device is torch's storage-less one, which every machine has."""
    rows, labels = arrays(backend, (np.eye(CLASSES), np.arange(CLASSES)))
    bank = empty(backend, 3)
    with pytest.raises(ValueError, match="keys: teacher_logits is on meta and the bank on cpu"):
        bank.keys(rows.to("meta"), labels.to("meta"))
    with pytest.raises(ValueError, match="push: labels is on meta and teacher_logits on cpu"):
        bank.push(rows, labels.to("meta"))
    with pytest.raises(ValueError, match="from_logits: index is on meta and logits on cpu"):
        TeacherBank.from_logits(rows, labels, labels.to("meta"))
