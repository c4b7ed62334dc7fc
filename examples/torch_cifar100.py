"""Train a teacher, then the same student by cross-entropy, KD, DKD and MCLD, and compare them.

    python examples/torch_cifar100.py --dataset digits

takes no download and under two minutes on two cores. Other data: ``fashion_mnist``, ``cifar10``,
``cifar100`` read their official files from ``--data-dir`` (``--download`` fetches them). On
CIFAR-100 the defaults are the published recipe:

    python examples/torch_cifar100.py --dataset cifar100 --download --seeds 0 1 2

Everything goes to ``--out``: the resolved options, a CSV and checkpoints a training, the table,
the curves. ``--resume`` goes on where a run stopped.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from recipes import plots, results
from recipes.data import Dataset, load_dataset
from recipes.files import write_atomically, write_json, write_text
from recipes.logs import Diverged, Row, Stopped, say
from recipes.options import build_parser, parse_options, resolved
from recipes.readers import DataError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; return the process's exit status."""
    parser = build_parser("Distil image classifiers by CE, KD, DKD and MCLD, with PyTorch.")
    torch_options = parser.add_argument_group("PyTorch").add_argument
    torch_options("--device", default="auto", help="cpu, cuda, mps …")
    torch_options(
        "--amp", choices=("off", "bf16", "fp16"), default="off", help="automatic mixed precision"
    )
    torch_options(
        "--teacher-checkpoint",
        type=Path,
        metavar="FILE",
        help="load the teacher instead of training it",
    )
    options = parse_options(parser, argv)
    if options.list_models:
        list_models()
        return 0
    try:
        data = load_dataset(
            options.dataset,
            options.data_dir,
            download=options.download,
            train_size=options.train_size,
            validation_size=options.validation_size,
        )
        say(
            f"{data.name}: {len(data.train):,} training, {len(data.validation):,} validation, "
            f"{len(data.test):,} test images, {data.classes} classes"
        )
        if options.tune_lr:
            options.learning_rates |= tune(options, data)
        compare(options, data)
    except (DataError, Diverged, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        words = [*(sys.argv if argv is None else [sys.argv[0], *argv])]
        again = words if "--resume" in words else [*words, "--resume"]
        print(f"{stopped}\nGo on with: python {shlex.join(again)}", file=sys.stderr)
        return 130
    return 0


def list_models() -> None:
    """Print the models with their parameter counts for 100 classes of 32×32 colour images."""
    from recipes.torch_cifar import CIFAR_MODELS
    from recipes.torch_models import build, count_parameters

    print("mlp-WIDTH[-WIDTH…], conv-WIDTH, and for 100 classes:")
    for name in CIFAR_MODELS:
        print(f"  {name:14} {count_parameters(build(name, (32, 32, 3), 100)):>10,} parameters")


def train(
    options: argparse.Namespace,
    data: Dataset,
    method: str,
    seed: int,
    lr: float,
    folder: Path | None,
    teacher: object = None,
) -> tuple[object, list[Row]]:
    """Train one model and return it with its history. ``method="teacher"``: CE, on the teacher's.

    The same seed gives the same initial student and the same batches to every method.
    """
    import torch
    from recipes.torch_models import build
    from recipes.torch_training import Job, Training, pick_device

    is_teacher = method == "teacher"
    name = options.teacher if is_teacher else options.student
    torch.manual_seed(seed)
    try:
        model = build(name, data.image_shape, data.classes)
    except ValueError as error:
        raise DataError(str(error)) from error
    job = Job(
        f"seed {seed} {method}",
        "ce" if is_teacher else method,
        name,
        seed,
        lr,
        options.teacher_epochs if is_teacher else options.epochs,
        folder,
    )
    training = Training(
        job, model, None if method == "ce" else teacher, data, options, pick_device(options.device)
    )
    if folder is not None and options.resume and training.resume():
        say(f"{job.name}: resumed after epoch {training.epoch}/{job.epochs}")
    return training.model, training.run()


def get_teacher(
    options: argparse.Namespace, data: Dataset, seed: int, folder: Path | None
) -> tuple[object, list[Row] | None]:
    """Return the teacher: loaded from ``--teacher-checkpoint``, else trained."""
    if options.teacher_checkpoint is None:
        return train(options, data, "teacher", seed, options.teacher_lr, folder)
    from recipes.torch_checkpoints import load_weights
    from recipes.torch_models import build

    teacher = build(options.teacher, data.image_shape, data.classes)
    load_weights(teacher, options.teacher_checkpoint)
    return teacher, None


def tune(options: argparse.Namespace, data: Dataset) -> dict[str, float]:
    """Choose each method's learning rate by the mean validation accuracy of the last epoch."""
    scores: dict[str, dict[float, list[float]]] = {method: {} for method in options.methods}
    for seed in options.tune_seeds:
        teacher, _ = get_teacher(options, data, seed, None)
        for method in options.methods:
            for lr in options.lr_grid:
                try:
                    _, rows = train(options, data, method, seed, lr, None, teacher)
                    score = rows[-1]["validation_accuracy"]
                except Diverged:
                    score = 0.0
                scores[method].setdefault(lr, []).append(score)
                say(f"trial: seed {seed} {method} lr {lr:g}: validation {100 * score:.2f}%")
    means = {
        method: {lr: statistics.fmean(values) for lr, values in by_lr.items()}
        for method, by_lr in scores.items()
    }
    write_json(options.out / "tuning.json", {"seeds": options.tune_seeds, "validation": means})
    best = {method: max(by_lr, key=lambda lr: by_lr[lr]) for method, by_lr in means.items()}
    say(
        "chosen on the validation split: "
        + ", ".join(f"{method}={lr:g}" for method, lr in best.items())
    )
    return best


def compare(options: argparse.Namespace, data: Dataset) -> None:
    """Train every method with every seed and write the table and the curves."""
    from recipes.torch_models import count_parameters

    write_json(options.out / "config.json", resolved(options))
    collected: list[results.Result] = []
    histories: dict[str, list[Row]] = {}

    def collect(method: str, seed: int, lr: float, model: object, rows: list[Row]) -> None:
        collected.append(results.summarise(method, seed, lr, count_parameters(model), rows))
        histories.setdefault(method, rows)  # the curves show the first seed

    for seed in options.seeds:
        folder = options.out / f"seed{seed}"
        teacher, rows = get_teacher(options, data, seed, folder / "teacher")
        if rows is not None:
            collect("teacher", seed, options.teacher_lr, teacher, rows)
        for method in options.methods:
            lr = options.learning_rates[method]
            student, rows = train(options, data, method, seed, lr, folder / method, teacher)
            collect(method, seed, lr, student, rows)

    table = results.table(collected)
    write_json(options.out / "results.json", results.as_records(collected))
    write_text(options.out / "results.md", table + "\n")
    picture = options.out / "curves.png"
    write_atomically(picture, lambda file: file.write(plots.png(plots.curves(histories))) and None)
    print(
        f"\n{data.name}, {len(data.train):,} training images, "
        f"seeds {' '.join(map(str, options.seeds))}\n\n{table}\n\ncurves: {picture}"
    )


if __name__ == "__main__":
    sys.exit(main())
