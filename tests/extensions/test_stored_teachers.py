"""`TopKLogits`: made of logits and of draws, checked, and what losses do not take one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mcld_core.extensions.nlp import TopKLogits, sample_teacher, token_kd_loss
from mcld_core.extensions.nlp import stored as module
from tests.extensions.cases import BATCH, CLASSES, TIME, make_case
from tests.extensions.token_oracles import token_kd
from tests.frameworks import Framework, only
from tests.oracles.rows import log_softmax
from tests.tolerance import assert_value

SCALE = 10.0
pytestmark = pytest.mark.filterwarnings("ignore:TopKLogits.*of the teacher's mass")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("k", [1, 3, CLASSES])
def test_from_logits(backend: Framework, k: int, dtype: str) -> None:
    case = make_case(70)
    found = TopKLogits.from_logits(backend.array(case.teacher, dtype), k)
    assert found.indices.dtype == np.int32
    for place in np.ndindex(BATCH, TIME):
        log_p = log_softmax(case.teacher[place].tolist())
        best = sorted(range(CLASSES), key=lambda c: -log_p[c])
        ids = found.indices[place].tolist()
        assert_value(found.values[place], [log_p[c] for c in best[:k]], dtype, SCALE)
        assert_value([log_p[c] for c in ids], found.values[place], dtype, SCALE)
        rest = math.fsum(math.exp(log_p[c]) for c in best[k:])
        assert_value(np.exp(found.tail[place]), rest, dtype)


@pytest.mark.parametrize("backend", only("torch"), indirect=True)
def test_from_logits_needs_no_second_array(
    backend: Framework, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from tests.torch_tensors import Made

    sizes: list[int] = []

    def see(_: Any, x: torch.Tensor) -> None:
        if x.untyped_storage().data_ptr() != logits.untyped_storage().data_ptr():
            sizes.append(x.numel())

    monkeypatch.setattr(module, "_ENTRIES", 4 * 100)
    logits = torch.randn(1, 64, 100).half()
    with Made(see):
        TopKLogits.from_logits(logits, 5)
    assert 4 * 100 <= max(sizes) < 64 * 100 / 2


def test_draws(backend: Framework) -> None:
    """The mean of the frequencies is the teacher; repeated ids are summed."""
    with np.errstate(divide="ignore"):
        logits = np.log(np.array([[[0.5, 0.3, 0.2, 0.0]]]).repeat(4000, 1))
    generator: Any = np.random.default_rng(0)
    if backend.name == "torch":
        import torch

        generator = torch.Generator().manual_seed(0)
    ids, count = sample_teacher(backend.array(logits), 8, generator)
    assert ids.shape == count.shape == (1, 4000, 8)
    assert (count.sum(-1) == 8).all()
    mean = np.zeros(4)
    np.add.at(mean, ids.ravel(), count.ravel() / 8 / 4000)
    assert abs(mean - [0.5, 0.3, 0.2, 0.0]).max() < 4 * 0.5 / np.sqrt(32_000)
    stored = TopKLogits.from_samples(ids, count)
    assert stored.tail == -math.inf
    assert stored.values.shape[-1] <= 3
    assert_value(np.exp(stored.values).sum(-1), np.ones((1, 4000)), "float32")
    draws = np.array(
        [[[3, 1, 3, 3], [2, 2, 2, 2]]], "uint64"
    )  # which NumPy joins with int64 as floats
    repeated = TopKLogits.from_samples(draws)
    assert repeated.indices.tolist() == [[[1, 3], [2, 0]]]
    assert_value(np.exp(repeated.values), [[[0.25, 0.75], [1.0, 0.0]]], "float32")
    assert np.isneginf(TopKLogits.from_samples(draws, 0 * draws).values).all()
    assert sample_teacher(backend.array(logits[:, :0]), 8, generator)[0].shape == (1, 0, 8)


def test_a_teacher_of_draws(differentiable: Framework) -> None:
    """The mean over draws of the gradient is that of the whole teacher; the value is not."""
    case, draws = make_case(71), 4000
    student, teacher = (x[:1, :1].repeat(draws, 1) for x in (case.student, case.teacher))
    ids, count = sample_teacher(teacher, 4, np.random.default_rng(1))
    stored = TopKLogits.from_samples(ids, count)
    values, indices = (
        differentiable.array(stored.values, "float64"),
        differentiable.array(ids[..., : stored.values.shape[-1]]),
    )
    drawn = TopKLogits(values, indices, -math.inf)
    value, gradient = differentiable.value_and_grad(lambda s: token_kd_loss(s, drawn), student)
    whole = differentiable.array(teacher, "float64")
    exact, reference = differentiable.value_and_grad(lambda s: token_kd_loss(s, whole), student)
    assert abs(gradient.sum(1) - reference.sum(1)).max() < 4 * 0.25 / np.sqrt(draws)
    assert value > exact + 0.05
    for options in ({"divergence": "tv"}, {"temperature": 2.0}):
        with pytest.raises(ValueError, match=r"a teacher of draws .* needs divergence='forward'"):
            token_kd_loss(differentiable.array(student), drawn, **options)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("divergence", ["forward", "tv"])
def test_nothing_beside_the_stored(backend: Framework, divergence: str, temperature: float) -> None:
    """A tail of -inf: the student's distribution is over all of its vocabulary, at T."""
    case = make_case(72)
    stored = TopKLogits.from_logits(case.teacher, 2)
    total = np.logaddexp.reduce(stored.values, -1)
    values, tail = stored.values - total[..., None], np.full((BATCH, TIME), -np.inf)
    mixed = np.where(np.arange(TIME) == 1, stored.tail, tail)  # and tokens that have one
    mixed_values = np.where((np.arange(TIME) == 1)[:, None], stored.values, values)
    options: dict[str, Any] = {"divergence": divergence, "temperature": temperature}
    for given in ((values, stored.indices, tail), (mixed_values, stored.indices, mixed)):
        found = token_kd_loss(
            backend.array(case.student), TopKLogits(*(backend.array(x) for x in given)), **options
        )
        mask = np.ones((BATCH, TIME), bool)
        reference = token_kd(case.student, given, None, mask, **options)
        assert_value(backend.to_numpy(found), reference, scale=SCALE)
    for name in ("reverse", "jsd"):
        nothing = TopKLogits(*(backend.array(x) for x in (values, stored.indices, tail)))
        with pytest.raises(ValueError, match="needs a teacher of all classes, or one with a tail"):
            token_kd_loss(backend.array(case.student), nothing, divergence=name)


