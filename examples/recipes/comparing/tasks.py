"""Train one small student by several losses and compare them: for tasks that fit in memory."""

from __future__ import annotations

import platform
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mcld_core

from .. import say
from ..files import read_json, write_json, write_text
from ..fit import fit, linear
from ..methods import METHODS
from ..run import Row
from . import markdown, spread
from .paired import choices, less_the_best, words_of
from .plots import marker, new_figure, write_figure
from .spaces import search_space
from .tuning import Tuned, Values
from .tuning import tune as search

Batch = Any
Loss = Callable[[str, Any, Batch, float], Any]
FIXED = ("method", "seed", "cpu_seconds")
"""What a record of a run has beside its scores."""


@dataclass
class Task:
    """What a comparison needs to know; tensors and modules are the task's own.

    ``loss(method, model, batch, progress)`` is a scalar, ``metrics(model, split)`` are numbers by
    name for ``"train"``, ``"validation"`` or ``"test"``; the first of them decides between trials.
    """

    name: str
    student: Callable[[], Any]
    batches: Callable[[Any], Iterator[Batch]]
    """An epoch's batches, from a NumPy generator."""
    loss: Loss
    metrics: Callable[[Any, str], dict[str, float]]
    methods: Sequence[str]
    """``METHOD`` or ``METHOD:KEY=VALUE,…``."""
    epochs: int
    lr: float
    """Around which each method's rate is searched; without trials, that of all."""
    higher_is_better: bool = True


def train(task: Task, method: str, seed: int, values: Values) -> tuple[Any, list[Row]]:
    """Train a student by Adam with a rate that falls linearly to 0.

    The same seed gives every method the same first weights and the same batches. ``values`` are
    the rate and a constant of the method.
    """
    torch.manual_seed(seed)
    model, order, rows = task.student(), np.random.default_rng(seed), list[Row]()
    changes = ",".join(f"{key}={value!r}" for key, value in values.items() if key != "lr")
    text = ("," if ":" in method else ":").join([method, changes]) if changes else method
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
        lambda batch, progress: task.loss(text, model, batch, progress),
        torch.optim.Adam(model.parameters(), lr=values["lr"]),
        task.epochs,
        schedule=linear,
        after_epoch=note,
    )
    return model, rows


def add_options(parser: ArgumentParser, out: str) -> None:
    """Add the options of a comparison by `tasks`: seeds, methods and how they are tuned."""
    add = parser.add_argument
    add("--quick", action="store_true", help="small data or few epochs, one seed, no trials")
    add("--seeds", type=int, nargs="+", help="default: 0 1 2 3 4; quick: 0")
    add("--methods", nargs="+", help="METHOD or METHOD:KEY=VALUE,…; default: all of each part")
    trials = "of rate and constant, by method, on the validation split; default 8; quick: none"
    add("--trials", type=int, help=trials)
    add("--tune-seeds", type=int, nargs="+", default=[100, 101], help="of the trials")
    add("--out", type=Path, default=Path(out))
    add("--resume", action="store_true", help="go on with what stands in --out")
    add("--threads", type=int, default=1)


def parse(parser: ArgumentParser, argv: Sequence[str] | None, own: Sequence[str] = ()) -> Namespace:
    """Return the options, with what depends on ``--quick``; ``own`` are methods beside the table's.

    Raises:
        SystemExit: an unknown method.
    """
    options, known = parser.parse_args(argv), (*METHODS, *own)
    for text in options.methods or ():
        if text.partition(":")[0] not in known:
            parser.error(f"--methods {text}: choose from {', '.join(known)}")
    options.seeds = options.seeds or ([0] if options.quick else [0, 1, 2, 3, 4])
    if options.trials is None:
        options.trials = 0 if options.quick else 8
    return options


class Trainings:
    """The trainings of a task, each recorded as it ends.

    Args:
        task: what is trained.
        path: of the record.
        resume: whether what stands there already is taken from there.
    """

    def __init__(self, task: Task, path: Path, resume: bool = False) -> None:
        self.task, self.path = task, path
        self.record: dict[str, Any] = (read_json(path) or {}) if resume else {}

    def __call__(
        self, method: str, seed: int, values: Values, tested: bool = True
    ) -> dict[str, Any]:
        """Return the ``rows`` of a training, one an epoch, and ``scores`` if it is tested."""
        key = f"{method} {seed} {values}"
        if key not in self.record:
            model, rows = train(self.task, method, seed, values)
            scores = _scores(self.task, model) if tested else {}
            self.record[key] = {"rows": rows, "scores": scores}
            write_json(self.path, self.record)
        return self.record[key]

    def tune(self, method: str, seeds: Sequence[int], trials: int) -> Tuned:
        """Choose rate and constant by the validation score, the mean over the seeds."""
        task = self.task
        sign = 1.0 if task.higher_is_better else -1.0

        def tried(values: Values) -> float:
            ends = [self(method, seed, values, tested=False)["rows"][-1] for seed in seeds]
            score = statistics.fmean(_validation(row) for row in ends)
            say(f"trial: {task.name} {method} {words_of(values)}: {score:.3f}")
            return sign * score

        if not trials:
            return Tuned({"lr": task.lr}, float("nan"))
        kind = method.partition(":")[0]
        settings = METHODS[kind].settings() if kind in METHODS else {}
        space, first = search_space(method, settings, task.lr)
        found = search(tried, space, trials, first=first)
        return Tuned(found.best, sign * found.score, [(v, sign * s) for v, s in found.trials])


