"""What self-distillation gives on digits, beside what it costs nothing to compare it with.

    python benchmarks/self_distillation.py --json benchmarks/results/self_distillation.json

One network of three hidden layers with a head after each; the last head is the one that is kept.
It learns by cross-entropy, from its heads (`deep_supervision_loss`), from its own averaged weights
(`EMATeacher`), and from the student before it (`generations`). Beside each student stands the
average of its weights, which every method has for nothing, and beside the ensemble of generations
that of as many students of cross-entropy. The learning rate of each method is chosen on the
validation split by seeds of their own. Prints a Markdown table; ``--quick`` is a look.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from recipes import fit as loops  # noqa: E402
from recipes.comparing import markdown, spread  # noqa: E402
from recipes.comparing.tasks import environment  # noqa: E402
from recipes.comparing.tuning import tune_rate  # noqa: E402
from recipes.data.load import load_dataset  # noqa: E402

from mcld_core import MCLDConfig, mcld_loss  # noqa: E402
from mcld_core.extensions.teachers import (  # noqa: E402
    deep_supervision_loss,
    ensemble,
    generations,
)
from mcld_core.torch.ema import EMATeacher  # noqa: E402

CONFIG = MCLDConfig(weight_ce=1.0)
WIDTH, BATCH, GENERATIONS = 32, 64, 3
CE, HEADS_CE, HEADS, AVERAGE, BEFORE = (
    "cross-entropy",
    "every head by cross-entropy",
    "`deep_supervision_loss`",
    "MCLD + CE, teacher `EMATeacher`",
    "MCLD + CE, teacher the generation before",
)

Split = tuple[torch.Tensor, torch.Tensor]
Loss = Callable[[list[torch.Tensor], torch.Tensor, float, EMATeacher], torch.Tensor]
"""Logits of the heads, row numbers, progress, the averaged student → scalar."""


class Heads(nn.Module):
    """Three hidden layers, logits after each."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(n, WIDTH) for n in (features, WIDTH, WIDTH))
        self.heads = nn.ModuleList(nn.Linear(WIDTH, classes) for _ in self.hidden)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the logits of each head, the last one last."""
        found = []
        for hidden, head in zip(self.hidden, self.heads, strict=True):
            x = functional.relu(hidden(x))
            found.append(head(x))
        return found


def method_loss(method: str, train: Split, before: nn.Module | None = None) -> Loss:
    """Return the loss of a method; ``before`` is the generation to learn from."""
    x, y = train
    if method == CE:
        return lambda heads, i, progress, average: functional.cross_entropy(heads[-1], y[i])
    if method == HEADS_CE:
        return lambda heads, i, progress, average: torch.stack(
            [functional.cross_entropy(head, y[i]) for head in heads]
        ).mean()
    if method == HEADS:
        return lambda heads, i, progress, average: deep_supervision_loss(
            heads, y[i], progress=progress
        )
    if method == AVERAGE:
        return lambda heads, i, progress, average: mcld_loss(
            heads[-1], average(x[i])[-1], y[i], config=CONFIG, progress=progress
        )
    rows = logits(before, x)
    return lambda heads, i, progress, average: mcld_loss(
        heads[-1], rows[i], y[i], config=CONFIG, progress=progress
    )


def fit(train: Split, loss: Loss, seed: int, lr: float, epochs: int) -> tuple[Heads, nn.Module]:
    """Train by SGD; return the student and the average of its weights."""
    torch.manual_seed(seed)
    x, y = train
    model = Heads(x.shape[1], 10)
    average = EMATeacher(model, decay=0.99)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )

    def batches() -> list[torch.Tensor]:
        return list(torch.randperm(len(y))[: len(y) // BATCH * BATCH].split(BATCH))

    def of_rows(index: torch.Tensor, progress: float) -> torch.Tensor:
        return loss(model(x[index]), index, progress, average)

    loops.fit(
        model,
        batches,
        of_rows,
        optimizer,
        epochs,
        schedule=loops.by_epoch(loops.cosine, epochs),
        after_step=lambda: average.update(model),
    )
    return model, average


def logits(model: Any, x: torch.Tensor) -> torch.Tensor:
    """Return the last head's logits."""
    with torch.no_grad():
        return model(x)[-1]


def accuracy(rows: torch.Tensor, split: Split) -> float:
    """Return the part of the rows whose greatest logit is the label's, in %."""
    return 100 * float((rows.argmax(1) == split[1]).float().mean())


