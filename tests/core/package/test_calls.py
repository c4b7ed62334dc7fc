"""The table of calls holds every loss, and each call does its work."""

from __future__ import annotations

import numpy as np
import pytest

from tests.calls import CALLS, Arrays, arrays, losses


def test_every_loss_is_called() -> None:
    assert {name.partition(",")[0] for name in CALLS} == losses()
    assert {"mcld_loss", "kd_loss", "token_mcld_loss", "embedding_contrast"} <= losses()


@pytest.mark.parametrize("name", CALLS)
def test_the_calls_are_losses(name: str) -> None:
    value = np.asarray(CALLS[name](Arrays(**arrays())))
    assert value.shape == ()
    assert 0 < value < np.inf
