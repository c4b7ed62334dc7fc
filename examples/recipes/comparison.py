"""The comparison that each framework's example runs: teacher, then the student by every method.

The framework's part is a `Trainer`; everything else (seeds, learning rates chosen on the
validation split, table, curves, report, what happens on errors and on Ctrl-C) is here.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

from . import plots, results
from .data import Dataset, load_dataset
from .files import DataError, write_atomically, write_json, write_text
from .logs import Diverged, Row, Stopped, say
from .old_options import BESIDE, check_resumed, differences, parse_options, read_saved, resolved
from .report import Predictions, write_report
from .tuning import search_rate


@dataclass(frozen=True)
class Trained:
    """A model of some framework after its training: its history, size and test logits.

    ``rows`` is empty for a teacher that was loaded instead of trained.
    """

    model: Any
    rows: list[Row]
    parameters: int
    test_logits: Callable[[], plots.Logits]


class Trainer(Protocol):
    """What a framework has to offer."""

    speaks: bool
    """Whether this process writes and prints (one of several does)."""

    def train(
        self, method: str, seed: int, lr: float, folder: Path | None, teacher: Trained | None
    ) -> Trained:
        """Train one model and return it with its history.

        ``method="teacher"`` trains the teacher's model by cross-entropy. The same seed gives the
        same initial student and the same batches to every method. ``folder=None`` is a trial:
        nothing is written or resumed.

        Raises:
            Diverged, Stopped, DataError: as the module `logs` and `readers` describe.
        """
        ...

    def untrained_logits(self, seed: int) -> plots.Logits:
        """Return the test logits of the student before its training."""
        ...


def run(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    make_trainer: Callable[[argparse.Namespace, Dataset], Trainer],
    list_models: Callable[[], str],
    afterwards: Callable[[argparse.Namespace, Dataset], None] | None = None,
) -> int:
    """Parse, load the data, compare, do what comes ``afterwards``; return the exit status.

    0: done. 2: an error, said in one line. 130: stopped by the user, and how to go on.
    """
    options = parse_options(parser, argv)
    if options.list_models:
        print(list_models())
        return 0
    try:
        data = load_dataset(
            options.dataset,
            options.data_dir,
            download=options.download,
            train_size=options.train_size,
            validation_size=options.validation_size,
        )
        trainer = make_trainer(options, data)
        if trainer.speaks:
            say(
                f"{data.name}: {len(data.train):,} training, {len(data.validation):,} "
                f"validation, {len(data.test):,} test images, {data.classes} classes"
            )
        if options.tune_lr:
            options.learning_rates |= tune(trainer, options)
        compare(trainer, options, data)
        if afterwards is not None and trainer.speaks:
            afterwards(options, data)
    except (DataError, Diverged, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        if trainer.speaks:
            words = [*(sys.argv if argv is None else [sys.argv[0], *argv])]
            print(f"{stopped}\nGo on with: {command_to_resume(words)}", file=sys.stderr)
        return 130
    return 0


def command_to_resume(words: Sequence[str]) -> str:
    """Return what goes on with the run of these words, by ``torchrun`` where that runs it."""
    launcher = "python"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local, world = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        nodes = f"--nnodes {world // local} " if world > local else ""
        launcher = f"torchrun {nodes}--nproc-per-node {local}"
    return f"{launcher} {shlex.join([*words, *([] if '--resume' in words else ['--resume'])])}"


def tune(trainer: Trainer, options: argparse.Namespace) -> dict[str, float]:
    """Choose each method's learning rate by the mean validation accuracy of the last epoch.

    They go to ``tuning.json``, a method at a time, and a resumed run takes them from there.

    Raises:
        DataError: the file to resume from is damaged, or the options were others.
    """
    path = options.out / "tuning.json"
    record = _read_tuning(path, options) if options.resume else None
    if record is None:
        record = {"seeds": options.tune_seeds, "validation": {}, "chosen": {}}
        record["options"] = resolved(options)

    @cache
    def teacher(seed: int) -> Trained:
        return trainer.train("teacher", seed, options.teacher_lr, None, None)

    def validation(method: str, lr: float) -> float:
        scores = []
        for seed in options.tune_seeds:
            taught_by = teacher(seed)
            try:
                rows = trainer.train(method, seed, lr, None, taught_by).rows
                scores.append(rows[-1]["validation_accuracy"])
            except Diverged:
                scores.append(0.0)
            if trainer.speaks:
                say(f"trial: seed {seed} {method} lr {lr:g}: validation {100 * scores[-1]:.2f}%")
        return statistics.fmean(scores)

    for method in options.methods:
        if method not in record["chosen"]:
            best, means = search_rate(partial(validation, method), options.lr_grid)
            record["chosen"][method], record["validation"][method] = best, means
            if trainer.speaks:
                write_json(path, record)
    rates = {method: record["chosen"][method] for method in options.methods}
    if trainer.speaks:
        chosen = ", ".join(f"{method}={lr:g}" for method, lr in rates.items())
        say(f"chosen on the validation split: {chosen}")
    return rates


def _read_tuning(path: Path, options: argparse.Namespace) -> dict[str, Any] | None:
    """Return what `tune` wrote in an earlier run with these options; None where there is none."""
    record = read_saved(path)
    if record is None:
        return None
    try:
        differ = differences(record["options"], options, BESIDE)
    except KeyError as error:
        raise DataError(f"{path} is damaged ({error}); delete it") from error
    if differ:
        raise DataError(
            f"--resume: the rates in {path} were chosen with other options: {differ}. Delete the "
            "file, or choose another --out"
        )
    return record


def compare(trainer: Trainer, options: argparse.Namespace, data: Dataset) -> None:
    """Train every method with every seed; write the table, the curves and the report."""
    if options.resume:
        check_resumed(options)
    if trainer.speaks:
        write_json(options.out / "config.json", resolved(options))
    collected: list[results.Result] = []
    first_seed: dict[str, Trained] = {}  # the pictures show it
    for seed in options.seeds:
        folder = options.out / f"seed{seed}"
        teacher: Trained | None = None
        for method in ("teacher", *options.methods):
            lr = options.teacher_lr if method == "teacher" else options.learning_rates[method]
            trained = trainer.train(method, seed, lr, folder / method, teacher)
            teacher = teacher or trained
            if seed == options.seeds[0]:
                first_seed[method] = trained
            if trained.rows:
                collected.append(
                    results.summarise(method, seed, lr, trained.parameters, trained.rows)
                )
    if not trainer.speaks:
        return
    table = results.table(collected)
    write_json(options.out / "results.json", results.as_records(collected))
    write_text(options.out / "results.md", table + "\n")
    histories = {method: trained.rows for method, trained in first_seed.items() if trained.rows}
    picture, page = options.out / "curves.png", options.out / "report.html"
    write_atomically(picture, lambda file: file.write(plots.png(plots.curves(histories))) and None)
    logits = {method: trained.test_logits() for method, trained in first_seed.items()}
    untrained = trainer.untrained_logits(options.seeds[0])
    predictions = Predictions(data.test.labels, logits.pop("teacher"), untrained, logits)
    title = f"{data.name}: {options.teacher} teaches {options.student}"
    write_report(page, title, table, histories, predictions, resolved(options))
    print(
        f"\n{data.name}, {len(data.train):,} training images, "
        f"seeds {' '.join(map(str, options.seeds))}\n\n{table}\n\n"
        f"curves: {picture}\nreport: {page}"
    )
