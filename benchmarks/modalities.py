"""A teacher of drawings and their names, a student of the drawing alone: emoji.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
    python -m benchmarks.comparison --dataset emoji --data-dir . --trials 6

58 subcategories of at least ten emoji; training, validation and test split by emoji. The teacher
gives three rows of logits: of the image, of the text (name and short names) and of both.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.compare import Study, Task
from benchmarks.data import present
from benchmarks.fit import InMemory, Rows, accuracy, fit, predict
from benchmarks.losses import Loss, loss_of, settings_of
from benchmarks.networks import mlp
from mcld_core import MCLDConfig
from mcld_core.extensions.multimodal import multimodal_mcld_loss

ARCHIVE = "emoji-datasource-{}-16.0.0.tgz"
VENDORS, NGRAMS, SIDE = ("google", "twitter"), 1024, 16
CPU = torch.device("cpu")
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
    """Return the splits: x (rows, pixels and n-grams), by emoji 60 % / 15 % / 25 %."""
    from PIL import Image

    drawings: dict[tuple[str, str], np.ndarray] = {}
    entries: list[dict[str, Any]] = []
    for vendor in VENDORS:
        how = f"npm pack emoji-datasource-{vendor}@16.0.0 (in {folder})"
        with tarfile.open(present(folder / ARCHIVE.format(vendor), how)) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if member.name == "package/emoji.json":
                    entries = json.load(file)
                elif member.name.startswith(f"package/img/{vendor}/64/"):
                    picture = Image.open(io.BytesIO(file.read())).convert("RGBA")
                    white = Image.new("RGBA", picture.size, "white")
                    small = Image.alpha_composite(white, picture).convert("RGB")
                    pixels = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BOX))
                    drawings[vendor, Path(member.name).name] = pixels.ravel() / 127.5 - 1
    sizes = Counter(entry["subcategory"] for entry in entries)
    names = sorted(name for name, size in sizes.items() if size >= 10)
    chosen = [entry for entry in entries if entry["subcategory"] in names]
    labels = np.array([names.index(entry["subcategory"]) for entry in chosen])
    rng, part = np.random.default_rng(0), np.empty(len(chosen), "<U10")
    for label in range(len(names)):  # stratified: every class on every side
        members = rng.permutation(np.flatnonzero(labels == label))
        first, second = round(0.6 * len(members)), round(0.75 * len(members))
        part[members[:first]] = "train"
        part[members[first:second]] = "validation"
        part[members[second:]] = "test"
    found = {}
    for name in ("train", "validation", "test"):
        rows = [
            (np.concatenate([drawings[vendor, entry["image"]], ngrams(entry)]), labels[number])
            for number, entry in enumerate(chosen)
            for vendor in VENDORS
            if part[number] == name and (vendor, entry["image"]) in drawings
        ]
        x, y = (np.stack(column) for column in zip(*rows, strict=True))
        found[name] = Rows(torch.from_numpy(x).float(), torch.from_numpy(y))
    return found


def ngrams(entry: dict[str, Any]) -> np.ndarray:
    """Return hashed counts of words and of three letters in a row, at length 4 (as pixels vary)."""
    text = " ".join([entry["name"] or "", *entry["short_names"]]).lower()
    words = "".join(c if c.isalnum() else " " for c in text).split()
    grams = words + [f" {word} "[i : i + 3] for word in words for i in range(len(word))]
    row = np.zeros(NGRAMS)
    for gram in grams:
        row[int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=4).digest()) % NGRAMS] += 1
    return 4.0 * row / max(float(np.linalg.norm(row)), 1.0)


class Teacher(nn.Module):
    """An image and a text encoder, a head for each and for both: (rows, 3 · classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 192), nn.ReLU(), nn.Dropout(0.5))
            for width in (SIDE * SIDE * 3, NGRAMS)
        )
        self.heads = nn.ModuleList(nn.Linear(width, classes) for width in (192, 192, 384))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of image, text and both, side by side."""
        parts = x.split((SIDE * SIDE * 3, NGRAMS), 1)
        seen, read = (encode(part) for encode, part in zip(self.encoders, parts, strict=True))
        rows = (seen, read, torch.cat([seen, read], 1))
        return torch.cat([head(row) for head, row in zip(self.heads, rows, strict=True)], 1)


def task(parts: dict[str, Rows], seed: int) -> Task:
    """Train the teacher's three heads together; the student has the pixels alone."""
    train, classes = parts["train"], int(parts["train"].y.max()) + 1

    def heads(s: torch.Tensor, t: torch.Tensor, y: torch.Tensor, progress: float) -> torch.Tensor:
        return torch.stack([cross_entropy(part, y) for part in s.split(classes, 1)]).sum()

    teacher = fit(lambda: Teacher(classes), InMemory(train, 128), heads,
                  epochs=40, lr=0.1, seed=seed + 1000, where=CPU)  # fmt: skip
    pixels = {name: Rows(rows.x[:, : SIDE * SIDE * 3], rows.y) for name, rows in parts.items()}
    fused = predict(teacher, parts["test"].x)[:, 2 * classes :].argmax(1) == parts["test"].y
    return Task(
        pixels["train"]._replace(teacher=predict(teacher, train.x)),
        lambda: mlp(SIDE * SIDE * 3, classes, 128),
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
