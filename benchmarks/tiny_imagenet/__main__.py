"""The command: ``python -m benchmarks.tiny_imagenet``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

from recipes.files import read_json, write_text  # noqa: E402

from benchmarks.tiny_imagenet.data import TEACHERS, prepare  # noqa: E402
from benchmarks.tiny_imagenet.table import page  # noqa: E402
from benchmarks.tiny_imagenet.trainings import ROWS, TUNE_SEED, Run  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not recorded yet and write the table; return the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--teacher", choices=TEACHERS, default="lite0")
    parser.add_argument("--train", type=int, default=40_400, metavar="IMAGES", help="of 90,900")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--rows", choices=ROWS, nargs="+", default=list(ROWS))
    parser.add_argument("--epochs", type=int, default=6, help="of the tests")
    parser.add_argument("--trial-epochs", type=int, default=3)
    parser.add_argument("--width", type=int, default=1, help="times the student's channels")
    parser.add_argument("--try", nargs="+", default=[], dest="tries", metavar="ROW|RATE|CONSTANT",
                        help="record these on the validation split, and no more")  # fmt: skip
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--table", action="store_true", help="train nothing, write the table")
    options = parser.parse_args(argv)
    stem = "tiny_imagenet"
    if (options.teacher, options.train) != ("lite0", 40_400):
        stem += f"_{options.teacher}_{options.train}"
    if (options.width, options.epochs) != (1, 6):
        stem += f"_{options.width}x_{options.epochs}"
    if options.trial_epochs != 3:
        stem += f"_trials{options.trial_epochs}"
    path = options.out / f"{stem}.json"
    torch.set_num_threads(1)
    if not options.table:
        task = prepare(options.data_dir, options.teacher, options.train)
        run = Run(task, path, options.epochs, options.width, options.trial_epochs, options.teacher)
        for text in options.tries:
            row, lr, constant = text.split("|")
            run.score(row, float(lr), float(constant), TUNE_SEED, "validation")
        if options.tries:
            return 0
        chosen = {row: run.tune(row) for row in options.rows}
        for seed in options.seeds:
            for row, (lr, constant) in chosen.items():
                run.score(row, lr, constant, seed, "test")
    record = read_json(path)
    longer = path.with_name(f"{path.stem}_trials{record['settings']['epochs']}.json")
    trials = (read_json(longer) or {"trials": {}})["trials"]
    write_text(path.with_suffix(".md"), page(record, tuple(ROWS), trials))
    return 0


if __name__ == "__main__":
    sys.exit(main())
