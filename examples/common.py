"""What all image scripts say, ask and write; no framework. Each is ``common.run``."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
import pkgutil
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import data as pictures
import numpy as np
from data import Data, InputError
from tqdm import tqdm

RECIPES: dict[str, dict[str, Any]] = {
    # the published one of CIFAR-100: SGD, crop and flip, ×0.1 after 150, 180 and 210 of 240 epochs
    "cifar": {"epochs": 240, "batch_size": 64, "lr": 0.05, "weight_decay": 5e-4, "warmup": 0,
              "student": "resnet8x4", "teacher": "resnet32x4"},
    # AdamW, half a cosine after a warm-up, RandAugment, mixup or cutmix, label smoothing 0.1
    "vit": {"epochs": 100, "batch_size": 128, "lr": 1e-3, "weight_decay": 0.05, "warmup": 5,
            "student": "vit-192", "teacher": "resnet32x4"},
}  # fmt: skip
SMALL = {"cifar": {"epochs": 15, "student": "resnet8w8", "teacher": "resnet8"},
         "vit": {"epochs": 30, "student": "vit-32", "teacher": "resnet8"}}  # fmt: skip
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAVED = "the state is saved; go on with the same command and --resume"
FREE = {"out", "resume", "overwrite", "data_dir", "workers", "cpu", "compile", "track",
        "tensorboard", "prompt", "words"}  # what may change when a run goes on  # fmt: skip
POSITIVE = {"epochs", "batch_size", "train_size", "accumulate", "vocabulary", "length", "draws",
            "width", "steps", "teacher_steps", "save_steps", "words"}  # fmt: skip


def parser(description: str) -> argparse.ArgumentParser:
    """Return the options of every image script."""
    made = argparse.ArgumentParser(description=description)
    add = made.add_argument
    add("--out", type=Path, help="the run's folder; default runs/DATASET")
    add("--resume", action="store_true", help="go on from the state in --out")
    add("--overwrite", action="store_true", help="begin anew in an --out that has a run")
    add("--recipe", choices=RECIPES, default="cifar")
    pictures.add_options(made)
    add = made.add_argument_group("models").add_argument
    add("--student", help="resnet8x4, resnet20, vit-192 …, or module:function; by recipe")
    add("--teacher", help="the same (trained first without weights), or a collection's")
    add("--teacher-weights", type=Path, metavar="FILE")
    add("--teacher-mean", type=float, nargs="+", help="of its pixels from 0 to 1, a channel each")
    add("--teacher-std", type=float, nargs="+")
    add("--teacher-size", type=int, help="side that its pictures are scaled to")
    add = made.add_argument_group("training; defaults by recipe").add_argument
    add("--method", choices=("mcld", "ce"), default="mcld", help="ce: no teacher")
    add("--bank-size", type=int, default=0, help="teacher rows of earlier batches as keys")
    add("--seed", type=int, default=0)
    add("--epochs", type=int)
    add("--teacher-epochs", type=int, help="of a teacher that is trained first; as --epochs")
    add("--batch-size", type=int, help="over all devices")
    add("--lr", type=float)
    add("--weight-decay", type=float)
    add("--warmup", type=int, metavar="EPOCHS", help="over which the rate grows: up to half")
    add("--workers", type=int, default=0, help="processes that decode and augment pictures")
    return made


def run(parser: Any, train: Any, argv: Sequence[str] | None = None, load: Any = None) -> int:
    """Call ``train(options, data)``; return 0, 2 after bad input (one line), 130 when stopped."""
    words = parser()
    chosen = words.parse_args(argv)
    small = SMALL[chosen.recipe] if chosen.dataset == "digits" else {}
    words.set_defaults(**RECIPES[chosen.recipe] | small)
    options = words.parse_args(argv)
    options.out = options.out or Path("runs", options.dataset.replace("/", "-"))
    options.teacher_epochs = options.teacher_epochs or options.epochs
    try:
        begin(options)
        data = (load or pictures.load)(options)
        sizes = "{} training, {} validation, {} test pictures of {}×{}×{}, {} classes"
        parts = data.train, data.validation, data.test
        count = (0 if x is None else f"{len(x):,}" if len(x) else "?" for x in parts)
        say(f"{options.dataset}: " + sizes.format(*count, *data.shape, len(data.classes)))
        train(options, data)
    except KeyboardInterrupt as stopped:
        say(str(stopped) or "stopped")
        return 130
    except (InputError, OSError) as error:
        print(f"error: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        return 2
    return 0


def first() -> bool:
    """Return whether this is the first, or the only, process that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Print a line once."""
    if first():
        print(text, flush=True)


def progress(options: argparse.Namespace, total: int, done: int) -> Any:
    """Return a bar over the steps of the whole training, which says when that will end."""
    pause = 0.5 if sys.stderr.isatty() else 30
    return tqdm(None, options.student, total, initial=done, disable=not first(), mininterval=pause)


def begin(options: argparse.Namespace) -> None:
    """Check the numbers and the run's folder; make it, without what a killed run half wrote."""
    for name, value in vars(options).items():
        least = int(name in POSITIVE)
        if isinstance(value, (int, float)) and not value >= least:
            raise InputError(f"--{name.replace('_', '-')} needs at least {least}; got {value}")
    if not first():
        return
    out, note = options.out, options.out / "options.json"
    now = json.loads(json.dumps(vars(options), default=str))
    before = json.loads(note.read_text()) if note.is_file() else {}
    made = [path for path in out.glob("*") if path not in (note, note.with_suffix(".tmp"))]
    if (options.resume or made) and "overwrite" not in before:  # not a note of ours
        raise InputError(f"there is no run in {out}: choose an empty --out, without --resume")
    if made and not (options.resume or options.overwrite):
        raise InputError(f"{out} has a run: pass --resume, --overwrite or another --out")
    for name in sorted(now.keys() - FREE) if made and options.resume else ():
        if now[name] != (old := before.get(name)):
            raise InputError(f"--resume: {name} was {old} when the run began, now {now[name]}")
    for path in list(out.rglob("*.tmp")) if options.resume else made:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    with drafted(note) as path:
        path.write_text(json.dumps(now, indent=2))


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to, which becomes ``path`` once that is done."""
    draft = path.with_suffix(".tmp")
    draft.parent.mkdir(parents=True, exist_ok=True)
    yield draft
    draft.replace(path)


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list, so that a step ends before the state is saved."""
    heard, numbers = list[int](), (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda got, _: heard.append(got)) for number in numbers]
    try:
        yield heard
    finally:
        list(map(signal.signal, numbers, before))


