"""The class prior in Keras' losses and in the distiller: the value, and after saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mcld_core import adjust_logits, mcld_loss
from mcld_core.keras import MCLDDistiller, MCLDLoss
from tests.keras.models import CLASSES, data, dense, logits, numpy
from tests.tolerance import assert_value

PRIOR = np.arange(1.0, CLASSES + 1)


def expected(s: np.ndarray, t: np.ndarray, y: Any, balanced: bool) -> float:
    s = adjust_logits(s, PRIOR) if balanced else s
    return float(mcld_loss(s, t, y, class_prior=PRIOR))


@pytest.mark.parametrize("balanced", [False, True])
def test_the_losses(balanced: bool) -> None:
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, 6, CLASSES)).astype("float32")
    y = rng.integers(0, CLASSES, 6)
    loss = MCLDLoss(class_prior=PRIOR, balanced=balanced)
    y_true = np.concatenate([t, y[:, None]], 1)
    again = MCLDLoss.from_config(loss.get_config())
    for one in (loss, again):
        assert_value(float(numpy(one(y_true, s))), expected(s, t, y, balanced), "float32")


@pytest.mark.parametrize("balanced", [False, True])
def test_the_distiller_before_and_after_saving(balanced: bool, tmp_path: Path) -> None:
    x, y = data(8)
    distiller = MCLDDistiller(dense(16), dense(3), class_prior=PRIOR, balanced=balanced)
    distiller.compile(keras.optimizers.SGD(0.0))
    s, t = logits(distiller.student, x), logits(distiller.teacher, x)
    history = distiller.fit(x, y, batch_size=8, verbose=0).history
    assert_value(history["distillation_loss"][0], expected(s, t, y, balanced), "float32", 8.0)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    assert again.balanced is balanced
    np.testing.assert_array_equal(again.class_prior, PRIOR)


def test_balance_needs_a_prior() -> None:
    for make in (MCLDLoss, lambda **o: MCLDDistiller(dense(4), dense(3), **o)):
        with pytest.raises(ValueError, match="balanced=True needs class_prior; got None"):
            make(balanced=True)
