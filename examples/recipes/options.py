"""The options that all training scripts share, and the loss that they name."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from mcld_core import MCLDConfig

from .files import DataError

MCLD: dict[str, dict[str, Any]] = {"mcld": {}, "mcld-ce": {"weight_ce": 1.0}}
"""Method → what it changes of `MCLDConfig`."""
METHOD_NAMES = ("ce", "kd", "kd-ls", "kd-reverse", "kd-jsd", "dkd", "dist", "nkd", "ttm", "wttm",
                "rld", *MCLD)  # fmt: skip
"""Of ``--method``; `methods` has what those beside MCLD are."""

TABLES: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("defaults.toml").read_text()
)
"""Data set → its part of defaults.toml."""


def build_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser with the options that do not depend on the framework."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    switch: dict[str, Any] = {"action": argparse.BooleanOptionalAction, "default": False}
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help=".json, .toml or .yaml of these options")
    add("--out", type=Path, help="the run's folder; default runs/DATASET/METHOD")
    add("--resume", action="store_true", help="go on from the checkpoints in --out")
    add("--overwrite", action="store_true", help="begin anew in an --out that has a run")
    add("--dry-run", action="store_true", help="check data, models, options and disk, and end")

    add = parser.add_argument_group("data").add_argument
    add("--dataset", choices=tuple(TABLES), default="digits")
    add("--data-dir", type=Path, default=Path("data"), help="folder of the files")
    add("--download", action="store_true", help="fetch the official files, checksums checked")
    add("--image-size", type=int, help="side to scale pictures in folders to; default 64")
    add("--train-size", type=int, help="use so many training images; default all")
    add("--validation-size", type=int, default=0,
        help="training images set apart for choices (rate, best epoch); CIFAR holds out 5,000; "
        "0 trains on the published 50,000")  # fmt: skip
    add("--crop", type=int, default=0, help="random shift by up to so many pixels")
    add("--flip", help="random mirroring", **switch)

    add = parser.add_argument_group("models").add_argument
    add("--student", help="see --list-models, or module:function that returns your model")
    add("--teacher", nargs="+", action=Collect, metavar="MODEL",
        help="a name of --list-models (trained first if it has no weights), module:function, "
        "FILE.onnx, hf:FOLDER, timm:NAME, keras.applications:NAME; or several")  # fmt: skip
    add("--teacher-weights", nargs="+", action=Collect, type=Path, metavar="FILE",
        help="one a teacher, in order")  # fmt: skip
    add("--teacher-mean", nargs="+", type=float, help="where its normalisation differs, as")
    add("--teacher-std", nargs="+", type=float, help="values of pixels from 0 to 1, a channel each")
    add("--teacher-size", type=int, help="side that the teacher's images are scaled to")
    add("--teacher-classes", type=Path, metavar="FILE",
        help="where its classes differ: for each class of the student, a line with the number or "
        "name of the teacher's class")  # fmt: skip
    add("--teacher-cache", type=Path, metavar="FOLDER",
        help="keep the teacher's training logits there and read them from there; needs images "
        "that stay the same: --crop 0 --no-flip")  # fmt: skip
    add("--list-models", action="store_true", help="print the models and their sizes, and end")

    add = parser.add_argument_group("training").add_argument
    add("--method", choices=METHOD_NAMES, default="mcld")
    add("--loss", nargs="+", default=[], metavar="KEY=VALUE",
        help="settings of the method: a field of MCLDConfig, temperature, weight …")  # fmt: skip
    add("--bank-size", type=_bank_size, default=0,
        help="MCLD: teacher rows of earlier batches to contrast with as well; all: "
        "its answers to all training images, from the start to the end")  # fmt: skip
    add("--class-prior", choices=("none", "train"), default="none",
        help="train: MCLD's contrasts allow for the counts of the training labels, for uneven "
        "classes; not under a class-balanced sampler, whose batches are even")  # fmt: skip
    add("--balanced", help="adjust the student's logits by those counts in the training, under "
        "every method: the raw logits then treat all classes alike", **switch)  # fmt: skip
    add("--seed", type=int, default=0)
    add("--epochs", type=int, help="of the student; 0: untrained")
    add("--teacher-epochs", type=int, help="of a teacher that is trained first")
    add("--batch-size", type=int, default=64)
    add("--eval-batch-size", type=int, default=1000)
    add("--eval-every", type=int, default=1, metavar="EPOCHS")
    add("--optimizer", choices=("sgd", "adamw"), default="sgd")
    add("--lr", type=float, help="the highest rate; default: chosen for the data set and method")
    add("--teacher-lr", type=float)
    add("--momentum", type=float, default=0.9, help="of SGD")
    add("--weight-decay", type=float, default=5e-4)
    add("--schedule", choices=("step", "cosine"), default="step",
        help="step: ×0.1 after 62.5, 75, 87.5 %% of the epochs (150, 180, 210 of 240)")  # fmt: skip
    add("--warmup", type=int, default=0, metavar="EPOCHS", help="the rate grows over them")

    add = parser.add_argument_group("watching").add_argument
    add("--tensorboard", help="also write TensorBoard scalars", **switch)
    add("--track", choices=("wandb", "mlflow"), help="also send the numbers there")
    add("--onnx", help="write the student as student.onnx at the end", **switch | {"default": True})
    add("--log-seconds", type=float, default=30.0, help="between two lines where no one watches")
    return parser


class Collect(argparse.Action):
    """Adds to what this option was given before in the command line, not to its default."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        """Set the list."""
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is self.default else [*before, *values])


def _bank_size(text: str) -> int | str:
    if text == "all":
        return text
    if not text.isdigit():
        raise argparse.ArgumentTypeError("expected a number of rows ≥ 0, or all")
    return int(text)


def mcld_config(options: argparse.Namespace) -> MCLDConfig | None:
    """Return the configuration of a method by MCLD; None for the other methods.

    Raises:
        DataError: as `methods.settings`, and values that `MCLDConfig` refuses.
    """
    if options.method not in MCLD:
        return None
    if not options.loss:
        return MCLDConfig(**MCLD[options.method])
    from .methods import settings

    try:
        return MCLDConfig(**settings(options))
    except (TypeError, ValueError) as error:
        raise DataError(f"--loss: {error}") from error


def label_counts(options: argparse.Namespace, labels: Any, classes: int) -> Any:
    """Return the rows of each class among the training labels; None without ``--class-prior``.

    float32, (classes,): the ``class_prior`` of `mcld_core.mcld_loss` and of ``adjust_logits``.
    """
    if options.class_prior == "none":
        return None
    return np.bincount(labels, minlength=classes).astype("float32")
