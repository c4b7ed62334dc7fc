"""The options that every image example shares: ``--help``, ``--config``, defaults by data set.

Precedence: command line, then the ``--config`` file, then the data set's defaults, then the
option's own. The resolved values are saved as ``config.json`` in the run's folder, which is itself
a valid ``--config`` file: it repeats the run.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .data import DATASETS
from .defaults import DATASET_DEFAULTS
from .files import DataError
from .old_methods import METHODS, add_method_options, mcld_config


def build_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser with the options that do not depend on the framework."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help="JSON or TOML file of these options' values")
    add("--out", type=Path, help="the run's folder; default runs/DATASET")
    add("--resume", action="store_true", help="go on from the checkpoints in --out")

    data = parser.add_argument_group("data").add_argument
    data("--dataset", choices=DATASETS, default="digits")
    data("--data-dir", type=Path, default=Path("data"), help="folder of the official files")
    data("--download", action="store_true", help="fetch the official files, checksums checked")
    data("--train-size", type=int, help="use so many training images; default all")
    data(
        "--validation-size",
        type=int,
        default=0,
        help="training images set apart for choices (learning rate, best epoch); CIFAR holds out "
        "5,000; 0 trains on the published 50,000",
    )
    data("--crop", type=int, default=0, help="random shift by up to so many pixels")
    data("--flip", action=argparse.BooleanOptionalAction, default=False, help="random mirroring")

    models = parser.add_argument_group("models").add_argument
    models("--teacher", help="the teacher's model, see --list-models")
    models("--student", help="the student's model")
    models("--list-models", action="store_true", help="print the models and their sizes, and end")

    models(
        "--teacher-cache",
        type=Path,
        metavar="FOLDER",
        help="keep the teacher's training logits there and read them from there; needs images "
        "that stay the same: --crop 0 --no-flip",
    )

    training = parser.add_argument_group("training").add_argument
    training("--methods", nargs="+", choices=METHODS, default=["ce", "kd", "dkd", "mcld"])
    training("--seeds", nargs="+", type=int, default=[0])
    training("--epochs", type=int, help="of the students")
    training("--teacher-epochs", type=int)
    training("--batch-size", type=int, default=64)
    training("--eval-batch-size", type=int, default=1000)
    training(
        "--lr",
        nargs="+",
        metavar="METHOD=LR",
        default=[],
        type=method_rate,
        help="learning rates by method, or one number for all; default: those chosen on "
        "the validation split for this data set",
    )
    training("--teacher-lr", type=float)
    training("--momentum", type=float, default=0.9)
    training("--weight-decay", type=float, default=5e-4)
    training(
        "--schedule",
        choices=("step", "cosine"),
        default="step",
        help="step: ×0.1 after 62.5, 75 and 87.5 %% of the epochs (150, 180, 210 of 240)",
    )
    training(
        "--tune-lr",
        action="store_true",
        help="choose each method's learning rate on the validation split first",
    )
    training(
        "--lr-grid",
        nargs="+",
        type=float,
        help="the rates that --tune-lr tries, and beyond an edge that wins, twice or half the last",
    )
    training(
        "--tune-seeds",
        nargs="+",
        type=int,
        default=[100, 101],
        help="seeds for --tune-lr, apart from --seeds",
    )
    add_method_options(parser)
    watch = parser.add_argument_group("watching").add_argument
    watch(
        "--tensorboard",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="also write TensorBoard scalars",
    )
    return parser


def method_rate(text: str) -> str:
    """Check one ``METHOD=LR`` or ``LR`` of ``--lr`` and return it unchanged."""
    method, _, rate = text.rpartition("=")
    if method and method not in METHODS:
        raise argparse.ArgumentTypeError(f"{text!r}: unknown method; known: {', '.join(METHODS)}")
    try:
        positive = float(rate) > 0
    except ValueError:
        positive = False
    if not positive:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a rate > 0, or METHOD=RATE")
    return text


def parse_options(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parse ``argv`` over the configuration file over the data set's defaults."""
    first, _ = parser.parse_known_args(argv)
    file_values = _read_config(parser, first.config) if first.config else {}
    parser.set_defaults(**file_values)
    dataset = parser.parse_known_args(argv)[0].dataset
    preset = DATASET_DEFAULTS[dataset]
    parser.set_defaults(**{**preset.options, **file_values})
    options = parser.parse_args(argv)
    options.learning_rates = _learning_rates(options.lr, preset.rates(options.student))
    if options.out is None:
        options.out = Path("runs") / dataset
    _check(parser, options)
    return options


