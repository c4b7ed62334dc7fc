"""A teacher of drawings and their names, a student of the drawing alone: emoji.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
    python -m benchmarks.comparison --dataset emoji --data-dir . --trials 6

Data and teacher are those of ``examples/multimodal_emoji.py``; a fifth of the training emoji is for
validation. The teacher gives three rows of logits: of the image, of the text and of both.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from benchmarks.compare import Study, Task
from benchmarks.fit import InMemory, Rows, accuracy, fit, predict
from benchmarks.losses import Loss, loss_of, settings_of
from benchmarks.networks import mlp
from examples.multimodal_emoji import SIDE, Teacher, read_emoji
from mcld_core import MCLDConfig
from mcld_core.extensions.multimodal import multimodal_mcld_loss

PIXELS, CPU = 3 * SIDE**2, torch.device("cpu")
ROWS = {
    "CE": "ce",
    "CE + KD": "kd:weight_ce=1,weight={w},temperature={t}",
    "CE + sample-wise": "sample:weight_sample={w}",
    "MCLD, fused": "mcld:weight_sample={s}",
    "MCLD + CE, fused": "mcld-ce:weight_sample={s}",
    "MCLD, image": "mcld:weight_sample={s}",
    "MCLD, image, text, fused": "mcld:weight_sample={s}",
    "MCLD + CE, image, text, fused": "mcld-ce:weight_sample={s}",
}
"""Behind the loss: the teacher's rows that it sees; without a word, the fused one."""


def read(folder: Path) -> dict[str, Rows]:
    """Return the splits: x (rows, pixels and n-grams); both drawings of an emoji in one split."""
    images, texts, labels, tests = read_emoji(folder)
    rows = Rows(torch.cat([images, texts], 1).float(), labels)
    emoji = texts.unique(dim=0, return_inverse=True)[1]
    held = emoji % 5 == 0
    parts = {"train": ~tests & ~held, "validation": ~tests & held, "test": tests}
    return {name: rows.part(which.nonzero()[:, 0]) for name, which in parts.items()}


class SideBySide(Teacher):
    """The example's teacher; its logits of image, text and both side by side."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (rows, 3 · classes)."""
        return torch.cat([*super().forward(x[:, :PIXELS], x[:, PIXELS:]).values()], 1)


def task(parts: dict[str, Rows], seed: int) -> Task:
    """Train the teacher's three heads together; the student has the pixels alone."""
    train, classes = parts["train"], int(parts["train"].y.max()) + 1

    def heads(s: torch.Tensor, t: torch.Tensor, y: torch.Tensor, progress: float) -> torch.Tensor:
        return torch.stack([cross_entropy(part, y) for part in s.split(classes, 1)]).sum()

    teacher = fit(lambda: SideBySide(classes), InMemory(train, 128), heads,
                  epochs=40, lr=0.1, seed=seed + 1000, where=CPU)  # fmt: skip
    pixels = {name: Rows(rows.x[:, :PIXELS], rows.y) for name, rows in parts.items()}
    fused = predict(teacher, parts["test"].x)[:, 2 * classes :].argmax(1) == parts["test"].y
    return Task(
        pixels["train"]._replace(teacher=predict(teacher, train.x)),
        lambda: mlp(PIXELS, classes, 128),
        lambda model, part: {"accuracy": accuracy(model, pixels[part])},
        {"accuracy": round(100 * float(fused.double().mean()), 3)},
    )


def row_loss(row: str, text: str, task: Task) -> Loss:
    """Return the loss of a row of the table."""
    plain, kinds = loss_of(text), row.split(", ")[1:]
    config = MCLDConfig(**settings_of(text)[1]) if kinds else None

    def loss(s: torch.Tensor, t: torch.Tensor, y: torch.Tensor, progress: float) -> torch.Tensor:
        rows = dict(zip(("image", "text", "fused"), t.split(s.shape[1], 1), strict=True))
        if config is None:
            return plain(s, rows["fused"], y, progress)
        seen = {name: rows[name] for name in kinds}
        return multimodal_mcld_loss({"image": s}, seen, y, config=config, progress=progress)

    return loss


def study(name: str, folder: Path) -> Study:
    """Return the study."""
    parts, options = read(folder), {"epochs": 30, "batch": 128, "where": CPU}
    return Study(ROWS, partial(task, parts), options, 0.1, len(parts["test"].y), row_loss)