def test_a_warning_once_where_little_is_kept(
    backend: Framework, monkeypatch: pytest.MonkeyPatch
) -> None:
    import warnings

    monkeypatch.setattr(module, "_has_warned", False)
    case = make_case(73)
    stored = TopKLogits.from_logits(0.0 * case.teacher, 1)
    with pytest.warns(UserWarning, match="hold 0.20 of the teacher's mass") as seen:
        token_kd_loss(backend.array(case.student), stored)
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        token_kd_loss(backend.array(case.student), stored)


ONE = np.zeros((4, 3, 1))
BAD: list[tuple[TopKLogits, str]] = [
    (
        TopKLogits(np.zeros((4, 3, 2)), np.zeros((4, 3, 2), int)),
        "at most once a token; got one twi",
    ),
    (TopKLogits(ONE, np.full((4, 3, 1), 5)), "ids in 0 … 4"),
    (TopKLogits(ONE, np.zeros((4, 3, 2), int)), "values and indices need shape"),
    (TopKLogits(ONE, ONE), "indices need an integer dtype"),
    (TopKLogits(ONE, np.zeros((4, 3, 1), int), np.zeros(4)), r"tail needs shape \(4, 3\)"),
    (TopKLogits(ONE, np.zeros((4, 3, 1), int), -20.0), r"tail needs shape .* got \(\)"),
    (
        TopKLogits(ONE, np.zeros((4, 3, 1), int), np.zeros((4, 3))),
        "sum to 1 in each token; got 1 a",
    ),
    (TopKLogits(ONE + 9.0, np.zeros((4, 3, 1), int), ONE[..., 0] - 9.0), "makes them of logits"),
]


@pytest.mark.parametrize(("teacher", "text"), BAD, ids=[text for _, text in BAD])
def test_errors_say_what_to_do(no_default_backend: None, teacher: TopKLogits, text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        token_kd_loss(make_case(74).student, teacher)


def test_errors_of_making_one() -> None:
    logits = make_case(75).teacher
    with pytest.raises(ValueError, match=r"k needs an int in 1 … 5; got 6"):
        TopKLogits.from_logits(logits, 6)
    with pytest.raises(ValueError, match="draws needs an int ≥ 1; got 0"):
        sample_teacher(logits, 0, np.random.default_rng(0))
    for ids, count in ((np.ones((1, 2, 3)), None), (np.ones((1, 2, 3), int), np.ones((1, 2), int))):
        with pytest.raises(ValueError, match=r"from_samples: .* needs ints ≥ 0 of one shape"):
            TopKLogits.from_samples(ids, count)