def _learning_rates(given: list[str], preset: dict[str, float]) -> dict[str, float]:
    rates = dict(preset)
    for text in sorted(given, key=lambda text: "=" in text):  # a bare number first, for all
        method, _, rate = text.rpartition("=")
        rates.update(dict.fromkeys([method] if method else METHODS, float(rate)))
    return rates


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for name in ("epochs", "teacher_epochs", "batch_size", "eval_batch_size"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: expected at least 1")
    if options.teacher_cache is not None and (options.crop or options.flip):
        parser.error("--teacher-cache needs images that stay the same: --crop 0 --no-flip")
    try:
        mcld_config(options)
    except ValueError as error:
        parser.error(f"--mcld-…: {error}")
    if options.tune_lr and not options.validation_size:
        parser.error("--tune-lr chooses on the validation split; set --validation-size too")


def _read_config(parser: argparse.ArgumentParser, path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        parser.error(f"--config {path}: {error}")
    actions = {action.dest: action for action in parser._actions}
    checked = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in actions or name in ("config", "help"):
            parser.error(f"--config {path}: unknown option {key!r}")
        checked[name] = _convert(parser, path, actions[name], value)
    return checked


def _convert(
    parser: argparse.ArgumentParser, path: Path, action: argparse.Action, value: Any
) -> Any:
    """Convert a file's value as the command line would, and check it against the choices."""
    if value is None:
        return None
    if action.nargs == 0:  # a switch
        if not isinstance(value, bool):
            parser.error(f"--config {path}: {action.dest} is true or false, got {value!r}")
        return value
    many = action.nargs == "+"
    if isinstance(value, list) != many:
        parser.error(
            f"--config {path}: {action.dest} is {'a list' if many else 'one value'}, got {value!r}"
        )
    convert = action.type if callable(action.type) else str
    try:
        items = [convert(str(item)) for item in (value if many else [value])]
    except (ValueError, argparse.ArgumentTypeError) as error:
        parser.error(f"--config {path}: {action.dest}: {error}")
    for item in items:
        if action.choices is not None and item not in action.choices:
            parser.error(
                f"--config {path}: {action.dest}: {item!r} is none of "
                f"{', '.join(map(str, action.choices))}"
            )
    return items if many else items[0]


def resolved(options: argparse.Namespace) -> dict[str, Any]:
    """Return what repeats the run: every option but those that say how to run it."""
    values = {
        key: value
        for key, value in vars(options).items()
        if key not in ("config", "resume", "tune_lr", "list_models", "learning_rates", "download")
    }
    values["lr"] = [f"{method}={rate}" for method, rate in options.learning_rates.items()]
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in sorted(values.items())
    }


#: What no training depends on: where and on what it runs, what is compared, what comes after.
BESIDE = {
    *("out", "data_dir", "teacher_cache", "device", "replicas", "eval_batch_size", "tensorboard"),
    *("methods", "seeds", "lr", "transfer", "transfer_size", "transfer_validation_size"),
}

#: What a resumed run may change. Rates, epochs and models are checked against each training's own
#: checkpoint.
MAY_CHANGE = BESIDE | {"epochs", "teacher_lr", "teacher_epochs", "lr_grid", "tune_seeds"}


def check_resumed(options: argparse.Namespace) -> None:
    """Check a resumed run against the ``config.json`` in its folder, where there is one.

    Raises:
        DataError: options that a training depends on differ, or the file is damaged.
    """
    path = options.out / "config.json"
    saved = read_saved(path)
    if saved is None:
        return
    differ = differences(saved, options, MAY_CHANGE)
    if differ:
        raise DataError(
            f"--resume: {options.out} is of a run with other options: {differ}. Resume with "
            f"--config {path}, or choose another --out"
        )


def read_saved(path: Path) -> dict[str, Any] | None:
    """Return what an earlier run wrote as JSON; None where there is no such file.

    Raises:
        DataError: the file is damaged.
    """
    try:
        saved: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); delete it and pass the options") from error
    return saved


def differences(saved: dict[str, Any], options: argparse.Namespace, may_change: set[str]) -> str:
    """Say which options differ from the `resolved` ones that were saved, but for some."""
    now = json.loads(json.dumps(resolved(options)))
    return ", ".join(
        f"{key} was {saved[key]!r} and is {now[key]!r}"
        for key in now
        if key not in may_change and saved.get(key, now[key]) != now[key]
    )
