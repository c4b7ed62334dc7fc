"""The moving average of weights, in every backend; and where it is found."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from mcld_core.ema import ema_decay, ema_update
from tests.frameworks import Framework
from tests.tolerance import assert_value


def test_ema_moves_every_leaf_and_copies_counters(backend: Framework) -> None:
    def tree(scale: float, step: int) -> Any:
        return {
            "w": backend.array(np.full((2, 2), scale), "float32"),
            "layers": [(backend.array(np.full(3, -scale), "float64"),), {}],
            "step": backend.array(np.asarray(step)),
        }

    average = tree(1.0, 0)
    for step in (1, 2):
        average = ema_update(average, tree(2.0, step), 0.75)
    expected = 1 * 0.75**2 + 2 * (1 - 0.75**2)
    assert_value(backend.to_numpy(average["w"]), np.full((2, 2), expected), "float32")
    assert_value(backend.to_numpy(average["layers"][0][0]), np.full(3, -expected))
    assert backend.dtype(average["w"]) == "float32"
    assert int(backend.to_numpy(average["step"])) == 2
    assert average["layers"][1] == {}


@pytest.mark.parametrize("decay", [0.999, 0.99])
def test_ema_of_half_precision_weights_moves_in_float32(backend: Framework, decay: float) -> None:
    for dtype in set(backend.dtypes) - {"float32", "float64"}:
        average, value = (backend.array(np.full(3, x), dtype) for x in (1.0, 1.125))
        for _ in range(50):
            average = ema_update(average, value, decay)
        assert backend.dtype(average) == "float32"
        expected = np.full(3, 1.125 - 0.125 * decay**50)
        assert_value(backend.to_numpy(average), expected, "float32", scale=16.0)
        start = ema_update({"w": value}, {"w": value}, 0.0)["w"]
        assert backend.dtype(start) == "float32"
        assert_value(backend.to_numpy(start), np.full(3, 1.125), "float32")


def test_ema_leaves_a_none_as_it_is(backend: Framework) -> None:
    weight = backend.array(np.ones(2), "float32")
    assert ema_update({"bias": None, "w": weight}, {"bias": None, "w": weight}, 0.5)["bias"] is None
    with pytest.raises(ValueError, match=re.escape("got None and shape (2,)")):
        ema_update([None], [weight], 0.5)


def test_ema_decay_takes_an_integer_step(backend: Framework) -> None:
    for dtype in ("int32", "int64"):
        step = backend.array(np.asarray(90, dtype))
        assert_value(backend.to_numpy(ema_decay(step, 0.99)), 0.91, "float32")


def test_ema_decay_warms_up_to_its_end(backend: Framework) -> None:
    for step, expected in ((0, 0.1), (90, 0.91), (10**6, 0.99)):
        assert ema_decay(step, 0.99) == pytest.approx(expected)
        traced = ema_decay(backend.array(np.asarray(float(step)), "float64"), 0.99)
        assert_value(backend.to_numpy(traced), expected)
    average = ema_update(
        backend.array(np.ones(2), "float64"),
        backend.array(np.zeros(2), "float64"),
        ema_decay(backend.array(np.asarray(0.0), "float64")),
    )
    assert_value(backend.to_numpy(average), np.full(2, 0.1))


def test_errors(backend: Framework) -> None:
    rows, matrix = (backend.array(np.ones(shape), "float64") for shape in (9, (10, 4)))
    for call, text in [
        (lambda: ema_update(rows, rows, 2.0), "decay needs a finite number in 0 … 1; got 2.0"),
        (lambda: ema_update({"a": rows}, {"b": rows}, 0.5), "a dict of ['a'] and a dict of ['b']"),
        (lambda: ema_update([rows], [rows, rows], 0.5), "a list of 1 and a list of 2"),
        (lambda: ema_update(matrix, rows, 0.5), "shape (10, 4) and shape (9,)"),
    ]:
        with pytest.raises(ValueError, match=re.escape(text)):
            call()
