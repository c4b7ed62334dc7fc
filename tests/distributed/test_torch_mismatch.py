"""Ranks whose arguments do not fit each other raise, all of them, and nothing hangs or aborts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.frameworks import Framework, only
from tests.processes import torchrun

TORCH = pytest.mark.parametrize("backend", only("torch"), indirect=True)

NEEDS = "ValueError: gather_keys: the arguments need to fit, and to be of one kind, on every rank; "
ALIKE = {
    "classes": ("4 classes", "5 classes"),
    "classes, rows known": ("4 classes", "5 classes"),
    "dtype": ("in float32", "in float64"),
    "half dtype": ("in bfloat16", "in float16"),
    "no labels": ("labels None", "labels int32"),
    "soft labels": ("labels float32", "labels int32"),
    "soft labels' dtype": ("labels float32", "labels float64"),
    "rows": ("rows 3", "rows 4"),
    "rows on one rank": ("rows None", "rows 4"),
    "index": ("index int64", "index None"),
    "index's dtype": ("index int64", "index int32"),
    "a bank": ("index int64", "index None"),
}
OF_ONE = {
    "index's length": r"ValueError: gather_keys: index needs shape (3,)",
    "a label": "ValueError: gather_keys: labels needs labels in 0 … 3",
    "int logits": "TypeError: gather_keys: teacher_logits needs a float dtype; got int64",
    "no rows": "ValueError: gather_keys: teacher_logits needs two axes",
    "a student": "ValueError: mcld_loss: student_logits and teacher_logits need the same number",
    "no student": "TypeError: mcld_loss: student_logits needs an array of numbers; got None",
    "no teacher": "TypeError: gather_keys: teacher_logits needs an array of numbers; got None",
    "a teacher's name": "TypeError: gather_keys: teacher_logits needs an array of numbers; got 'b",
    "a list with a hole": "ValueError: gather_keys: teacher_logits needs an array of numbers: ",
    "progress": "ValueError: mcld_loss: progress needs a finite number in 0 … 1; got 7",
    "a text for progress": "TypeError: mcld_loss: progress needs a finite number in 0 … 1; got ''",
    "a Trainer's student": "ValueError: mcld_loss: student_logits and teacher_logits need the same",
    "a Trainer's model": "ValueError: MCLDTrainer: the logits of the model need shape (batch, cla",
    "a Trainer without a teacher": "ValueError: MCLDTrainer: teacher needs a model, or the data ",
    "many rows": "ValueError: gather_keys: rows needs the largest batch of a rank; got 3",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the two ranks raised."""
    out = tmp_path_factory.mktemp("worker") / "errors.json"
    worker = torchrun(2, "-m", "tests.distributed.torch_mismatch_worker", out, timeout=240)
    assert worker.returncode == 0, worker.stdout + worker.stderr
    return json.loads(out.read_text("utf-8"))


@TORCH
@pytest.mark.parametrize("name", ALIKE)
def test_both_ranks_raise_and_say_their_kind(backend: Framework, found: Any, name: str) -> None:
    for rank, (error, text) in enumerate(zip((x[name] for x in found), ALIKE[name], strict=True)):
        assert error.startswith(NEEDS)
        assert text in error
        assert f" on rank {rank}, and not on rank {1 - rank}, whose own error says" in error


@TORCH
@pytest.mark.parametrize("name", OF_ONE)
def test_an_error_of_one_rank_stops_the_other(backend: Framework, found: Any, name: str) -> None:
    first, second = (errors[name] for errors in found)
    assert second.startswith(OF_ONE[name])
    assert first.startswith(NEEDS)
    assert "not on rank 1" in first


@TORCH
def test_known_rows_are_waited_for_once(backend: Framework, found: Any) -> None:
    """On an accelerator, at the first call of a signature; without `rows` always."""
    for errors in found:
        assert errors["reads"] == [1, 1, 2, 2, 3]
