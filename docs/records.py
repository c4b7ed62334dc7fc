"""Test scores by row and seed, of any file of benchmarks/results."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

from benchmarks.pages.numbers import gaps, interval

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
WORDS = {
    "CE": "ce",
    "MCLD": "mcld",
    "MCLD, no ramp": "mcld:category_warmup=0",
    "MCLD + CE": "mcld-ce",
    "MCLD + CE, no ramp": "mcld-ce:category_warmup=0",
    "CE + sample-wise": "mcld-ce:weight_instance=0,weight_category=0",
    "KD": "kd",
    "KD without CE": "kd:weight=1,weight_ce=0",
    "standardised KD": "kd-ls",
    "DKD": "dkd",
    "DIST": "dist",
    "NKD": "nkd",
    "WTTM": "wttm",
    "RLD": "rld",
}
"""A row's name on its page → in the files of version 0.2."""
PAGE = {text: name for name, text in WORDS.items()}
Seeds = dict[int, float]


@functools.cache
def read(name: str) -> Any:
    """Return what a file of results holds; None where there is none."""
    path = RESULTS / name
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def tests(record: Any) -> dict[str, dict[int, Any]]:
    """Return row → seed → score or scores, in percent where they are accuracies.

    Args:
        record: of `benchmarks.compare` ("tests" by name|seed|row; a file of several tables has
            rows such as ``udhr|50|CE``), of the regime (test|row|seed), of Tiny-ImageNet ("tests"
            by row|rate|constant|seed), of a comparison of version 0.2 ("runs"), or of wrong
            teachers ("rows": ``40 %|mcld``).
    """
    found: dict[str, dict[int, Any]] = {}
    if "runs" in record:
        for run in record["runs"]:
            last = run.get("test_last")
            value = run.get("accuracy %") if last is None else 100 * last
            if value is None:  # a forecast
                return {}
            found.setdefault(PAGE.get(run["method"], run["method"]), {})[run["seed"]] = value
    elif "seconds" in record or "findings" in record:
        pass
    elif "rows" in record and all("teacher" in run for run in record["rows"]):
        for run in record["rows"]:
            row = f"{run['teacher']}|{run['method']}"
            found.setdefault(row, {})[run["seed"]] = 100 * run["accuracy"]
    elif "tests" in record:
        for text, value in record["tests"].items():
            words = text.split("|")
            if isinstance(value, float):
                found.setdefault(words[0], {})[int(words[3])] = value
            else:
                row = "|".join([*words[:-2], words[-1]] if len(words) > 3 else words[2:])
                found.setdefault(row, {})[int(words[-2])] = value
    else:
        for text, value in record.items():
            if text.startswith("test|") and "|teacher|" not in text:
                _, row, seed = text.split("|")
                found.setdefault(row, {})[int(seed)] = value["test"]
            elif text.count("|") == 1 and "perplexity" in value:  # language models of version 0.2
                seed, row = text.split("|")
                found.setdefault(row, {})[int(seed)] = {"perplexity": value["perplexity"]}
    return found


def scores(record: Any, row: str) -> Seeds:
    """Return a row's test scores by seed.

    Args:
        record: see `tests`.
        row: its name; a column other than the first of the known ones stands behind it:
            ``udhr|50|CE|tail``.
    """
    found, column = tests(record), ""
    if row not in found and row.count("|") > 2:
        row, _, column = row.rpartition("|")
    columns = (column,) if column else ("balanced", "accuracy", "perplexity")
    return {
        seed: next((value[c] for c in columns if c in value), math.nan)
        if isinstance(value, dict)
        else value
        for seed, value in found.get(row, {}).items()
    }


def difference(record: Any, row: str, other: str) -> tuple[float, float, float] | None:
    """Return mean and 95 % interval of the difference of two rows, paired by seed."""
    found = gaps(scores(record, row), scores(record, other))
    return interval(found, record.get("overlap", 0.0)) if len(found) > 1 else None


def falls(record: Any) -> bool:
    """Whether less of its score is better: perplexities."""
    values = (value for row in tests(record).values() for value in row.values())
    return any(isinstance(value, dict) and "perplexity" in value for value in values)