def run_seed(
    train: Split, test: Split, seed: int, rates: dict[str, float], epochs: int
) -> dict[str, float]:
    """Train every method with one seed; return the accuracies by row and column of the table."""
    found: dict[str, float] = {}

    def record(name: str, student: nn.Module, average: nn.Module) -> None:
        found[f"{name}|student"] = accuracy(logits(student, test[0]), test)
        found[f"{name}|average"] = accuracy(logits(average, test[0]), test)

    def train_next(before: nn.Module | None, number: int) -> Heads:
        method = CE if before is None else BEFORE
        loss = method_loss(method, train, before)
        student, average = fit(train, loss, seed + 1000 * number, rates[method], epochs)
        record(method if before is None else f"{BEFORE} ({number})", student, average)
        return student

    born_again = list(generations(train_next, GENERATIONS))
    alone = born_again[:1]
    for number in range(1, GENERATIONS):
        loss = method_loss(CE, train)
        alone.append(fit(train, loss, seed + 1000 * number, rates[CE], epochs)[0])
    for name, students in (("generations", born_again), ("students of cross-entropy", alone)):
        rows = ensemble([logits(student, test[0]) for student in students])
        found[f"ensemble of {GENERATIONS} {name}|student"] = accuracy(rows, test)
    for method in (HEADS_CE, HEADS, AVERAGE):
        record(method, *fit(train, method_loss(method, train), seed, rates[method], epochs))
    return found


def choose_rates(
    train: Split, validation: Split, seeds: Sequence[int], epochs: int
) -> tuple[dict[str, float], dict[str, dict[float, float]]]:
    """Return each method's best rate on the validation split, and all scores."""
    rates: dict[str, float] = {}
    scores: dict[str, dict[float, float]] = {}
    for method in (CE, HEADS_CE, HEADS, AVERAGE, BEFORE):
        losses = []
        for seed in seeds:
            before = None
            if method == BEFORE:
                before = fit(train, method_loss(CE, train), seed + 1000, rates[CE], epochs)[0]
            losses.append(method_loss(method, train, before))

        def score(lr: float, losses: list[Loss] = losses) -> float:
            return statistics.fmean(
                accuracy(logits(fit(train, loss, seed, lr, epochs)[0], validation[0]), validation)
                for seed, loss in zip(seeds, losses, strict=True)
            )

        found = tune_rate(score, (0.03, 0.1, 0.3))
        rates[method] = found.best["lr"]
        scores[method] = {values["lr"]: value for values, value in found.trials}
    return rates, scores


def table(found: dict[int, dict[str, float]], rates: dict[str, float]) -> str:
    """Return the means over the seeds with their sample standard deviation."""

    def cell(key: str) -> str:
        values = [one[key] for one in found.values() if key in one]
        return spread(values) if values else "–"

    rows = []
    for name in dict.fromkeys(key.split("|")[0] for one in found.values() for key in one):
        rate = next((f"{lr:.3g}" for method, lr in rates.items() if name.startswith(method)), "–")
        rows.append((name, rate, cell(f"{name}|student"), cell(f"{name}|average")))
    return "\n".join(markdown(["", "lr", "test %", "average of the weights, test %"], rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; return the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train-sizes", type=int, nargs="+", default=[1078, 300])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--tune-seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--steps", type=int, default=480, help="about; whole epochs are trained")
    parser.add_argument("--json", type=Path, help="also write every number there")
    parser.add_argument("--quick", action="store_true", help="one size, two seeds, one rate")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.quick:
        options.train_sizes, options.seeds, options.steps = [300], [0, 1], 160
    numbers: dict[str, Any] = {"environment": environment(), "tune_seeds": options.tune_seeds}
    for size in options.train_sizes:
        train, validation, test = read(size)
        epochs = round(options.steps / (size // BATCH))
        scores: dict[str, dict[float, float]] = {}
        if options.quick:
            rates = dict.fromkeys((CE, HEADS_CE, HEADS, AVERAGE, BEFORE), 0.03)
        else:
            rates, scores = choose_rates(train, validation, options.tune_seeds, epochs)
        found = {s: run_seed(train, test, s, rates, epochs) for s in options.seeds}
        numbers[str(size)] = {"epochs": epochs, "rates": rates, "validation": scores, "test": found}
        print(f"\n{size} training images, {epochs} epochs\n\n{table(found, rates)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 0


def read(size: int) -> list[Split]:
    """Return so many training rows of digits, 270 for validation, and 449 for the test."""
    data = load_dataset("digits", Path(), train_size=size, validation_size=270)
    return [loops.as_rows(split, data) for split in (data.train, data.validation, data.test)]


if __name__ == "__main__":
    sys.exit(main())
