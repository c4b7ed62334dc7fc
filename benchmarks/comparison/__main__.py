"""The command: ``python -m benchmarks.comparison``."""

from __future__ import annotations

import argparse
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

from recipes import say  # noqa: E402
from recipes.comparing.paired import choices  # noqa: E402
from recipes.exits import exit_status  # noqa: E402
from recipes.files import write_json, write_text  # noqa: E402
from recipes.methods import settings  # noqa: E402
from recipes.run import Row, Run  # noqa: E402

from benchmarks.comparison.report import Predictions, write_report  # noqa: E402
from benchmarks.comparison.tables import (  # noqa: E402
    Record,
    conclusion,
    differences,
    summarise,
    table,
)
from benchmarks.comparison.trainings import PRESETS, Trainings, variant  # noqa: E402

SCRIPTS = ("torch_cifar100", "jax_cifar100", "keras_cifar100", "tf_imagenet")


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the comparison's options, and the words that are the script's."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.comparison",
        description="Compare methods of distillation; all options of the script are taken, too.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--script", choices=SCRIPTS, default="torch_cifar100", help="the training in examples/")
    add("--methods", nargs="+", type=variant, metavar="METHOD[:KEY=VALUE,…]",
        default=[variant(name) for name in ("ce", "kd", "dkd", "mcld")])  # fmt: skip
    add("--preset", choices=list(PRESETS), help="a named list of methods instead")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    add("--trials", type=int, default=0,
        help="choose each method's learning rate by so many trials on the validation split; 0: "
        "the rates that were chosen for the data set")  # fmt: skip
    add("--constants", action="store_true",
        help="the trials choose one setting more of each method: temperature, beta …")  # fmt: skip
    add("--span", type=float, default=8.0, help="trials: rates from default / span to · span")
    add("--tune-seeds", nargs="+", type=int, default=[100], help="trials: apart from --seeds")
    add("--results", dest="out", type=Path, help="folder; default runs/comparison/DATASET")
    add("--resume", action="store_true", help="go on with the comparison in the folder")
    add("--overwrite", action="store_true", help="begin anew in a folder that has one")
    add("--transfer", metavar="DATASET", help="then probe the students on this data set (torch)")
    add("--transfer-size", type=int, help="training images of the probe; default all")
    options, words = parser.parse_known_args(argv)
    if options.preset:
        options.methods = [variant(name) for name in PRESETS[options.preset]]
    if options.out is None:
        named = argparse.ArgumentParser(add_help=False)
        named.add_argument("--dataset", default="digits")
        options.out = Path("runs", "comparison", named.parse_known_args(words)[0].dataset)
    return options, words


def compare(options: argparse.Namespace, words: Sequence[str], argv: Sequence[str]) -> str:
    """Tune, train, and write the tables and the report; return the summary."""
    trainings = Trainings(options, words, options.methods)
    base = trainings.base
    if base.dry_run:
        for item in options.methods:
            trainings.script.train(trainings.parse(item.words(), options.seeds[0], "dry"))
        return f"dry run: {trainings.left} trainings"
    say(f"{trainings.left} trainings; files: {options.out}")
    if options.script != "tf_imagenet":
        say(str(trainings.data))
    trainings.tune()
    results = trainings.run()
    summary = partial(summarise, balanced=base.balanced)
    records = [summary("teacher", seed, trainings.teachers[seed])
               for seed in options.seeds if seed in trainings.teachers]  # fmt: skip
    records += [summary(name, seed, result) for (name, seed), result in results.items()]
    data = trainings.data
    known = [result.teacher_accuracy for result in results.values()]
    loaded = {" + ".join(base.teacher): value for value in known if value is not None}
    loaded = {} if records[0].method == "teacher" else loaded
    rows, sentence = table(records, loaded), conclusion(records)
    heading = _heading(argv, base, options)
    write_json(options.out / "results.json", [asdict(record) for record in records])
    pairs = differences(records, len(data.test))
    parts = [heading, sentence, rows, pairs] + [choices(trainings.chosen)] * bool(options.trials)
    write_text(options.out / "results.md", "\n\n".join(parts) + "\n")
    _report(options, trainings, results, records, sentence, rows)
    if options.transfer:
        from benchmarks.comparison.transfer import transfer

        rows += f"\n\n{transfer(options, trainings, results)}"
    return (
        f"\n{rows}\n\n{pairs}\n\n{sentence}\nTable: {options.out / 'results.md'}\n"
        f"Report: {options.out / 'report.html'}"
    )


