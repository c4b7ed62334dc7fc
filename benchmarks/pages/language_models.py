"""The page of language_models.py's results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.comparing import markdown, spread
from recipes.comparing.tasks import environment

from examples.recipes.comparing.paired import difference

TUNE_SEED = 100
COLUMNS = ("perplexity", "next token %", "agreement %", "KL from the teacher", "CPU ms a step")
INTRODUCTION = Path(__file__).with_name("language_models.md").read_text("utf-8")

Record = dict[str, Any]


def of_seeds(record: Record, row: str, column: str) -> dict[int, float]:
    """Return a column of a row by seed, without the seed that chose the rates."""
    found = {}
    for key, scores in record.items():
        seed, _, name = key.partition("|")
        if name == row and int(seed) != TUNE_SEED:
            found[int(seed)] = scores[column]
    return found


def page(record: Record, rows: Sequence[str], rates: Sequence[float]) -> str:
    """Return the page: the table, the paired differences, and what the rates were chosen by."""
    about = record["about"]
    teacher_weights, student_weights = about["weights"]
    sizes = about["sizes"]
    tokens = sizes["batch"] * sizes["length"]
    text = INTRODUCTION.format(
        **{name: value for name, value in sizes.items() if name != "teacher_steps"},
        teacher_weights=teacher_weights,
        student_weights=student_weights,
        teacher_tokens=sizes["teacher_steps"] * tokens,
        tokens=sizes["steps"] * tokens,
        rates=", ".join(map(str, rates)),
        environment=environment(),
    )
    done = [row for row in rows if of_seeds(record, row, "perplexity")]
    known = [f"{record['teacher'][name]:.2f}" for name in COLUMNS[:2]]
    table = [["teacher", "–", "–", *known, "–", "–", "–"]]
    for row in done:
        cells = [spread(list(of_seeds(record, row, name).values())) for name in COLUMNS]
        cells[-1] = cells[-1].split()[0]
        found = of_seeds(record, row, "lr")
        table.append([row, str(next(iter(found.values()))), str(len(found)), *cells])
    others = [other for other in ("CE", "CE + KD", "MCLD") if other in done]
    perplexities = {row: of_seeds(record, row, "perplexity") for row in done}
    gaps = (
        [row] + [difference(own, perplexities[x]) if x != row else "–" for x in others]
        for row, own in perplexities.items()
    )
    tried = (
        [row, *(f"{record[f'{TUNE_SEED}|{row}|{lr}']['perplexity']:.2f}" for lr in rates)]
        for row in done
    )
    lines = ["", *markdown(["", "rate", "seeds", *COLUMNS], table), ""]
    lines += [*markdown(["perplexity, less that of", *others], gaps), ""]
    lines += markdown(["validation perplexity at rate", *map(str, rates)], tried)
    return text + "\n".join(lines) + "\n"
