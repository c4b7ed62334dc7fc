"""Pictures on the disk as the hub, folders and tar shards hold them, written by the tests."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("apple", "bear", "chair", "dog")


def picture(rng: np.random.Generator, label: int, side: int) -> Image.Image:
    """Return noise whose class can be learned: a bright corner."""
    pixels = rng.integers(0, 90, (side, side, 3), dtype=np.uint8)
    half = side // 2
    top, left = divmod(label, 2)
    pixels[top * half : (top + 1) * half, left * half : (left + 1) * half] += 150
    return Image.fromarray(pixels)


def write_parquet(folder: Path, rows: int = 40, side: int = 32) -> None:
    """Write CIFAR-100's columns on the hub: ``img``, ``fine_label``, ``coarse_label``."""
    import datasets

    features = datasets.Features(
        img=datasets.Image(),
        fine_label=datasets.ClassLabel(names=list(CLASSES)),
        coarse_label=datasets.ClassLabel(names=["thing", "animal"]),
    )
    for number, part in enumerate(("train", "test")):
        rng = np.random.default_rng(number)
        labels = [row % 4 for row in range(rows)]
        columns = {
            "img": [picture(rng, label, side) for label in labels],
            "fine_label": labels,
            "coarse_label": [label % 2 for label in labels],
        }
        path = folder / f"{part}-00000-of-00001.parquet"
        datasets.Dataset.from_dict(columns, features=features).to_parquet(str(path))


def write_folders(root: Path, parts: tuple[str, ...], rows: int = 16, side: int = 32) -> None:
    """Write ``root/PART/CLASS/NUMBER.png``."""
    for number, part in enumerate(parts):
        rng = np.random.default_rng(number)
        for row in range(rows):
            path = root / part / CLASSES[row % 4] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(rng, row % 4, side).save(path)


def write_shards(folder: Path, rows: int = 32, shards: int = 2, side: int = 32) -> None:
    """Write WebDataset's tar files: ``NUMBER.jpg`` beside ``NUMBER.cls``."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    content = io.BytesIO()
    picture(rng, 0, side).save(content, "JPEG")
    for part, count in (("train", shards), ("test", 1)):
        for shard in range(count):
            with tarfile.open(folder / f"{part}-{shard:04d}.tar", "w") as archive:
                for row in range(rows // shards):
                    content = io.BytesIO()
                    picture(rng, row % 4, side).save(content, "JPEG")
                    for kind, data in (
                        ("jpg", content.getvalue()),
                        ("cls", str(row % 4).encode()),
                    ):
                        entry = tarfile.TarInfo(f"{shard:04d}{row:06d}.{kind}")
                        entry.size = len(data)
                        archive.addfile(entry, io.BytesIO(data))
