"""Losses side by side on one data set: ``python -m benchmarks.comparison --dataset digits``.

Without ``--trials`` it is the demo: cross-entropy, KD, DKD and MCLD at fixed rates, a minute on
digits. With ``--trials 12`` it is the comparison on equal terms: `EQUAL`, where each row searches
its rate, its weight beside the cross-entropy and one constant of its own; with ``--ablation`` the
switches of MCLD + CE. Rows of their own have teachers that are wrong (noisy-40: 40 % of their
labels), time series (leaf, vowels, plaid), drawings with names (emoji) and language models
(tokens). Writes ``results.json`` and ``results.md`` into ``--out``.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import math
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from benchmarks.compare import Study, Table, Task, page
from benchmarks.data import READERS, Pool, split
from benchmarks.fit import InMemory, Rows, accuracy, fit, predict
from benchmarks.losses import loss_of
from benchmarks.networks import WordConvolution, conv, mlp
from benchmarks.record import replaced

RESULTS = Path(__file__).parent / "results"


class Setup(NamedTuple):
    """How a data set is split and trained: networks by name and width."""

    teacher: tuple[str, int]
    student: tuple[str, int]
    sizes: dict[str, int]
    epochs: int
    teacher_epochs: int
    batch: int = 64
    lr: float = 0.05
    optimizer: str = "sgd"
    one_split: bool = True
    """One split and one teacher for all seeds; else each seed has its own."""


SETUPS = {
    "digits": Setup(
        ("conv", 32), ("mlp", 32), {"validation": 270, "test": 449}, 40, 20, one_split=False
    ),
    "fashion_mnist": Setup(("conv", 32), ("mlp", 64), {"validation": 5000}, 10, 12, 128),
    "udhr": Setup(("mlp", 512), ("mlp", 48), {"validation": 3000}, 15, 15),
    "newsgroups": Setup(
        ("words", 192),
        ("words", 48),
        {"validation": 1500, "train": 2000},
        10,
        10,
        lr=0.01,
        optimizer="adamw",
    ),
}
OTHERS = {"noisy": "noisy_teacher", "leaf": "series", "vowels": "series", "plaid": "series",
          "emoji": "modalities", "tokens": "language_models"}  # fmt: skip
"""First word of a further data set → the module that has its study."""
NAMES = (*(f"noisy-{percent}" for percent in (0, 20, 40, 60)), *list(OTHERS)[1:])
DEMO = {
    "CE": ("ce", 0.1),
    "KD": ("kd:temperature=2", 0.03),
    "DKD": ("dkd:beta=2", 0.1),
    "MCLD": ("mcld", 0.1),
    "MCLD + CE": ("mcld-ce", 0.1),
}
WHOLE = "mcld-ce:weight_instance={w},weight_sample={s},weight_category={w}"
EQUAL = {
    "CE": "ce",
    "CE + KD": "kd:weight_ce=1,weight={w},temperature={t}",
    "CE + standardised KD": "kd-ls:weight_ce=1,weight={w},temperature={t}",
    "CE + DKD": "dkd:weight={w},beta={b}",
    "CE + DIST": "dist:weight={w},temperature={t}",
    "CE + NKD": "nkd:weight={w},gamma={g}",
    "CE + WTTM": "wttm:weight={w},gamma={p}",
    "CE + RLD": "rld:weight={w},beta={b}",
    "CE + sample-wise": "sample:weight_sample={w},sample_temperature={t}",
    "MCLD + CE": WHOLE,
    "MCLD + CE, no ramp": WHOLE + ",category_warmup=0",
    "MCLD": "mcld:weight_sample={s}",
    "CE + sample-wise + soft": "sample:soft_targets=True,weight_instance={w},weight_sample={s}",
}
ABLATION = {
    "all (recommended)": "mcld-ce",
    "without cross-entropy": "mcld",
    "without instance-wise": "mcld-ce:weight_instance=0",
    "without sample-wise": "mcld-ce:weight_sample=0",
    "without category-wise": "mcld-ce:weight_category=0",
    "sample-wise weight 1": "mcld-ce:weight_sample=1",
    "target mask off": "mcld-ce:target_mask=False",
    "sample-wise: target not split off": "mcld-ce:sample_target_mask=False",
    "soft targets": "mcld-ce:soft_targets=True",
    "no ramp": "mcld-ce:category_warmup=0",
    "similarity pearson": "mcld-ce:similarity=pearson",
    "similarity cosine": "mcld-ce:similarity=cosine",
    "similarity dot": "mcld-ce:similarity=dot",
    "category contrast prototypes": "mcld-ce:category_contrast=prototypes",
    "category contrast columns": "mcld-ce:category_contrast=columns",
}
"""Each switch of the recommended setting; trials search the rate alone."""


def network(kind: tuple[str, int], pool: Pool) -> nn.Module:
    """Return a network of a data set by its name and width."""
    name, width = kind
    x, classes = pool.train.x, int(pool.train.y.max()) + 1
    if name == "words":
        return WordConvolution(classes, width)
    if name == "conv":
        return conv(x.shape[1], classes, width)
    return mlp(math.prod(x.shape[1:]), classes, width)


def pictures(name: str, folder: Path, rows: Mapping[str, str]) -> Study:
    """Return the study of a data set of `SETUPS`: a split and a teacher of each seed, or of all."""
    setup, pool, cpu = SETUPS[name], READERS[name](folder), torch.device("cpu")

    @functools.cache
    def task(seed: int) -> Task:
        parts = split(pool, seed, setup.sizes)
        train = parts["train"]
        teacher = fit(
            lambda: network(setup.teacher, pool),
            InMemory(train, setup.batch),
            loss_of("ce"),
            epochs=setup.teacher_epochs,
            lr=0.1 if setup.optimizer == "sgd" else setup.lr,
            optimizer=setup.optimizer,
            seed=seed + 1000,
            where=cpu,
        )
        return Task(
            Rows(train.x, train.y, predict(teacher, train.x)),
            lambda: network(setup.student, pool),
            lambda model, part: {"accuracy": accuracy(model, parts[part])},
            {"accuracy": round(accuracy(teacher, parts["test"]), 3)},
        )

    options = {"epochs": setup.epochs, "batch": setup.batch, "optimizer": setup.optimizer}
    tests = setup.sizes["test"] if pool.test is None else len(pool.test.y)
    of_seed = (lambda seed: task(0)) if setup.one_split else task
    drawn = len(pool.train.y) - sum(setup.sizes.values())  # of a split
    overlap = 0.0 if setup.one_split else tests / drawn
    return Study(rows, of_seed, options | {"where": cpu}, setup.lr, tests, overlap=overlap)


def study_of(options: argparse.Namespace) -> Study:
    """Return what the options name, with the rows that they name."""
    name, folder = options.dataset, options.data_dir
    if name in SETUPS:
        demo = not (options.trials or options.ablation)
        rows = ABLATION if options.ablation else EQUAL
        rows = {row: text for row, (text, _) in DEMO.items()} if demo else rows
        study = pictures(name, folder, rows)
        if demo:
            study = study._replace(rates={row: lr for row, (_, lr) in DEMO.items()})
    else:
        kind, _, rest = name.partition("-")
        module = importlib.import_module(f"benchmarks.{OTHERS[kind]}")
        study = module.study(rest or kind, folder)
    rows = {row: text for row, text in study.rows.items() if row in (options.rows or study.rows)}
    given = {"epochs": options.epochs} if options.epochs else {}
    return study._replace(rows=rows, options={**study.options, **given})


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.comparison", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--dataset", choices=(*SETUPS, *NAMES), default="digits")
    add("--data-dir", type=Path, default=Path("data"))
    add("--trials", type=int, default=0, help="a row, by Optuna; 0 is the demo")
    add("--ablation", action="store_true", help="the switches of MCLD + CE in place of losses")
    add("--rows", nargs="+", help="some of the rows; default all")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    add("--tune-seeds", nargs="+", type=int, default=[100, 101], help="apart from --seeds")
    add("--epochs", type=int, help="of the students; default by data set")
    add("--out", type=Path, help="folder; default runs/comparison/DATASET")
    options = parser.parse_args(argv)
    options.out = options.out or Path("runs", "comparison", options.dataset)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, write the tables and print them; return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = parse(words)
    path, study = options.out / "results.json", study_of(options)
    table = Table(path, options.dataset, study, options.trials, options.tune_seeds)
    table.go(options.seeds)
    command = shlex.join(["python", "-m", "benchmarks.comparison", *words])
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    found = page(
        table,
        f"`{command}`  \n{versions}, one thread",
        next(iter(ABLATION)) if options.ablation else "",
    )
    with replaced(options.out / "results.md") as new:
        new.write_text(found, "utf-8")
    print(f"\n{found}\nTable: {options.out / 'results.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
