"""Accuracy of CE, KD, DKD and MCLD students over seeds, and MCLD's ablation, as a Markdown file.

    python benchmarks/accuracy.py --dataset digits
    python benchmarks/accuracy.py --dataset fashion_mnist --train-size 10000 --seeds 0 1 2

Every variant trains the same students (same initial weights, same batches) from one teacher; its
learning rate is chosen on the validation split by one more seed, and the test split is only
reported. All options of ``examples/torch_cifar100.py`` are taken. The result goes to
``benchmarks/results/accuracy_DATASET.md``, with the command, the commit and the versions, and is
brought up to date after each variant. ``--part`` chooses one of the two tables, ``--variants`` rows
of it by their names.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from recipes.comparison import Trained  # noqa: E402
from recipes.data import Dataset, load_dataset  # noqa: E402
from recipes.files import write_text  # noqa: E402
from recipes.logs import Diverged, say  # noqa: E402
from recipes.options import build_parser, parse_options  # noqa: E402
from recipes.results import spread, summarise  # noqa: E402
from recipes.tuning import search_rate  # noqa: E402
from torch_cifar100 import TorchTrainer, add_torch_options  # noqa: E402


@dataclass(frozen=True)
class Variant:
    """A row of a table: a method and the options that it changes."""

    name: str
    method: str
    options: tuple[str, ...] = ()


COMPARISON = (
    Variant("CE", "ce"),
    Variant("KD, T = 4", "kd", ("--kd-temperature", "4")),
    Variant("KD, T = 2", "kd", ("--kd-temperature", "2")),
    Variant("KD, T = 1", "kd", ("--kd-temperature", "1")),
    Variant("KD, standardised logits", "kd-ls"),
    Variant("DKD, β = 8", "dkd", ("--dkd-beta", "8")),
    Variant("DKD, β = 2", "dkd", ("--dkd-beta", "2")),
    Variant("MCLD", "mcld"),
    Variant("MCLD + CE", "mcld-ce"),
)


def _weights(instance: float, sample: float, category: float) -> tuple[str, ...]:
    names = ("instance", "sample", "category")
    pairs = zip(names, (instance, sample, category), strict=True)
    return tuple(word for name, value in pairs for word in (f"--mcld-weight-{name}", str(value)))


ABLATION = (
    Variant("all (the default)", "mcld"),
    Variant("instance-wise alone", "mcld", _weights(1, 0, 0)),
    Variant("sample-wise alone", "mcld", _weights(0, 0.25, 0)),
    Variant("category-wise alone", "mcld", _weights(0, 0, 1)),
    Variant("without category-wise", "mcld", _weights(1, 0.25, 0)),
    Variant("without sample-wise", "mcld", _weights(1, 0, 1)),
    Variant("without instance-wise", "mcld", _weights(0, 0.25, 1)),
    Variant("sample-wise weight 1", "mcld", _weights(1, 1, 1)),
    Variant("target mask off", "mcld", ("--no-mcld-target-mask",)),
    Variant("sample-wise: target not split off", "mcld", ("--no-mcld-sample-target-mask",)),
    Variant("no ramp", "mcld", ("--mcld-category-warmup", "0")),
    Variant("similarity pearson", "mcld", ("--mcld-similarity", "pearson")),
    Variant("similarity cosine", "mcld", ("--mcld-similarity", "cosine")),
    Variant("similarity dot", "mcld", ("--mcld-similarity", "dot")),
    Variant("category contrast prototypes", "mcld", ("--mcld-category-contrast", "prototypes")),
    Variant("category contrast columns", "mcld", ("--mcld-category-contrast", "columns")),
    Variant("bank of 512 rows", "mcld", ("--bank-size", "512")),
    Variant("bank: the whole training set", "mcld", ("--bank-size", "all")),
)
PARTS = {"comparison": COMPARISON, "ablation": ABLATION}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and write its file."""
    words = list(sys.argv[1:] if argv is None else argv)
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--part", choices=[*PARTS, "both"], default="both")
    own.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    own.add_argument(
        "--variants", nargs="+", choices=[v.name for part in PARTS.values() for v in part]
    )
    chosen, rest = own.parse_known_args(words)
    parser = build_parser(str(__doc__).split("\n", 1)[0])
    add_torch_options(parser)
    if not any(word.startswith("--tune-seeds") for word in rest):
        rest += ["--tune-seeds", "100"]
    options = parse_options(parser, rest)
    data = load_dataset(
        options.dataset,
        options.data_dir,
        download=options.download,
        train_size=options.train_size,
        validation_size=options.validation_size,
    )
    trainer = TorchTrainer(options, data)
    teacher = trainer.train("teacher", options.tune_seeds[0], options.teacher_lr, None, None)
    right = teacher.test_logits().argmax(1) == data.test.labels
    head = heading(words, options, data, float(right.mean()))
    sections = []
    for part in PARTS if chosen.part == "both" else [chosen.part]:
        lines = [f"## {part.capitalize()}", "",
                 "| | lr | validation % | test % (last epoch) | test % (best validation epoch) |",
                 "|---|---|---|---|---|"]  # fmt: skip
        sections.append(lines)
        for variant in PARTS[part]:
            if chosen.variants and variant.name not in chosen.variants:
                continue
            varied = parse_options(parser, [*rest, *variant.options])
            lines.append(row_of(variant, TorchTrainer(varied, data), teacher))
            say(lines[-1])
            text = "\n\n".join([head, *("\n".join(section) for section in sections)])
            write_text(chosen.results / f"accuracy_{data.name}.md", text + "\n")
    return 0