def rate(options: argparse.Namespace, progress: float) -> float:
    """Return the factor of the learning rate after the part ``progress`` of the training."""
    warm = min(options.warmup / options.epochs, 0.5)
    if progress < warm:
        return progress / warm + 1e-3
    if options.recipe == "vit":
        return 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))
    return float(0.1 ** sum(progress >= end for end in (150 / 240, 180 / 240, 210 / 240)))


def crop_and_flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (height, width, channels) moved by up to an eighth (4 of 32), perhaps mirrored."""
    (height, width, _), edge = image.shape, len(image) // 8
    top, left = rng.integers(0, 2 * edge + 1, 2)
    image = np.pad(image, ((edge, edge), (edge, edge), (0, 0)))[top:, left:][:height, :width]
    mirrored = rng.random() < 0.5 and height > 8  # digits are not their mirror images
    return np.ascontiguousarray(image[:, ::-1] if mirrored else image)


def call(name: str, option: str, shape: tuple[int, ...], classes: int, **known: Any) -> Any:
    """Call ``module:function`` with those of the known parameters that it has."""
    known |= {"image_shape": shape, "classes": classes, "num_classes": classes}
    sys.path[:0] = [] if os.getcwd() in sys.path else [os.getcwd()]
    try:
        made = pkgutil.resolve_name(name)
        has = inspect.signature(made.__init__ if isinstance(made, type) else made)
        return made(**{key: value for key, value in known.items() if key in has.parameters})
    except Exception as error:
        looked = f"looked in {os.getcwd()} and on the Python path for module:function"
        raise InputError(f"{option} {name}: {type(error).__name__}: {error}; {looked}") from error


def of_teacher(options: argparse.Namespace) -> argparse.Namespace:
    """Return the options that train the teacher first, in a folder of the run."""
    changes = {"student": options.teacher, "epochs": options.teacher_epochs, "method": "ce"}
    return argparse.Namespace(**vars(options) | changes | {"out": options.out / "teacher"})


def check_teacher(options: argparse.Namespace, logits: Callable[..., np.ndarray],
                  labels: np.ndarray, known: Any, data: Data) -> Any:  # fmt: skip
    """Return a teacher's mean and deviation by channel: those of the options, or ``known`` ones.

    Raise where its ``logits(mean, std)`` of 256 pictures have other classes. Warn where another
    normalisation is better.
    """
    given, wide = (options.teacher_mean, options.teacher_std), data.shape[2]
    rows = [np.reshape(x or own, -1) for x, own in zip(given, known, strict=True)]
    if {len(row) for row in rows} - {1, wide}:
        raise InputError(f"--teacher-mean and --teacher-std need 1 or {wide} numbers")
    mean, std = (np.broadcast_to(row, wide).tolist() for row in rows)
    found = logits(mean, std)
    if (width := found.shape[1]) != len(data.classes):
        hint = "choose by mcld_core.select_classes in a module:function of yours"
        raise InputError(f"the teacher has {width} classes, the data {len(data.classes)}: {hint}")
    own = np.mean(found.argmax(1) == labels)
    for name, other in (("the data set's", (data.mean, data.std)), ("ImageNet's", IMAGENET)):
        fits = len(other[0]) == wide
        if fits and (better := np.mean(logits(*other).argmax(1) == labels)) > own + 0.02:
            words = [" ".join(f"{x:.4g}" for x in values) for values in other]
            say(f"warning: of 256 pictures the teacher has {own:.1%} right with its normalisation, "
                f"{better:.1%} with {name}: --teacher-mean {words[0]} --teacher-std {words[1]}"
            )  # fmt: skip
    return mean, std


def finish(options: argparse.Namespace, data: Data, student: Any, example: np.ndarray,
           accuracies: dict[str, float], layout: str) -> None:  # fmt: skip
    """Write ``student.onnx``, verified, and ``results.json``; print the line of accuracies.

    ``student`` takes pixels of 0 to 1 such as ``example``, (batch, …) float32, NCHW or NHWC.
    """
    from mcld_core import export_onnx

    plain = {"mean": [0.0] * data.shape[2], "std": [1.0] * data.shape[2]}
    notes = {"classes": list(data.classes), "layout": layout, "normalization": plain} | accuracies
    with drafted(options.out / "results.json") as draft:
        draft.write_text(json.dumps(accuracies))
    try:
        path = options.out / "student.onnx"
        say(str(export_onnx(student, path, example_input=example, metadata=notes)))
    except (ImportError, RuntimeError, ValueError) as error:
        say(f"no ONNX file: {error}")
    listed = ", ".join(f"{name} {value:.2%}" for name, value in accuracies.items())
    say(f"{options.student} by {options.method}: test accuracy of the {listed}")
