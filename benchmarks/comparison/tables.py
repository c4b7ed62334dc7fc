"""Accuracies of several methods over several seeds: the table, and what it says in a sentence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recipes import comparing
from recipes.comparing.paired import less_the_best, sampling_error
from recipes.run import Row, Run, best_row


@dataclass(frozen=True)
class Record:
    """One training: test accuracy of its last epoch and of its best one by *validation*.

    With ``--balanced`` it is the mean over the classes, and ``plain`` is the last epoch's part of
    right answers.
    """

    method: str
    seed: int
    lr: float
    test_last: float
    test_best: float | None
    best_epoch: int | None
    parameters: int
    seconds: float
    plain: float | None = None


def test_score(row: Row, balanced: bool) -> float:
    """Return the test accuracy of an epoch, plain or balanced."""
    return float(row["test_balanced_accuracy" if balanced else "test_accuracy"])


def summarise(method: str, seed: int, result: Run, balanced: bool = False) -> Record:
    """Read the last and the best epoch off the history."""
    rows, best = result.rows, best_row(result.rows)
    return Record(
        method,
        seed,
        max(row["lr"] for row in rows),
        test_score(rows[-1], balanced),
        test_score(best, balanced) if best else None,
        best["epoch"] if best else None,
        result.parameters,
        sum(row["seconds"] for row in rows),
        rows[-1]["test_accuracy"] if balanced else None,
    )


def kind(records: Sequence[Record]) -> str:
    """Return ``balanced test`` or ``test``: which accuracy the records have."""
    return "balanced test" if any(record.plain is not None for record in records) else "test"


def spread(values: Sequence[float]) -> str:
    """Return ``mean ± sd`` in percent (sample standard deviation; none for one value)."""
    return comparing.spread([100 * value for value in values])


def table(records: Sequence[Record], loaded: Mapping[str, float]) -> str:
    """Return a Markdown table, a method a line, in the order of first appearance.

    Args:
        records: of all trainings.
        loaded: test accuracy of teachers that were not trained here, by name.
    """
    shown = kind(records)
    columns = [f"{shown} % (last epoch)", f"{shown} % (best validation epoch)"]
    columns += ["test % (last epoch)"] if shown != "test" else []
    rows = []
    for name, accuracy in loaded.items():
        known = f"{100 * accuracy:.2f}"  # the plain one
        cells = [known if column == "test % (last epoch)" else "–" for column in columns]
        rows.append([f"teacher {name}", "–", "–", *cells])
    for method in dict.fromkeys(record.method for record in records):
        mine = [record for record in records if record.method == method]
        best = [record.test_best for record in mine if record.test_best is not None]
        plain = [record.plain for record in mine if record.plain is not None]
        cells = [spread([record.test_last for record in mine]), spread(best) if best else "–"]
        cells += [spread(plain)] if plain else []
        rows.append([method, f"{mine[0].lr:.3g}", f"{mine[0].parameters:,}", *cells])
    return "\n".join(comparing.markdown(["method", "lr", "parameters", *columns], rows))


def conclusion(records: Sequence[Record]) -> str:
    """Return what came out: the best method, its margin over the next, and how sure that is.

    The margin is the mean difference between the same seeds, with its standard error over them: a
    seed has the same teacher, first weights and batches for every method.
    """
    scores = _scores(records)
    ranked = sorted(scores, key=lambda name: -statistics.fmean(scores[name].values()))
    best = ranked[0]
    seeds = len(scores[best])
    mean = f"{statistics.fmean(scores[best].values()):.2f} %"
    mean += " balanced" if kind(records) != "test" else ""
    if len(ranked) == 1:
        return f"{best} reaches {mean} on the test split ({seeds} seed{'s' * (seeds > 1)})."
    second = ranked[1]
    differences = [scores[best][seed] - scores[second][seed] for seed in scores[best]]
    margin = statistics.fmean(differences)
    text = f"Best: {best}, {mean} on the test split, {margin:.2f} points above {second}"
    if seeds < 2:
        return f"{text}. One seed: this says little about which method is better."
    error = statistics.stdev(differences) / math.sqrt(seeds)
    sure = "more than twice" if margin > 2 * error else "that may be chance, less than twice"
    paired = f"the standard error of the paired difference over {seeds} seeds, {error:.2f}."
    return f"{text}: {sure} {paired}"


def differences(records: Sequence[Record], test_rows: int) -> str:
    """Return each method minus the best baseline: a table, with the test split's own error."""
    scores = _scores(records)
    points = "points" if kind(records) == "test" else "points of balanced accuracy"
    lines = less_the_best(points, scores)
    if kind(records) == "test":
        best = max(statistics.fmean(found.values()) for found in scores.values())
        error = sampling_error(best, test_rows)
        lines += ["", f"{test_rows:,} test rows alone give an accuracy a standard error of "
                  f"{error:.2f} points; that of a difference is smaller."]  # fmt: skip
    return "\n".join(lines)


def _scores(records: Sequence[Record]) -> dict[str, dict[int, float]]:
    """Return the test accuracy in percent by method and seed, without the teacher's."""
    scores: dict[str, dict[int, float]] = {}
    for record in records:
        if record.method != "teacher":
            scores.setdefault(record.method, {})[record.seed] = 100 * record.test_last
    return scores
