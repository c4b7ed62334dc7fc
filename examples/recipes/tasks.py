"""Train one small student by several losses and compare them: for tasks that fit in memory."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mcld_core

from .files import write_json, write_text
from .fit import fit, linear
from .logs import Row, say
from .paired import minus
from .plots import marker, new_figure, write_figure
from .tuning import Tuned, spread, tune_rate

Batch = Any
Loss = Callable[[str, Any, Batch, float], Any]
BASELINES = ("ce", "kd", "mae")
FIXED = ("method", "seed", "lr", "cpu_seconds")
"""What a record of a run has beside its scores."""


@dataclass
class Task:
    """What a comparison needs to know; tensors and modules are the task's own.

    ``loss(method, model, batch, progress)`` is a scalar, ``metrics(model, split)`` are numbers by
    name for ``"train"``, ``"validation"`` or ``"test"``; the first of them decides between
    learning rates.
    """

    name: str
    student: Callable[[], Any]
    batches: Callable[[Any], Iterator[Batch]]
    """An epoch's batches, from a NumPy generator."""
    loss: Loss
    metrics: Callable[[Any, str], dict[str, float]]
    methods: Sequence[str]
    epochs: int
    learning_rates: Sequence[float]
    """Around which each method's rate is searched; one: that rate, without a search."""
    higher_is_better: bool = True


def train(task: Task, method: str, seed: int, lr: float) -> tuple[Any, list[Row]]:
    """Train a student by Adam with a rate that falls linearly to 0.

    The same seed gives every method the same first weights and the same batches.
    """
    torch.manual_seed(seed)
    model, order, rows = task.student(), np.random.default_rng(seed), list[Row]()
    started = time.process_time()

    def note(epoch: int, loss: float) -> None:
        nonlocal started
        row = {"epoch": epoch, "loss": loss, "seconds": time.process_time() - started}
        with torch.no_grad():
            scores = task.metrics(model, "validation")
        rows.append(row | {f"validation {name}": value for name, value in scores.items()})
        started = time.process_time()

    fit(
        model,
        lambda: task.batches(order),
        lambda batch, progress: task.loss(method, model, batch, progress),
        torch.optim.Adam(model.parameters(), lr=lr),
        task.epochs,
        schedule=linear,
        after_epoch=note,
    )
    return model, rows


def tune(task: Task, method: str, seeds: Sequence[int]) -> Tuned:
    """Choose the rate by the validation score, the mean over the seeds."""
    sign = 1.0 if task.higher_is_better else -1.0

    def tried(lr: float) -> float:
        values = []
        for seed in seeds:
            last = train(task, method, seed, lr)[1][-1]
            values.append(next(last[key] for key in last if key.startswith("validation ")))
        score = statistics.fmean(values)
        say(f"trial: {task.name} {method} lr {lr:.3g}: {score:.3f}")
        return sign * score

    found = tune_rate(tried, task.learning_rates)
    trials = [(values, sign * score) for values, score in found.trials]
    return Tuned(found.best, sign * found.score, trials)


def compare(
    task: Task,
    seeds: Sequence[int],
    out: Path,
    teacher: Any,
    tune_seeds: Sequence[int] = (100,),
) -> Any:
    """Tune each method's learning rate on the validation split, then train it with every seed.

    Writes ``<task>.json`` (every number), ``<task>.md`` (the table) and ``<task>.png`` (curves),
    anew after each method.

    Returns:
        The last student of the last MCLD method, or else the first method's, for export.
    """
    records: list[dict[str, Any]] = []
    curves: dict[str, list[list[Row]]] = {}
    tuning: dict[str, dict[str, float]] = {}
    exported = None
    baselines = _scores(task, teacher)
    for method in task.methods:
        tuned = tune(task, method, tune_seeds)
        tuning[method] = {f"{values['lr']:.4g}": score for values, score in tuned.trials}
        lr = tuned.best["lr"]
        for seed in seeds:
            model, rows = train(task, method, seed, lr)
            scores = _scores(task, model)
            seconds = sum(row["seconds"] for row in rows)
            records.append(
                {"method": method, "seed": seed, "lr": lr, **scores, "cpu_seconds": seconds}
            )
            curves.setdefault(method, []).append(rows)
            say(
                f"{task.name} {method} lr {lr:.3g} seed {seed}: "
                + ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
            )
        if exported is None or method.startswith("mcld"):
            exported = model
        about = {
            "environment": environment(),
            "teacher_parameters": _size(teacher),
            "student_parameters": _size(model),
            "epochs": task.epochs,
            "tuning_seeds": list(tune_seeds),
            "tuning": tuning,
            "teacher": baselines,
        }
        write_json(out / f"{task.name}.json", {**about, "runs": records})
        write_text(out / f"{task.name}.md", tables(task, records, baselines) + "\n")
        write_figure(out / f"{task.name}.png", draw(curves))
    say(
        f"\n{task.name}: teacher {_size(teacher):,} parameters, student {_size(exported):,}, "
        f"{task.epochs} epochs, {len(seeds)} seeds\n"
        f"{tables(task, records, baselines)}\n"
    )
    return exported


