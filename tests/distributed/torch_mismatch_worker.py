"""What each of two PyTorch ranks raises where the ranks' arguments do not fit each other.

Run by test_torch_mismatch.py: ``python -m torch.distributed.run … -m
tests.distributed.torch_mismatch_worker OUT`` writes the errors as JSON, a list a rank.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainingArguments

from mcld_core.torch import MCLDLoss, distributed, gather_keys
from mcld_core.torch.huggingface import MCLDTrainer
from tests.processes import leave_group

ROWS, CLASSES = 3, 4
Calls = dict[str, tuple[Callable[[], Any], Callable[[], Any]]]


def logits(classes: int = CLASSES, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return rows of some teacher."""
    return torch.ones(ROWS, classes, dtype=dtype)


def keys(teacher: torch.Tensor | None = None, labels: Any = "int", **options: Any) -> Any:
    """Return a call of `gather_keys`."""
    teacher = logits() if teacher is None else teacher
    labels = torch.arange(ROWS) if isinstance(labels, str) else labels
    return partial(gather_keys, teacher, labels, **options)


def mismatches() -> Calls:
    """Return, by name, what rank 0 and rank 1 call at the same time."""
    soft = torch.full((ROWS, CLASSES), 1 / CLASSES)
    bank = MCLDLoss(bank_size=8, classes=CLASSES)
    labels, index = torch.arange(ROWS), torch.arange(ROWS)
    banked = partial(bank, logits(), logits(), labels)
    bare = partial(MCLDLoss(), logits(), logits(), labels, index=index)
    return {
        "classes": (keys(), keys(logits(5))),
        "classes, rows known": (keys(rows=ROWS), keys(logits(5), rows=ROWS)),
        "dtype": (keys(), keys(logits(dtype=torch.float64))),
        "half dtype": (keys(logits(dtype=torch.bfloat16)), keys(logits(dtype=torch.float16))),
        "no labels": (keys(labels=None), keys()),
        "soft labels": (keys(labels=soft), keys()),
        "soft labels' dtype": (keys(labels=soft), keys(labels=soft.double())),
        "rows": (keys(rows=3), keys(rows=4)),
        "rows on one rank": (keys(), keys(rows=4)),
        "index": (partial(banked, index=index), banked),
        "index's dtype": (partial(banked, index=index), partial(banked, index=index.int())),
        "index's length": (partial(banked, index=index), partial(banked, index=index[:2])),
        "a bank": (partial(banked, index=index), bare),
        "a label": (keys(), keys(labels=torch.tensor([0, 1, 9]))),
        "int logits": (keys(), keys(torch.ones(ROWS, CLASSES, dtype=torch.int64))),
        "no rows": (keys(), keys(torch.tensor(1.0))),
        "a student": (bare, partial(MCLDLoss(), logits(5), logits(), labels)),
        "no student": (bare, partial(MCLDLoss(), None, logits(), labels)),
        "no teacher": (bare, partial(MCLDLoss(), logits(), None, labels)),
        "a teacher's name": (bare, partial(MCLDLoss(), logits(), "bert", labels)),
        "a list with a hole": (keys(), keys([[1.0, None]])),
        "progress": (bare, partial(MCLDLoss(), logits(), logits(), labels, progress=7)),
        "a text for progress": (bare, partial(MCLDLoss(), logits(), logits(), labels, progress="")),
        "a Trainer's student": (training(), training(student=5)),
        "a Trainer's model": (training(), training(axes=1)),
        "a Trainer without a teacher": (training(), training(teacher=None)),
        "many rows": (keys(rows=3), keys(logits().repeat(2, 1), None, rows=3)),
    }


class Model(torch.nn.Linear):
    """A model as the Trainer knows them; ``axes`` of its logits are kept."""

    def __init__(self, classes: int = CLASSES, axes: int = 2) -> None:
        super().__init__(1, classes)
        self.axes = axes

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = super().forward(x)
        return {"logits": logits if self.axes == 2 else logits[:, 0]}


def training(student: int = CLASSES, axes: int = 2, teacher: Any = CLASSES) -> Any:
    """Return a call of `MCLDTrainer.compute_loss`."""
    model = Model(student, axes)
    options = TrainingArguments("out", use_cpu=True, report_to="none")
    trainer = MCLDTrainer(model, options, teacher=None if teacher is None else Model(teacher))
    inputs = {"x": torch.ones(ROWS, 1), "labels": torch.arange(ROWS)}
    return partial(trainer.compute_loss, model, inputs)


def error_of(call: Callable[[], Any]) -> str:
    """Return the error's kind and text; "none" where there is none."""
    try:
        call()
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def reads_on_an_accelerator(rank: int) -> list[int]:
    """Return how often the sizes were waited for after each call, as if on an accelerator."""
    reads = []
    check = distributed._check_agreement

    def counted(*given: Any) -> None:
        reads.append(1)
        check(*given)

    distributed._check_agreement = counted
    distributed._reads_at_once = lambda _: False
    calls = [keys(rows=3), keys(rows=3), keys(labels=None, rows=3), keys(rows=3), keys()]
    counts = []
    for call in calls:
        call()
        counts.append(len(reads))
    return counts


def main(out: str) -> None:
    """Try all; rank 0 writes what the ranks found."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    found: dict[str, Any] = {}
    for name, calls in mismatches().items():
        found[name] = error_of(calls[rank])
        assert gather_keys(logits(), torch.arange(ROWS)).logits.shape[0] == 2 * ROWS, name
    found["reads"] = reads_on_an_accelerator(rank)
    both: list[Any] = [None, None]
    dist.all_gather_object(both, found)
    if rank == 0:
        with open(out, "w", encoding="utf-8") as file:
            json.dump(both, file)
    leave_group()


if __name__ == "__main__":
    main(sys.argv[1])
