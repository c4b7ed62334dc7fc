"""The page of results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.comparing import markdown, spread
from recipes.comparing.tasks import environment

from benchmarks.tiny_imagenet.data import TEACHERS
from examples.recipes.comparing.paired import difference, sampling_error

BASELINES = ("CE", "KD", "CE + KD", "CE + DKD", "CE + sample-wise")
FULL = "MCLD + CE, no ramp"
PAIRS = (
    (FULL, "CE"),
    (FULL, "CE + sample-wise"),
    (FULL, "CE + DKD"),
    (FULL, "CE + KD"),
    (FULL, f"{FULL}, no instance-wise"),
    (FULL, f"{FULL}, no category-wise"),
    (FULL, "MCLD + CE"),
    (FULL, "MCLD, no ramp"),
    ("MCLD, no ramp", "MCLD"),
    ("MCLD", "CE"),
)
INTRODUCTION = Path(__file__).with_name("table.md").read_text("utf-8")

Record = dict[str, Any]


def tests(record: Record, row: str) -> dict[int, float]:
    """Return the test accuracies of a row by seed."""
    parts = {tuple(key.split("|")): value for key, value in record["tests"].items()}
    return {int(key[3]): value for key, value in parts.items() if key[0] == row}


def page(record: Record, listed: Sequence[str], longer: Mapping[str, float]) -> str:
    """Return the page: the table, the paired differences, and all trials.

    ``longer`` are the scores of trials as long as the tests, by ``row|rate|constant|seed``.
    """
    present = [row for row in listed if tests(record, row)]
    if not present:
        return "# Tiny-ImageNet, a published teacher\n\nNo training has ended yet.\n"
    settings = record["settings"]
    means = {row: statistics.fmean(tests(record, row).values()) for row in present}
    best = max((row for row in present if row in BASELINES), key=lambda row: means[row])
    error = sampling_error(max(means.values()), settings["test"])
    usual = {"teacher": "lite0", "train": 40_400, "width": 1, "epochs": 6, "trial_epochs": 3}
    changed = {name: settings[name] for name in usual if settings[name] != usual[name]}
    words = "".join(f" --{name.replace('_', '-')} {value}" for name, value in changed.items())
    teacher = settings["teacher"]
    introduction = INTRODUCTION.format(
        **settings, Teacher=teacher.title(), side=TEACHERS[teacher], words=words, error=error,
        environment=environment(),
    )  # fmt: skip
    rows = []
    for row in present:
        _, lr, constant, _ = next(
            key for key in record["tests"] if key.startswith(f"{row}|")
        ).split("|")
        trial = record["trials"][f"{row}|{lr}|{constant}|0"]
        found = tests(record, row)
        gap = "–" if row == best else difference(found, tests(record, best))
        cells = (row, lr, "–" if row == "CE" else constant, f"{trial:.2f}", len(found))
        rows.append((*cells, spread(list(found.values())), gap))
    gaps = (
        (f"{one} − {other}", difference(tests(record, one), tests(record, other)))
        for one, other in PAIRS
        if one in present and other in present
    )
    tried: dict[str, list[str]] = {row: [] for row in present}
    for key, score in record["trials"].items():
        row, lr, constant, _ = key.split("|")
        if row in tried:
            tried[row].append(f"{lr}{f', {constant}' * (row != 'CE')}: {score:.2f}")
    head = ["", "rate", "constant", "validation", "seeds", "test", f"minus {best}"]
    lines = [introduction, *markdown(head, rows), "", "## What carries it", ""]
    lines += [*markdown(["difference", "points"], gaps), "", "## All trials", ""]
    trials = ((row, "; ".join(found)) for row, found in tried.items())
    lines += markdown(["", "rate, constant: validation accuracy"], trials)
    if longer:
        lines += ["", "## Trials as long as the tests", ""]
        lines += ["Afterwards, with the trials' seed, to see whether the shorter ones misled:", ""]
        again = ((*key.split("|")[:3], f"{value:.2f}") for key, value in longer.items())
        lines += markdown(["", "rate", "constant", "validation"], again)
    return "\n".join(lines) + "\n"
