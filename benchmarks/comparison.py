"""Losses side by side on one data set: ``python -m benchmarks.comparison --dataset digits``.

Without ``--trials`` it is the demo: cross-entropy, KD, DKD and MCLD at fixed rates, a minute on
digits. With ``--trials 12`` it is the comparison on equal terms: `EQUAL`, where each row searches
its rate, its weight beside the cross-entropy and one constant of its own; with ``--ablation`` the
switches of MCLD + CE. Writes ``results.json``
and ``results.md`` into ``--out``.
"""

from __future__ import annotations

import argparse
import math
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.compare import Table, Task
from benchmarks.data import READERS, Pool, split
from benchmarks.fit import InMemory, Rows, accuracy, fit, predict
from benchmarks.losses import loss_of
from benchmarks.networks import WordConvolution, conv, mlp
from benchmarks.pages.numbers import difference, markdown, spread
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


class Tasks:
    """The tasks of a data set: splits, and a teacher of each."""

    def __init__(self, name: str, folder: Path) -> None:
        self.setup, self.pool = SETUPS[name], READERS[name](folder)
        self.only: Task | None = None

    def __call__(self, seed: int) -> Task:
        """Return the task of a seed."""
        if self.only is not None:
            return self.only
        setup, seed = self.setup, 0 if self.setup.one_split else seed
        parts = split(self.pool, seed, setup.sizes)
        teacher = fit(
            lambda: network(setup.teacher, self.pool),
            InMemory(parts["train"], setup.batch),
            loss_of("ce"),
            epochs=setup.teacher_epochs,
            lr=0.1 if setup.optimizer == "sgd" else setup.lr,
            optimizer=setup.optimizer,
            seed=seed + 1000,
            where=torch.device("cpu"),
        )
        train = parts["train"]
        task = Task(
            Rows(train.x, train.y, predict(teacher, train.x)),
            lambda: network(setup.student, self.pool),
            lambda model, part: {"accuracy": accuracy(model, parts[part])},
            {"accuracy": round(accuracy(teacher, parts["test"]), 3)},
        )
        self.only = task if setup.one_split else None
        return task

    def options(self) -> dict[str, Any]:
        """Return what `Table` gives to `fit`."""
        setup, where = self.setup, torch.device("cpu")  # small networks: faster than with copies
        options = {"epochs": setup.epochs, "batch": setup.batch, "optimizer": setup.optimizer}
        return options | {"where": where}


def page(table: Table, heading: str, against: str = "") -> str:
    """Return the table of a comparison; differences are to a row, the best one without a name."""
    scores = {row: table.tests(row) for row in table.rows}
    means = {row: sum(found.values()) / len(found) for row, found in scores.items()}
    best = against or max(means, key=lambda row: means[row])
    setup, test = table.make.setup, table.make.pool.test
    test_rows = setup.sizes["test"] if test is None else len(test.y)
    lines = [("teacher", "", spread(list(table.tests("teacher").values())), "")]
    for row, found in scores.items():
        chosen = table.known("chosen", row)
        values = ", ".join(f"{name} {value:.3g}" for name, value in chosen["best"].items())
        values += f" ({chosen['validation']:.2f})" if "validation" in chosen else ""
        less = "–" if row == best else difference(found, scores[best])
        lines.append((row, values, spread(list(found.values())), less))
    chosen = "chosen (validation %)" if table.trials else "rate"
    rows = markdown(("", chosen, "test %", f"minus {best}, points (95 % interval)"), lines)
    error = math.sqrt(means[best] * (100 - means[best]) / test_rows)
    return (
        f"{heading}\n\n{rows}\n\nMean ± sample standard deviation over {len(scores[best])} seeds; "
        f"differences are paired by seed. {test_rows:,} test rows alone give an accuracy a "
        f"standard error of {error:.2f} points; that of a difference is smaller.\n"
    )


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.comparison", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--dataset", choices=SETUPS, default="digits")
    add("--data-dir", type=Path, default=Path("data"))
    add("--trials", type=int, default=0, help="a row, by Optuna; 0 is the demo")
    add("--ablation", action="store_true", help="the switches of MCLD + CE in place of losses")
    add("--rows", nargs="+", choices=EQUAL, help="of the comparison with trials; default all")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    add("--tune-seeds", nargs="+", type=int, default=[100, 101], help="apart from --seeds")
    add("--epochs", type=int, help="of the students; default by data set")
    add("--out", type=Path, help="folder; default runs/comparison/DATASET")
    options = parser.parse_args(argv)
    options.out = options.out or Path("runs", "comparison", options.dataset)
    return options


def table_of(options: argparse.Namespace, path: Path) -> Table:
    """Return the table that options name, with its runs in a file."""
    demo = not (options.trials or options.ablation)
    rows = ABLATION if options.ablation else EQUAL
    rows = {row: text for row, (text, _) in DEMO.items()} if demo else rows
    tasks = Tasks(options.dataset, options.data_dir)
    given = {"epochs": options.epochs} if options.epochs else {}
    return Table(
        path,
        options.dataset,
        {row: text for row, text in rows.items() if row in (options.rows or rows)},
        tasks,
        lr=tasks.setup.lr,
        trials=options.trials,
        options=tasks.options() | given,
        tune_seeds=options.tune_seeds,
        rates={row: lr for row, (_, lr) in DEMO.items()} if demo else {},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, write the tables and print them; return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = parse(words)
    table = table_of(options, options.out / "results.json")
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