def row_of(variant: Variant, trainer: TorchTrainer, teacher: Trained) -> str:
    """Choose the rate of a variant on the validation split, train all seeds, return a line."""
    options, method = trainer.options, variant.method

    def validation(lr: float) -> float:
        scores = []
        for seed in options.tune_seeds:
            try:
                rows = trainer.train(method, seed, lr, None, teacher).rows
                scores.append(rows[-1]["validation_accuracy"])
            except Diverged:
                scores.append(0.0)
        return statistics.fmean(scores)

    lr, by_rate = search_rate(validation, options.lr_grid)
    results = []
    for seed in options.seeds:
        try:
            trained = trainer.train(method, seed, lr, None, teacher)
        except Diverged as error:
            return f"| {variant.name} | {lr:g} | {100 * by_rate[lr]:.2f} | {error} | – |"
        results.append(summarise(method, seed, lr, trained.parameters, trained.rows))
    last = spread([result.test_last for result in results])
    best = spread([result.test_best for result in results if result.test_best is not None])
    return f"| {variant.name} | {lr:g} | {100 * by_rate[lr]:.2f} | {last} | {best} |"


def heading(
    words: Sequence[str], options: argparse.Namespace, data: Dataset, teacher: float
) -> str:
    """Say what was measured, how to repeat it, and with what."""
    import numpy
    import torch

    import mcld_core

    tuned = " ".join(map(str, options.tune_seeds))
    tuned = f"seed {tuned}" if len(options.tune_seeds) == 1 else f"the seeds {tuned}"
    command = shlex.join(["python", "benchmarks/accuracy.py", *words])
    return "\n".join([
        f"# Accuracy on {data.name}",
        "",
        f"`{command}`  ",
        f"commit {commit()}, mcld {mcld_core.__version__}, torch {torch.__version__}, numpy "
        f"{numpy.__version__}, Python {platform.python_version()}, {platform.machine()}, "
        f"{time.strftime('%Y-%m-%d')}",
        "",
        f"{len(data.train):,} training, {len(data.validation):,} validation, "
        f"{len(data.test):,} test rows, {data.classes} classes. Teacher {options.teacher} "
        f"({100 * teacher:.2f} % test; one for all rows and seeds), student "
        f"{options.student}, {options.epochs} epochs, batch {options.batch_size}, SGD, "
        f"{options.schedule} schedule.",
        f"Mean ± sample standard deviation over the seeds {' '.join(map(str, options.seeds))}. The "
        f"learning rate of each row was chosen on the validation split with {tuned} among "
        f"{', '.join(f'{lr:g}' for lr in options.lr_grid)}, and past an edge that won by factors "
        "of 2 until that no longer helps; \"validation %\" is its score there.",
    ])  # fmt: skip


def commit() -> str:
    """Return the commit of the working tree, and whether it was changed since."""
    try:
        git = ["git", "-C", str(ROOT)]
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True,
                              text=True, check=True).stdout.strip()  # fmt: skip
        code = ("mcld_core", "backends", "examples/recipes", "examples/torch_cifar100.py")
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *code]).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name} with uncommitted changes" if changed else name


if __name__ == "__main__":
    sys.exit(main())
