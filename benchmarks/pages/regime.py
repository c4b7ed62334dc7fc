"""The tables of the regime's page, from its record."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.pages.numbers import difference, fill, gaps, interval, markdown, spread
from benchmarks.record import Record
from benchmarks.regime import ROWS, SCALES, SOFT, TRIAL_SEED, Job, chosen, jobs, runs_of

REGISTERED = (
    ("MCLD + CE", "CE + sample-wise"),
    (SOFT, "CE + sample-wise"),
    ("MCLD", "CE + KD"),
)
SMALLEST = 0.5
"""Percentage points: a smaller difference would change no recommendation."""


def scores(runs: dict[str, Any], row: str) -> dict[tuple[int, str], float]:
    """Return a row's test accuracies by seed and teacher: a pair has both in common."""
    found = [(seed, runs.get(Job(row, seed).name)) for seed in range(ROWS[row].seeds)]
    return {(seed, run["teacher"]): run["test"] for seed, run in found if run}


def teachers(runs: dict[str, Any]) -> list[tuple[object, ...]]:
    """Return the rows of the teachers' table, in the order of the seeds that they taught."""
    taught: dict[str, list[str]] = {}
    for seed in (*range(max(row.seeds for row in ROWS.values())), TRIAL_SEED):
        names = {run["teacher"] for key, run in runs.items() if key.endswith(f"|{seed}")}
        for name in sorted(names & {key.removeprefix("teacher|") for key in runs}):
            taught.setdefault(name, []).append("trials" if seed == TRIAL_SEED else str(seed))
    own = ((name, runs[f"teacher|{name}"], seeds) for name, seeds in taught.items())
    return [(f"`{k}`", f"{x['test']:.2f}", f"{x['train']:.2f}", ", ".join(s)) for k, x, s in own]


def verdict(low: float, high: float) -> str:
    """Return what the registered text concludes from an interval."""
    if low > -SMALLEST and high < SMALLEST:
        return "level"
    return "better" if low > 0 else "worse" if high < 0 else "open"


def write(name: str, results: Path) -> str:
    """Write the tables between the marks of the page; return them."""
    trials = SCALES[name].trials_of or name
    records = (Record(results / f"regime_{which}.json") for which in (trials, name))
    runs, wanted = runs_of(*records), jobs(SCALES[name])
    done = sum(job.name in runs for job in wanted)
    parts = [f"All {done} runs." if done == len(wanted) else f"{done} of {len(wanted)} runs."]
    found = [run for name, run in runs.items() if name.startswith("teacher|")]
    head: tuple[str, ...] = ("teacher", "test %", "its own training pictures %", "seeds")
    parts += [markdown(head, teachers(runs))] if found else []
    taught = [tests for row in ROWS if row != "CE" and (tests := scores(runs, row))]
    means = [statistics.mean(tests.values()) for tests in taught]
    if found and means and min(means) > max(run["test"] for run in found):
        parts.append(
            "**No teacher is as good as the students that it taught**: what holds here need not "
            "hold for a better teacher."
        )
    table = []
    for row in (row for row in ROWS if row in {job.row for job in wanted}):
        tests = scores(runs, row)
        trial = chosen(row, runs)
        tries = [runs.get(Job(row, TRIAL_SEED, k).name) for k in range(3)]
        shown = " / ".join(f"{run['validation']:.2f}" if run else "–" for run in tries)
        best = "–" if trial is None else f"`{tries[trial]['loss']}`, rate {tries[trial]['lr']:g}"
        cells = spread(list(tests.values())) if tests else "–"
        table.append((row, shown, best, cells, len(tests)))
    head = ("row", "validation % of the three trials", "chosen", "test %", "seeds")
    parts.append(markdown(head, table))
    pairs = []
    for one, other in REGISTERED:
        given = scores(runs, one), scores(runs, other)
        n = len(gaps(*given))
        conclusion = verdict(*interval(gaps(*given))[1:]) if n == 6 else f"{n} of 6 seeds"
        names = (f"({row})" if " " in row else row for row in (one, other))
        pairs.append((" − ".join(names), difference(*given) if n else "–", conclusion))
    parts.append(markdown(("registered difference", "points (95 % interval)", "outcome"), pairs))
    text = "\n\n".join(parts)
    fill(results / f"regime_{name}.md", text)
    return text
