"""Tiny-ImageNet's pictures, from a folder or a git clone, and their crops and flips."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from benchmarks.fit import Rows
from benchmarks.record import replaced


class Cut(Protocol):
    """Which pictures are read, and their side: of the sorted classes every so-and-so-many-th."""

    classes: int
    every: int
    pictures: int
    held_out: int
    side: int


def files_of(folder: Path) -> dict[str, list[str]]:
    """Return wnid → paths of its training pictures, sorted."""
    if (folder / "train").is_dir():
        names = [str(path.relative_to(folder)) for path in folder.glob("train/*/images/*.JPEG")]
    else:
        git = ["git", "-C", str(folder), "ls-tree", "-r", "--name-only", "HEAD"]
        names = subprocess.run(git, check=True, capture_output=True, text=True).stdout.split("\n")
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        parts = name.split("/")
        if name.endswith(".JPEG") and len(parts) >= 4 and parts[-4] == "train":
            found.setdefault(parts[-3], []).append(name)
    if not found:
        raise SystemExit(f"{folder}: no train/<wnid>/images/*.JPEG, in files or in git's HEAD")
    return found


def contents(folder: Path, names: list[str]) -> Iterator[bytes]:
    """Yield the bytes of files, from the folder or from git's HEAD."""
    if (folder / "train").is_dir():
        yield from ((folder / name).read_bytes() for name in names)
        return
    command = ["git", "-C", str(folder), "cat-file", "--batch"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as git:
        assert git.stdin is not None
        assert git.stdout is not None
        for name in names:
            git.stdin.write(f"HEAD:{name}\n".encode())
            git.stdin.flush()
            size = int(git.stdout.readline().split()[-1])
            yield git.stdout.read(size)
            git.stdout.read(1)
        git.stdin.close()


def pictures(folder: Path, scale: Cut, cache: Path) -> dict[str, Rows]:
    """Return the splits: x (rows, side, side, 3) float32, normalised; made once."""
    from PIL import Image

    if not cache.is_file():
        found, generator = files_of(folder), np.random.default_rng(0)
        splits: dict[str, list[tuple[str, int]]] = {"train": [], "validation": [], "test": []}
        for label, wnid in enumerate(sorted(found)[:: scale.every][: scale.classes]):
            names = [found[wnid][k] for k in generator.permutation(len(found[wnid]))]
            rest = names[scale.held_out :]
            splits["train"] += [(name, label) for name in names[: scale.pictures]]
            splits["validation"] += [(name, label) for name in rest[0::2]]
            splits["test"] += [(name, label) for name in rest[1::2]]
        arrays: dict[str, np.ndarray] = {}
        for part, rows in splits.items():
            images = []
            for data in contents(folder, [name for name, _ in rows]):
                image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32)
                block = len(image) // scale.side
                shape = (scale.side, block, scale.side, block, 3)
                images.append(image.reshape(shape).mean((1, 3)).round().astype(np.uint8))
            arrays[part] = np.stack(images)
            arrays[f"{part}_y"] = np.array([label for _, label in rows])
        with replaced(cache) as new, new.open("wb") as file:
            np.savez(file, **arrays)
    with np.load(cache) as arrays:
        x = {
            part: torch.from_numpy(arrays[part]).float() for part in ("train", "validation", "test")
        }
        y = {part: torch.from_numpy(arrays[f"{part}_y"]) for part in x}
    mean, std = x["train"].mean((0, 1, 2)), x["train"].std((0, 1, 2))
    return {part: Rows((x[part] - mean) / std, y[part]) for part in x}


class Crops:
    """Crops of pictures padded by an eighth with zeros, and flips: ``variants`` of each picture."""

    def __init__(self, side: int) -> None:
        self.side, self.pad = side, side // 8
        self.places = 2 * self.pad + 1
        self.variants = 2 * self.places**2

    def padded(self, x: torch.Tensor) -> torch.Tensor:
        """Return pictures (rows, height, width, 3) with their margin."""
        return torch.nn.functional.pad(x, (0, 0, *(4 * (self.pad,))))

    def cut(self, x: torch.Tensor, index: torch.Tensor, variant: torch.Tensor) -> torch.Tensor:
        """Return (batch, 3, side, side), channels last in memory, of padded pictures."""
        place, flip = variant // 2, (variant % 2)[:, None].bool()
        line = torch.arange(self.side)
        top = (place // self.places)[:, None] + line
        left = (place % self.places)[:, None] + torch.where(flip, line.flip(0), line)
        where = (index[:, None, None], top[:, :, None], left[:, None, :])
        return x[tuple(part.to(x.device) for part in where)].permute(0, 3, 1, 2)

    def __call__(self, rows: Rows, index: torch.Tensor, generator: torch.Generator) -> Rows:
        """Return a batch of random variants; ``rows.teacher`` is (rows, variants, classes)."""
        variant = torch.randint(self.variants, index.shape, generator=generator)
        teacher = None if rows.teacher is None else rows.teacher[index, variant]
        return Rows(self.cut(rows.x, index, variant), rows.y[index], teacher)
