"""Distil an image-and-text teacher of emoji into a student that sees the image alone.

    pip install '.[torch,examples,onnx]'
    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
    python examples/multimodal_emoji.py --data-dir .

The classes are 58 subcategories ("animal-bird" …), drawn by two vendors and split by emoji. The
teacher gives logits of the image, of the text (names) and of both (KD's); `multimodal_mcld_loss`
contrasts the student's row with all three. Numbers, plot and ONNX file go to ``--out``.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mcld_core import MCLDConfig, export_onnx, kd_loss
from mcld_core.extensions.multimodal import multimodal_mcld_loss

CONFIG, SIDE, NGRAMS = MCLDConfig(weight_ce=1.0), 16, 1024


def read_emoji(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images (rows, 3·SIDE²), texts (rows, NGRAMS), classes, and which rows are tests."""
    drawings, rows, seen = {}, [], Counter[int]()
    for vendor in ("google", "twitter"):
        name = f"emoji-datasource-{vendor}"
        if not (path := folder / f"{name}-16.0.0.tgz").is_file():
            raise SystemExit(f"error: {path} is missing: npm pack {name}@16.0.0")
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if member.name == "package/emoji.json":
                    entries = json.load(file)
                elif member.name.startswith(f"package/img/{vendor}/64/"):
                    picture = Image.open(io.BytesIO(file.read())).convert("RGBA")
                    picture = Image.alpha_composite(Image.new("RGBA", (64, 64), "white"), picture)
                    small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
                    drawings[vendor, Path(member.name).name] = np.asarray(small)
    sizes = Counter(entry["subcategory"] for entry in entries)
    names = sorted(name for name, size in sizes.items() if size >= 10)
    for entry in (entry for entry in entries if entry["subcategory"] in names):
        label = names.index(entry["subcategory"])
        seen[label] += 1
        for vendor in ("google", "twitter"):  # every fourth emoji of a class tests
            if (image := drawings.get((vendor, entry["image"]))) is not None:
                rows.append((image.reshape(-1), ngrams(entry), label, seen[label] % 4 == 0))
    images, texts, labels, tests = (np.array(column) for column in zip(*rows, strict=True))
    pixels = (images / 127.5 - 1).astype(np.float32)
    return tuple(torch.tensor(column) for column in (pixels, texts, labels, tests))


def ngrams(entry: dict[str, Any]) -> np.ndarray:
    """Return hashed counts of three letters in a row, scaled to length 4 (as pixels vary)."""
    text = f" {' '.join([entry['name'] or '', *entry['short_names']]).lower()} "
    grams = [zlib.crc32(text[i : i + 3].encode()) % NGRAMS for i in range(len(text) - 2)]
    row = np.bincount(grams, minlength=NGRAMS).astype(np.float32)
    return 4.0 * row / np.linalg.norm(row)


class Teacher(nn.Module):
    """An image encoder, a text encoder, and a head for each and for both."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.see = nn.Sequential(nn.Linear(3 * SIDE**2, 192), nn.ReLU(), nn.Dropout(0.5))
        self.read = nn.Sequential(nn.Linear(NGRAMS, 192), nn.ReLU(), nn.Dropout(0.5))
        widths = {"image": 192, "text": 192, "fused": 384}
        self.heads = nn.ModuleDict({name: nn.Linear(w, classes) for name, w in widths.items()})

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Return (rows, classes) by modality."""
        seen, read = self.see(images), self.read(texts)
        features = {"image": seen, "text": read, "fused": torch.cat([seen, read], 1)}
        return {name: head(features[name]) for name, head in self.heads.items()}


def fit(model: nn.Module, count: int, loss: Callable[..., Tensor], epochs: int) -> None:
    """Train by SGD on ``loss(row numbers, progress)`` of 128 rows; the rate falls to 0."""
    steps = epochs * -(-count // 128)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, nesterov=True, weight_decay=5e-4)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        optimizer.zero_grad()
        loss(torch.randint(count, (128,)), step / steps).backward()
        optimizer.step()
    model.eval().requires_grad_(False)


def main(argv: Sequence[str] | None = None) -> None:
    """Train teacher and students, write numbers, plot and ONNX."""
    add = (parser := argparse.ArgumentParser(description=__doc__.splitlines()[0])).add_argument
    add("--data-dir", type=Path, default=Path("."), help="of the two packages")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--epochs", type=int, default=30)
    add("--out", type=Path, default=Path("runs/multimodal_emoji"))
    options = parser.parse_args(argv)
    *parts, tests = read_emoji(options.data_dir)
    (x, texts, y), held = ([part[chosen] for part in parts] for chosen in (~tests, tests))
    (test_x, test_texts, test_y), classes, found = held, int(y.max()) + 1, {}
    score = lambda rows: 100 * float((rows.argmax(1) == test_y).float().mean())  # noqa: E731
    for seed in options.seeds:
        torch.manual_seed(seed)
        teacher = Teacher(classes)
        every = lambda i, p, t=teacher: torch.cat([*t(x[i], texts[i]).values()])  # noqa: E731
        by_labels = lambda i, p, f=every: 3 * cross_entropy(f(i, p), y[i].repeat(3))  # noqa: E731
        fit(teacher, len(y), by_labels, options.epochs)
        rows = teacher(x, texts)
        for name, logits in teacher(test_x, test_texts).items():
            found.setdefault(f"teacher: {name}", []).append(score(logits))
        losses = {
            "CE": lambda s, i, p: cross_entropy(s, y[i]),
            "KD + CE": lambda s, i, p, t=rows: kd_loss(s, t["fused"][i]) + cross_entropy(s, y[i]),
            "MCLD + CE": lambda s, i, p, t=rows: multimodal_mcld_loss(
                {"image": s}, {k: row[i] for k, row in t.items()}, y[i], config=CONFIG, progress=p
            ),
        }  # fmt: skip
        for name, loss in losses.items():
            torch.manual_seed(seed)
            student = nn.Sequential(nn.Linear(x.shape[1], 128), nn.ReLU(), nn.Linear(128, classes))
            of_rows = lambda i, p, s=student, f=loss: f(s(x[i]), i, p)  # noqa: E731
            fit(student, len(y), of_rows, options.epochs)
            found.setdefault(name, []).append(score(student(test_x)))
    options.out.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    for name, scores in found.items():
        print(f"{name}: test accuracy {np.mean(scores):.1f} %")
        axes.barh(name, np.mean(scores), xerr=np.std(scores), capsize=3)
    axes.set(xlabel="test accuracy, %")
    figure.savefig(options.out / "accuracy.png")
    (options.out / "numbers.json").write_text(json.dumps(found))
    print(export_onnx(student, options.out / "student.onnx", example_input=test_x[:4].numpy()))


if __name__ == "__main__":
    main()