def _report(
    options: argparse.Namespace,
    trainings: Trainings,
    results: dict[tuple[str, int], Run],
    records: Sequence[Record],
    sentence: str,
    rows: str,
) -> None:
    """Write the report on the first seed's trainings."""
    seed, base, data = options.seeds[0], trainings.base, trainings.data
    first = {name: result for (name, number), result in results.items() if number == seed}
    teacher = trainings.teachers.get(seed)
    histories: dict[str, list[Row]] = {} if teacher is None else {"teacher": teacher.rows}
    histories |= {name: result.rows for name, result in first.items()}
    taught = next((r.teacher_logits for r in first.values() if r.teacher_logits), None)
    answers = teacher.test_logits if teacher is not None else taught
    students = {name: result.test_logits() for name, result in first.items()}
    predictions = Predictions(
        data.test.labels,
        data.class_names,
        answers() if answers is not None else next(iter(students.values())),
        trainings.untrained().test_logits(),
        students,
    )
    title = f"{data.name}: {' + '.join(base.teacher)} teaches {base.student}"
    records = [record for record in records if record.method != "teacher"]
    path = options.out / "report.html"
    write_report(path, title, sentence, rows, records, histories, predictions, _shown(trainings))


def _shown(trainings: Trainings) -> dict[str, Any]:
    """Return the options that every method shares, and each method's own settings."""
    own = ("method", "loss", "lr", "seed", "out", "config", "resume", "overwrite", "dry_run",
           "list_models", "bank_size")  # fmt: skip
    shown = {key: str(value) for key, value in vars(trainings.base).items() if key not in own}
    for item in trainings.variants:
        options = trainings.parse([*item.words(), *trainings.rates[item.name]], 0, "shown")
        shown[item.name] = {"lr": options.lr} | settings(options)
    return shown


def _heading(argv: Sequence[str], base: argparse.Namespace, options: argparse.Namespace) -> str:
    """Say what was run, and with what."""
    import numpy

    import mcld_core

    command = shlex.join(["python", "-m", "benchmarks.comparison", *argv])
    rates = "the data set's default rates"
    if options.trials:
        what = "rates and constants" if options.constants else "rates"
        rates = f"{what} by {options.trials} trials a method, seeds {options.tune_seeds}"
    return (
        f"`{command}`  \ncommit {_commit()}, mcld {mcld_core.__version__}, numpy "
        f"{numpy.__version__}, Python {platform.python_version()}, {platform.machine()}, "
        f"{time.strftime('%Y-%m-%d')}\n\n{base.dataset}: teacher {' + '.join(base.teacher)}, "
        f"student {base.student}, {base.epochs} epochs, batch {base.batch_size}, "
        f"{base.optimizer}, {rates}. Mean ± sample standard deviation over the seeds "
        f"{' '.join(map(str, options.seeds))}."
    )


def _commit() -> str:
    """Return the commit of the working tree, and whether it was changed since."""
    git = ["git", "-C", str(ROOT)]
    try:
        name = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        code = ("mcld_core", "backends", "examples", "benchmarks/comparison")
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *code], check=False)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name} with uncommitted changes" if changed.returncode else name


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; return the exit status, as the scripts' own."""
    words = list(sys.argv[1:] if argv is None else argv)
    options, rest = parse(words)

    def everything(_: argparse.Namespace) -> str:
        return compare(options, rest, words)

    return exit_status(everything, options, words, program="-m benchmarks.comparison")


if __name__ == "__main__":
    sys.exit(main())
