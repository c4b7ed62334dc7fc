"""What every framework's training shares: schedules, identity, and how a training ends early."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from recipes.logs import Diverged
from recipes.readers import DataError
from recipes.training import Job, learning_rate, validates_best

JOB = Job("seed 0 mcld", "mcld", "mlp-8", 0, 0.03, 4, Path("run/seed0/mcld"))


def test_steps_are_at_the_published_epochs() -> None:
    rates = [learning_rate("step", 0.05, epoch / 240) for epoch in range(240)]
    falls = [epoch for epoch in range(1, 240) if rates[epoch] < rates[epoch - 1]]
    assert falls == [150, 180, 210]
    assert [rates[epoch] for epoch in (0, 150, 180, 210)] == pytest.approx([5e-2, 5e-3, 5e-4, 5e-5])
    assert learning_rate("step", 1.0, 0.3, (0.3, 0.6)) == pytest.approx(0.1)


def test_the_cosine_falls_to_zero() -> None:
    rates = [learning_rate("cosine", 0.2, epoch / 4) for epoch in range(5)]
    assert rates == pytest.approx([0.2, 0.1 * (1 + 0.5**0.5), 0.1, 0.1 * (1 - 0.5**0.5), 0.0])


@pytest.mark.parametrize(
    "change", [{"method": "kd"}, {"model": "mlp-9"}, {"seed": 1}, {"lr": 0.1}, {"epochs": 5}]
)
def test_a_checkpoint_of_another_training_is_refused(change: dict[str, object]) -> None:
    path = Path("checkpoint.pt")
    JOB.check_identity(path, replace(JOB, name="other", folder=None).identity())
    with pytest.raises(DataError, match=r"checkpoint.pt is of another training.*another --out"):
        JOB.check_identity(path, replace(JOB, **change).identity())


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_names_the_place_and_the_remedy(loss: float) -> None:
    JOB.check_finite(1.0, 2, 7, "checkpoint.pt")
    with pytest.raises(Diverged) as caught:
        JOB.check_finite(loss, 2, 7, "checkpoint.pt")
    message = str(caught.value)
    assert f"seed 0 mcld: the loss is {loss} in epoch 3, by step 7" in message
    assert "last good checkpoint is run/seed0/mcld/checkpoint.pt (epoch 2)" in message
    assert message.endswith("Try a smaller rate: --lr mcld=0.01")
    with pytest.raises(Diverged) as caught:
        JOB.check_finite(loss, 0, 7, "checkpoint.pt")
    assert "checkpoint" not in str(caught.value)


def test_a_stopped_training_says_what_is_kept() -> None:
    text = str(JOB.stopped(1, 5))
    wanted = "stopped in epoch 2/4 after step 5; the state is saved in run/seed0/mcld"
    assert text == f"seed 0 mcld {wanted}"
    between = str(JOB.stopped(4, 0))
    assert between == "seed 0 mcld stopped after epoch 4/4; the state is saved in run/seed0/mcld"
    trial = str(replace(JOB, folder=None).stopped(1, 5))
    assert trial == "stopped while trying seed 0 mcld at lr 0.03"


def test_the_best_epoch_is_the_first_of_equals() -> None:
    rows = [{"validation_accuracy": value} for value in (0.5, 0.4, 0.5, 0.6)]
    assert [validates_best(rows[: number + 1]) for number in range(4)] == [True, False, False, True]


def test_without_a_validation_split_no_epoch_is_the_best() -> None:
    rows = [{"test_accuracy": value} for value in (0.5, 0.6)]
    assert [validates_best(rows[:number]) for number in (1, 2)] == [False, False]
