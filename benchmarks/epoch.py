"""How much of an epoch of examples/torch_cifar100.py is the script's own.

    python -m benchmarks.epoch

Times an epoch of the script, and one of a bare loop with the same student, teacher, loss and
loader, in turns: pictures of 32 pixels, a ResNet of width 8, one thread. Processor seconds, so that
what else runs on the machine plays no part. Prints the ratio of the least of each.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import common
import torch_cifar100
from data import Data, Pictures

from mcld_core import MCLDConfig
from mcld_core.torch import MCLDLoss

STUDENT = TEACHER = "resnet8w8"


def made_up(rows: int) -> Data:
    """Return pictures of noise, of ten classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
    every = Pictures(images, rng.integers(0, 10, rows), np.arange(rows), (32, 32, 3))
    few = every.take(np.arange(64))
    return Data([*"0123456789"], (32, 32, 3), (0.5,) * 3, (0.3,) * 3, every, None, few)


def script(options: argparse.Namespace, data: Data) -> float:
    """Return the seconds of the last epoch of the student, without the evaluation after it."""
    times = list[float]()

    class Clock(contextlib.nullcontext[None]):
        def __init__(self, *_: Any) -> None:
            super().__init__()
            times[:] = [time.process_time()]

        def update(self) -> None:
            times.append(time.process_time())

        def set_postfix(self, row: Any) -> None:
            pass

    common.progress, common.finish, common.say = Clock, lambda *rest: None, lambda text: None
    with tempfile.TemporaryDirectory() as folder:
        options.out = Path(folder, "run")
        torch_cifar100.train(options, data)
    steps = (len(times) - 1) // options.epochs
    return times[-1] - times[-1 - steps]


def bare(options: argparse.Namespace, data: Data) -> float:
    """Return the seconds of an epoch of a plain loop."""
    student, teacher = (torch_cifar100.build(x, "", data) for x in (STUDENT, TEACHER))
    loader = torch_cifar100.make_loader(data.train, options, trains=True)
    criterion = MCLDLoss(MCLDConfig(weight_ce=1.0), total_steps=len(loader))
    optimizer = torch.optim.SGD(student.parameters(), 0.05, 0.9, weight_decay=5e-4)
    started = time.process_time()
    for pixels, labels in loader:
        pixels = pixels / 255
        with torch.no_grad():
            answers = teacher(pixels)
        criterion(student.train()(pixels), answers, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        criterion.step()
    return time.process_time() - started


def main() -> None:
    """Time both in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=3200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    words = f"--student {STUDENT} --teacher {TEACHER} --epochs 1 --batch-size 64"
    words += " --lr 0.05 --weight-decay 5e-4 --warmup 0 --cpu"
    options, data = torch_cifar100.parser().parse_args(words.split()), made_up(given.rows)
    with tempfile.TemporaryDirectory() as folder:
        options.teacher_weights = Path(folder, "teacher.pt")
        teacher = torch_cifar100.build(TEACHER, "", data).model
        torch.save(teacher.state_dict(), options.teacher_weights)
        rounds = [(bare(options, data), script(options, data)) for _ in range(given.rounds)]
    least = [min(column) for column in zip(*rounds, strict=True)]
    print(f"bare loop {least[0]:.2f} s, script {least[1]:.2f} s: {least[0] / least[1]:.3f} ×")


if __name__ == "__main__":
    main()