def compare(task: Task, options: Namespace, teacher: Any) -> Any:
    """Tune each method on the validation split, then train it with every seed.

    Writes ``<task>.json`` (every number), ``<task>.md`` (the tables) and ``<task>.png`` (curves),
    anew after each method, and ``<task>_trainings.json``, for ``--resume``.

    Args:
        task: what is compared.
        options: of `parse`.
        teacher: a module.

    Returns:
        The last student of the last MCLD method, or else of the last one, for export.
    """
    out = options.out
    trainings = Trainings(task, out / f"{task.name}_trainings.json", options.resume)
    records: list[dict[str, Any]] = []
    curves: dict[str, list[list[Row]]] = {}
    tuning: dict[str, dict[str, Any]] = {}
    baselines = _scores(task, teacher)
    for method in task.methods:
        tuned = trainings.tune(method, options.tune_seeds, options.trials)
        tuning[method] = tuned.record()
        for seed in options.seeds:
            found = trainings(method, seed, tuned.best)
            rows, scores = found["rows"], found["scores"]
            seconds = sum(row["seconds"] for row in rows)
            records.append({"method": method, "seed": seed, **scores, "cpu_seconds": seconds})
            curves.setdefault(method, []).append(rows)
            listed = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
            say(f"{task.name} {method} {words_of(tuned.best)} seed {seed}: {listed}")
        about = {
            "environment": environment(),
            "teacher_parameters": _size(teacher),
            "student_parameters": _size(task.student()),
            "epochs": task.epochs,
            "tuning": {"seeds": list(options.tune_seeds), "methods": tuning},
            "teacher": baselines,
        }
        write_json(out / f"{task.name}.json", {**about, "runs": records})
        write_text(out / f"{task.name}.md", tables(task, records, baselines, tuning) + "\n")
        write_figure(out / f"{task.name}.png", draw(curves))
    say(
        f"\n{task.name}: teacher {_size(teacher):,} parameters, student "
        f"{_size(task.student()):,}, {task.epochs} epochs, {len(options.seeds)} seeds\n"
        f"{tables(task, records, baselines, tuning)}\n"
    )
    method = next((name for name in reversed(tuning) if name.startswith("mcld")), method)
    return train(task, method, options.seeds[-1], tuning[method]["best"])[0]


def _scores(task: Task, model: Any) -> dict[str, float]:
    """Return the test metrics, and the first one of the validation and the training split."""
    with torch.no_grad():
        scores = task.metrics(model, "test")
        first = next(iter(scores))
        for split, name in (("validation", "validation"), ("train", "training")):
            scores[f"{name} {first}"] = task.metrics(model, split)[first]
    return scores


def _validation(scores: Row) -> float:
    return next(value for name, value in scores.items() if name.startswith("validation "))


def _size(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def tables(
    task: Task,
    records: Sequence[dict[str, Any]],
    teacher: dict[str, float],
    tuning: dict[str, dict[str, Any]],
) -> str:
    """Return the table of methods, that of their differences by the first metric, the choices."""
    first = next(name for name in records[0] if name not in FIXED)
    scores: dict[str, dict[int, float]] = {}
    for record in records:
        scores.setdefault(record["method"], {})[record["seed"]] = record[first]
    differences = less_the_best(first, scores, task.higher_is_better)
    chosen = choices(tuning, f"validation {first}", 1.0)
    return "\n".join([table(records, teacher), "", *differences, "", chosen])


def table(records: Sequence[dict[str, Any]], teacher: dict[str, float]) -> str:
    """Return a Markdown table of mean ± sample standard deviation, a method a line."""
    names = [name for name in records[0] if name not in FIXED]
    rows = [["teacher", *(f"{teacher[x]:.2f}" if x in teacher else "–" for x in names), "–"]]
    for method in dict.fromkeys(record["method"] for record in records):
        mine = [record for record in records if record["method"] == method]
        seconds = statistics.fmean(record["cpu_seconds"] for record in mine)
        cells = (spread([record[name] for record in mine]) for name in names)
        rows.append([method, *cells, f"{seconds:.1f}"])
    return "\n".join(markdown(["method", *names, "CPU s"], rows))


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
