"""What the validation scores of all comparisons say of MCLDConfig's defaults: one table.

`committed.py` writes it into benchmarks/results/defaults.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.pages.numbers import interval

DEFAULT = "MCLD"
SETTINGS = {
    DEFAULT: "mcld",
    "no ramp": "mcld:category_warmup=0",
    "CE": "mcld-ce",
    "CE, no ramp": "mcld-ce:category_warmup=0",
    "CE, no contrasts": "mcld-ce:weight_instance=0,weight_category=0",
}
"""What is changed of the defaults → the method of a comparison."""
ROWS = {
    DEFAULT: "MCLD",
    "no ramp": "MCLD, no ramp",
    "CE": "MCLD + CE",
    "CE, no ramp": "MCLD + CE, no ramp",
    "CE, no contrasts": "CE + sample-wise",
}
"""The same → the row of the pages of Tiny-ImageNet and of uneven classes."""
COMPARISONS = {
    "comparison_digits": ("digits", 270),
    "comparison_fashion_mnist": ("Fashion-MNIST", 5000),
    "comparison_udhr": ("528 languages", 3000),
    "comparison_newsgroups": ("20 Newsgroups", 1500),
    "comparison_leaf": ("leaves", 40),
}
"""File → the set, and its validation rows."""
UNEVEN = {"udhr": ("200 uneven languages", 1200), "fashion_mnist": ("uneven Fashion-MNIST", 1000),
          "digits": ("uneven digits", 300)}  # fmt: skip
Found = dict[str, tuple[float, float | None]]
"""Setting → validation score in percent, and the chosen weight of the sample-wise term."""


def comparison(record: Mapping[str, Any]) -> Found:
    """Return the best trials of a comparison."""
    methods = record["tuning"]["methods"]
    unit = 100 if all(method["validation"] <= 1 for method in methods.values()) else 1
    return {
        name: (unit * methods[text]["validation"], methods[text]["best"].get("weight_sample"))
        for name, text in SETTINGS.items()
        if text in methods
    }


def uneven(record: Mapping[str, Any], name: str) -> Found:
    """Return the best trials of the steepest classes of a set, by balanced accuracy."""
    chosen = {row: record["chosen"].get(f"{name}|50|{text}") for row, text in ROWS.items()}
    return {
        row: (
            found["validation"] * (100 if found["validation"] <= 1 else 1),
            found["best"].get("weight_sample", found["best"].get("s")),
        )
        for row, found in chosen.items()
        if found
    }


def tiny_imagenet(record: Mapping[str, Any]) -> Found:
    """Return the best trials; their keys are row, rate, constant and seed."""
    found: Found = {}
    for key, score in record["trials"].items():
        text, _, constant, _ = key.split("|")
        for row in (row for row, named in ROWS.items() if named == text):
            found[row] = max(found.get(row, (0.0, None)), (score, float(constant)))
    return found


def read(folder: Path) -> dict[str, tuple[Found, int]]:
    """Return the best trials of each set, and the rows of its validation split."""

    def of(name: str) -> Any:
        return json.loads((folder / f"{name}.json").read_text("utf-8"))

    found = {name: (comparison(of(file)), rows) for file, (name, rows) in COMPARISONS.items()}
    found["Tiny-ImageNet"] = tiny_imagenet(of("tiny_imagenet")), 10_100
    long_tail = of("long_tail")
    return found | {name: (uneven(long_tail, key), rows) for key, (name, rows) in UNEVEN.items()}


def table(found: Mapping[str, tuple[Found, int]]) -> str:
    """Return the settings less the default and their mean over sets, and the chosen weights."""
    others = [name for name in SETTINGS if name != DEFAULT]
    heads = ["validation rows", f"{DEFAULT}, %", *others]
    lines = [f"| set | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, (scores, rows) in found.items():
        default = scores[DEFAULT][0]
        cells = [f"{rows:,}", f"{default:.2f} ({math.sqrt(default * (100 - default) / rows):.2f})"]
        for other in others:
            cells.append(f"{scores[other][0] - default:+.2f}" if other in scores else "–")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    means = []
    for values in gaps(found).values():
        mean, low, high = interval(values)
        means.append(f"{mean:+.2f} ({low:+.2f} to {high:+.2f})")
    lines.append(f"| mean over the sets (95 % interval) | | | {' | '.join(means)} |")
    lines += ["", f"| weight of the sample-wise term | {' | '.join(SETTINGS)} |"]
    lines.append("|---" * (len(SETTINGS) + 1) + "|")
    for name, (scores, _) in found.items():
        weights = (scores.get(setting, (0.0, None))[1] for setting in SETTINGS)
        cells = ["–" if weight is None else f"{weight:.2g}" for weight in weights]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gaps(found: Mapping[str, tuple[Found, int]]) -> dict[str, list[float]]:
    """Return each setting's differences to the default, a number a set."""
    return {
        name: [
            scores[name][0] - scores[DEFAULT][0] for scores, _ in found.values() if name in scores
        ]
        for name in SETTINGS
        if name != DEFAULT
    }