def _scores(task: Task, model: Any) -> dict[str, float]:
    """Return the test metrics, and the first one of the training split beside them."""
    with torch.no_grad():
        test, fitted = task.metrics(model, "test"), task.metrics(model, "train")
    first = next(iter(test))
    return test | {f"training {first}": fitted[first]}


def _size(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def tables(task: Task, records: Sequence[dict[str, Any]], teacher: dict[str, float]) -> str:
    """Return the table of methods, and each method minus the best baseline by the first metric.

    The baselines are cross-entropy, KD at any temperature and the absolute error; the intervals
    are of the differences of equal seeds.
    """
    first = next(name for name in records[0] if name not in FIXED)
    scores: dict[str, dict[int, float]] = {}
    for record in records:
        scores.setdefault(record["method"], {})[record["seed"]] = record[first]
    sign = 1 if task.higher_is_better else -1
    baselines = [name for name in scores if name.split()[0] in BASELINES] or list(scores)
    best = max(baselines, key=lambda name: sign * statistics.fmean(scores[name].values()))
    head = [f"| {first} minus {best} | 95 % interval over the seeds |", "|---|---|"]
    return "\n".join([table(records, teacher), "", *head, *minus(best, scores)])


def table(records: Sequence[dict[str, Any]], teacher: dict[str, float]) -> str:
    """Return a Markdown table of mean ± sample standard deviation, a method a line."""
    names = [name for name in records[0] if name not in FIXED]
    lines = [f"| method | lr | {' | '.join(names)} | CPU s |", "|" + "---|" * (len(names) + 3)]
    if teacher:
        values = (f"{teacher[name]:.2f}" if name in teacher else "–" for name in names)
        lines.append(f"| teacher | – | {' | '.join(values)} | – |")
    for method in dict.fromkeys(record["method"] for record in records):
        mine = [record for record in records if record["method"] == method]
        cells = [spread([record[name] for record in mine]) for name in names]
        seconds = statistics.fmean(record["cpu_seconds"] for record in mine)
        lines.append(f"| {method} | {mine[0]['lr']:.3g} | {' | '.join(cells)} | {seconds:.1f} |")
    return "\n".join(lines)


def draw(curves: dict[str, list[list[Row]]]) -> Any:
    """Draw the training loss and the first validation metric by epoch, the mean over seeds."""
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    for method, runs in curves.items():
        name = next(key for key in runs[0][0] if key.startswith("validation "))
        epochs = [row["epoch"] for row in runs[0]]
        for axes, key in ((left, "loss"), (right, name)):
            means = [
                statistics.fmean(values)
                for values in zip(*([row[key] for row in rows] for rows in runs), strict=True)
            ]
            axes.plot(epochs, means, label=method, marker=marker(runs[0]))
            axes.set(xlabel="epoch", ylabel=key)
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    left.set_yscale("log")
    right.legend()
    return figure


def environment() -> str:
    """Return the versions that a results page names."""
    threads = torch.get_num_threads()
    return (
        f"mcld {mcld_core.__version__}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, numpy {np.__version__}, {platform.machine()}, "
        f"{threads} thread{'s' * (threads > 1)}"
    )
