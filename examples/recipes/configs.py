"""The values of options: where they come from, and whether a training can have them.

Precedence: command line, then the ``--config`` file (JSON, TOML or YAML), then the defaults of the
data set (defaults.toml), then the option's own.
"""

from __future__ import annotations

import argparse
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import DataError
from .options import TABLES, mcld_config


def parse_options(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
    tables: Mapping[str, dict[str, Any]] = TABLES,
) -> argparse.Namespace:
    """Parse ``argv`` over the configuration file over the data set's defaults.

    Bad input ends the process with status 2 and one line, as argparse does.
    """
    path = parser.parse_known_args(argv)[0].config
    in_file = {} if path is None else read_config(parser, path)
    parser.set_defaults(**in_file)
    chosen = parser.parse_known_args(argv)[0]
    defaults = defaults_of(chosen.dataset, chosen.method, chosen.student, tables)
    defaults["out"] = Path("runs", chosen.dataset, chosen.method)
    parser.set_defaults(**(defaults | in_file))
    options = parser.parse_args(argv)
    try:
        check_options(options)
    except DataError as error:
        parser.error(str(error))
    return options


def defaults_of(
    dataset: str, method: str, student: str | None, tables: Mapping[str, dict[str, Any]] = TABLES
) -> dict[str, Any]:
    """Return the defaults of a data set for a method and a student."""
    found = tables[dataset]
    while "like" in found:
        found = tables[found["like"]] | {key: x for key, x in found.items() if key != "like"}
    own = [found.get("methods", {}).get(method, {}), found.get("students", {}).get(student, {})]
    plain = {key: x for key, x in found.items() if key not in ("methods", "students")}
    return plain | own[0] | own[1]


def check_options(options: argparse.Namespace) -> None:
    """Raise `DataError` for values that no framework can train with."""
    least = {"epochs": 0, "teacher_epochs": 1, "batch_size": 1, "eval_batch_size": 1,
             "eval_every": 1, "warmup": 0, "crop": 0}  # fmt: skip
    for name, smallest in least.items():
        if getattr(options, name) < smallest:
            raise DataError(f"--{name.replace('_', '-')}: expected at least {smallest}")
    for name in ("lr", "teacher_lr"):
        if not 0 < getattr(options, name) < math.inf:
            raise DataError(f"--{name.replace('_', '-')}: expected a rate > 0")
    moving = (options.crop or options.flip) and options.bank_size != "all"
    if options.teacher_cache is not None and moving:
        raise DataError("--teacher-cache needs images that stay the same: --crop 0 --no-flip")
    if options.resume and options.overwrite:
        raise DataError("--resume and --overwrite exclude each other")
    if options.balanced and options.class_prior == "none":
        raise DataError("--balanced needs the counts of the labels: --class-prior train")
    if mcld_config(options) is None and options.loss:
        from .methods import settings

        settings(options)


# ---- the file of --config ----


def read_config(parser: argparse.ArgumentParser, path: Path) -> dict[str, Any]:
    """Return the values in a file, converted and checked as those of the command line."""
    try:
        values = _parse(path, path.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"--config {path}: {' '.join(str(error).split())}")
    actions = {action.dest: action for action in parser._actions}
    given, words = {}, []
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in actions or name in ("config", "help"):
            parser.error(f"--config {path}: unknown option {key!r}")
        if value is not None:
            given[name] = value
            words += _words(parser, path, actions[name], value)
    parsed = vars(parser.parse_args(words))
    return {name: parsed[name] if value != [] else [] for name, value in given.items()}


def _words(
    parser: argparse.ArgumentParser, path: Path, action: argparse.Action, value: Any
) -> list[str]:
    """Return what the command line would say."""
    option, *negative = action.option_strings
    if action.nargs == 0:  # a switch
        if not isinstance(value, bool):
            parser.error(f"--config {path}: {action.dest} is true or false, got {value!r}")
        return [option] if value else negative
    if isinstance(value, list) and action.nargs == "+":
        return [option, *map(str, value)] if value else []
    if isinstance(value, list | dict | bool):
        parser.error(f"--config {path}: {action.dest} is one value, got {value!r}")
    return [f"{option}={value}"]


def _parse(path: Path, text: str) -> dict[str, Any]:
    if path.suffix == ".json":
        values = json.loads(text)
    elif path.suffix == ".toml":
        values = tomllib.loads(text)
    elif path.suffix in (".yaml", ".yml"):
        try:
            import yaml
        except ImportError as error:
            raise ValueError("needs: pip install pyyaml") from error
        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from error
    else:
        raise ValueError("expected a file .json, .toml, .yaml or .yml")
    if not isinstance(values, dict):
        raise ValueError("expected options with their values")
    return values
