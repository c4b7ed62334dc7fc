"""Configuration files of ``--config``: JSON, TOML or YAML, checked as the command line is."""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any


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
