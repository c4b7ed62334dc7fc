"""The page of language_models.py's results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.comparing import spread
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
    lines = ["", f"| | rate | seeds | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 3) + "|"]
    teacher = [f"{record['teacher'][name]:.2f}" for name in COLUMNS[:2]]
    lines.append(f"| teacher | – | – | {' | '.join(teacher)} | – | – | – |")
    for row in done:
        cells = [spread(list(of_seeds(record, row, name).values())) for name in COLUMNS[:4]]
        cells.append(spread(list(of_seeds(record, row, COLUMNS[4]).values())).split()[0])
        found = of_seeds(record, row, "lr")
        lines.append(
            f"| {row} | {next(iter(found.values()))} | {len(found)} | {' | '.join(cells)} |"
        )
    others = [other for other in ("CE", "CE + KD", "MCLD") if other in done]
    lines += ["", f"| perplexity, less that of | {' | '.join(others)} |"]
    lines.append("|---" * (len(others) + 1) + "|")
    for row in done:
        own = of_seeds(record, row, "perplexity")
        cells = [
            difference(own, of_seeds(record, other, "perplexity")) if other != row else "–"
            for other in others
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    lines += ["", f"| validation perplexity at rate | {' | '.join(map(str, rates))} |"]
    lines.append("|---" * (len(rates) + 1) + "|")
    for row in done:
        tried = [record[f"{TUNE_SEED}|{row}|{lr}"]["perplexity"] for lr in rates]
        lines.append(f"| {row} | {' | '.join(f'{value:.2f}' for value in tried)} |")
    return text + "\n".join(lines) + "\n"
