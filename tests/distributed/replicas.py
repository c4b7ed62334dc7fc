"""Batches that are split over replicas, and what the joined batch gives on one.

`REPLICAS` sizes differ from case to case: an uneven last batch, a replica without any row, one
whose rows are all dropped. Dropped rows hold NaN, so that their content is seen where it counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mcld_core import mcld_loss
from tests.cases import make_case, value_and_grad
from tests.frameworks import Framework
from tests.oracles import Case

#: Replicas against one process, in float32, by the rule of `tests.tolerance`.
RTOL = 1e-6


@dataclass(frozen=True)
class Joined:
    """The joined batch, and how many of its rows each replica has."""

    name: str
    case: Case
    sizes: tuple[int, ...]
    settings: dict[str, Any]
    scale: float
    """The largest |S|, at least 1."""

    def parts(self) -> list[Case]:
        """Return each replica's rows."""
        ends = np.cumsum(self.sizes)
        return [
            self.case.take(slice(end - size, end))
            for end, size in zip(ends, self.sizes, strict=True)
        ]

    def padded(self) -> Case:
        """Return the rows with each replica filled up to the largest by dropped rows of NaN."""
        largest = max(self.sizes)
        parts = [_padded(part, largest) for part in self.parts()]
        return self.case.but(
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in ("student", "teacher", "labels", "sample_weight", "where")
                if getattr(parts[0], name) is not None
            }
        )

    def padded_rows(self) -> np.ndarray:
        """Return where the joined rows lie in `padded`."""
        largest = max(self.sizes)
        return np.concatenate(
            [number * largest + np.arange(size) for number, size in enumerate(self.sizes)]
        )

    def expected(self, backend: Framework) -> tuple[np.ndarray, np.ndarray]:
        """Return loss and gradient of the joined batch on one process, in float32."""
        return value_and_grad(backend, mcld_loss, self.case, "float32", self.settings)


def wrong_arguments(array: Any) -> list[tuple[type[Exception], str, dict[str, Any]]]:
    """Return what `gather_keys` refuses: the error, how its text starts, the arguments."""
    good = {"teacher_logits": np.ones((3, 4), "float32"), "labels": np.zeros(3, "int32")}
    three = r"needs shape \(3,\)"
    wrong: list[tuple[type[Exception], str, str, np.ndarray]] = [
        (ValueError, "needs two axes", "teacher_logits", np.ones(4, "float32")),
        (TypeError, "needs a float dtype", "teacher_logits", np.ones((3, 4), "int32")),
        (ValueError, r"need shape \(3,\)", "labels", np.zeros(2, "int32")),
        (TypeError, r"of shape \(3,\) need an integer dtype", "labels", np.ones(3, "float32")),
        (ValueError, "needs labels in 0 … 3", "labels", np.full(3, 4, "int32")),
        (TypeError, "needs dtype bool", "where", np.ones(3, "int32")),
        (ValueError, three, "where", np.ones(2, "bool")),
        (ValueError, three, "sample_weight", np.ones(2, "float32")),
        (ValueError, "needs .*numbers ≥ 0", "sample_weight", np.full(3, -1, "float32")),
    ]
    return [
        (error, f"{name} {text}", {key: array(x) for key, x in {**good, name: value}.items()})
        for error, text, name, value in wrong
    ]


def joined_batches(replicas: int) -> list[Joined]:
    """Return the cases for a number of replicas (at least 2).

    Most differ in values alone, so that one compiled function does for them.
    """
    rows = 3 * replicas
    even = (3,) * replicas
    uneven = (3,) * (replicas - 1) + (1,)
    empty = (3,) * (replicas - 1) + (0,)
    first = np.arange(rows) < rows - 3
    ignored = _joined("ignored labels", even)
    labels = np.where(np.arange(rows) % 4 == 1, -100, ignored.case.labels)
    soft = {"similarity": "pearson", "weight_ce": 1.0}
    return [
        _joined("even", even),
        _joined("weights, mask, uneven", uneven, weights=True, where=True),
        _joined("a replica without rows", empty),
        _dropping(_joined("a replica without kept rows", even, weights=True), first),
        _dropping(_joined("no kept row", even), np.zeros(rows, bool)),
        replace(ignored, case=ignored.case.but(labels=labels)),
        _joined("soft labels", empty, soft, 10.0, labels="soft"),
        _joined("no labels", uneven, {"category_contrast": "prototypes"}, labels="none"),
    ]


def assert_equals_one_process(joined: Joined, loss: Any, gradient: Any, backend: Framework) -> None:
    """Assert that the replicas' mean loss and its gradient are those of the joined batch."""
    expected_loss, expected_gradient = joined.expected(backend)
    allowed = RTOL * (np.abs(expected_loss) + joined.scale)
    error = np.abs(np.asarray(loss, np.float64) - expected_loss)
    assert (error <= allowed).all(), f"{joined.name}: loss {loss}, one process {expected_loss}"
    gradient = np.asarray(gradient, np.float64)
    assert gradient.shape == expected_gradient.shape
    allowed = RTOL * joined.scale * np.abs(expected_gradient).max()
    error = np.abs(gradient - expected_gradient).max()
    assert error <= allowed, f"{joined.name}: gradient off by {error:.3g}, allowed {allowed:.3g}"


def _joined(
    name: str,
    sizes: tuple[int, ...],
    settings: dict[str, Any] | None = None,
    scale: float | None = None,
    **options: Any,
) -> Joined:
    case = make_case(7, batch=sum(sizes), **options)
    scale = max(1.0, float(np.abs(case.student).max())) if scale is None else scale
    return _dropping(Joined(name, case, sizes, settings or {}, scale), case.where)


def _dropping(joined: Joined, where: np.ndarray | None) -> Joined:
    """Drop rows, and fill them with NaN."""
    if where is None:
        return joined
    hole = np.where(where, 0.0, np.nan)[:, None]
    case = joined.case
    return replace(
        joined, case=case.but(student=case.student + hole, teacher=case.teacher + hole, where=where)
    )


def _padded(part: Case, rows: int) -> Case:
    size = len(part.student)
    where = np.ones(size, bool) if part.where is None else part.where
    fills = {"student": np.nan, "teacher": np.nan, "labels": 0, "sample_weight": 1.0}
    padded: dict[str, np.ndarray] = {"where": np.concatenate([where, np.zeros(rows - size, bool)])}
    for name, fill in fills.items():
        x = getattr(part, name)
        if x is not None:
            extra = np.full((rows - size, *x.shape[1:]), fill).astype(x.dtype)
            padded[name] = np.concatenate([x, extra])
    return part.but(**padded)


def assert_all_equal_one_process(found: Any, replicas: int, backend: Framework) -> None:
    """Loss, its gradient by the student's rows, and by a bias that all replicas share."""
    assert found["replicas"] == replicas
    for joined in joined_batches(replicas):
        loss, gradient, shared = (
            found[f"{joined.name}/{name}"] for name in ("loss", "gradient", "shared")
        )
        assert_equals_one_process(joined, loss, gradient, backend)
        # the mean over replicas is a sum over the rows of entries equal within the tolerance
        bound = RTOL * joined.scale * len(gradient) * np.abs(gradient).max()
        assert np.abs(shared - gradient.sum(0, keepdims=True)).max() <= bound, joined.name
        if joined.name == "no kept row":
            assert loss == 0
            assert not gradient.any()
