"""Train a teacher, then the same student by cross-entropy, KD, DKD and MCLD, and compare them.

    python examples/torch_cifar100.py --dataset digits

takes no download and under two minutes on two cores. Other data: ``fashion_mnist``, ``cifar10``,
``cifar100`` read their official files from ``--data-dir`` (``--download`` fetches them). On
CIFAR-100 the defaults are the published recipe, on 45,000 images, the other 5,000 for validation;
add ``--validation-size 0`` for the published 50,000 training images:

    python examples/torch_cifar100.py --dataset cifar100 --download --seeds 0 1 2
    torchrun --nproc-per-node 4 examples/torch_cifar100.py --dataset cifar100 --amp bf16

Everything goes to ``--out``: the resolved options, a CSV and checkpoints a training, the table,
the curves, a report and, where onnx is installed, the student as a verified ONNX file.
``--resume`` goes on where a run stopped and ends as if it had not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes import comparison
from recipes.comparison import Trained
from recipes.data import TRANSFER_DATASETS, Dataset
from recipes.files import DataError
from recipes.old_options import build_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; return the process's exit status."""
    parser = build_parser("Distil image classifiers by CE, KD, DKD and MCLD, with PyTorch.")
    add_torch_options(parser)
    return comparison.run(parser, argv, TorchTrainer, list_models, hand_on)


def add_torch_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only this framework has."""
    add = parser.add_argument_group("PyTorch").add_argument
    add("--device", default="auto", help="cpu, cuda, mps …")
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="mixed precision")
    add(
        "--teacher-checkpoint",
        type=Path,
        metavar="FILE",
        help="load the teacher instead of training it",
    )
    add(
        "--transfer",
        choices=TRANSFER_DATASETS,
        help="then train a linear probe on the frozen students' features of this data set; stl10 "
        "and tinyimagenet (the folder tiny-imagenet-200) are read from --data-dir, too",
    )
    add("--transfer-size", type=int, help="training images of the probe; default all")
    add("--transfer-validation-size", type=int, default=250)


def hand_on(options: argparse.Namespace, data: Dataset) -> None:
    """Export the student to ONNX; probe it on another data set, where ``--transfer`` names one."""
    from recipes.torch_onnx import export_student
    from recipes.torch_transfer import transfer

    export_student(options, data)
    transfer(options, data)


class TorchTrainer:
    """Builds, trains and resumes the models; see `recipes.torch_training` for the loop."""

    def __init__(self, options: argparse.Namespace, data: Dataset) -> None:
        from recipes.torch_ranks import find_ranks

        self.options, self.data = options, data
        self.ranks = find_ranks(options.device)
        self.speaks = self.ranks.first

    def train(
        self, method: str, seed: int, lr: float, folder: Path | None, teacher: Trained | None
    ) -> Trained:
        """Train one model by one method."""
        from recipes.torch_training import Training
        from recipes.training import Job

        options = self.options
        if method == "teacher":
            if options.teacher_checkpoint is not None:
                return self._load_teacher()
            name, loss, epochs = options.teacher, "ce", options.teacher_epochs
        else:
            name, loss, epochs = options.student, method, options.epochs
        job = Job(f"seed {seed} {method}", loss, name, seed, lr, epochs, folder)
        teaches = None if loss == "ce" or teacher is None else teacher.model
        training = Training(job, self._build(name, seed), teaches, self.data, options, self.ranks)
        if folder is not None and options.resume and training.resume():
            self.ranks.say(f"{job.name}: resumed after epoch {training.epoch}/{job.epochs}")
        return self._trained(training.model, training.run())

    def untrained_logits(self, seed: int) -> Any:
        """Return the test logits of the student before its training."""
        return self._trained(self._build(self.options.student, seed), []).test_logits()

    def _build(self, name: str, seed: int) -> Any:
        import torch
        from recipes.torch_models import build

        torch.manual_seed(seed)
        try:
            return build(name, self.data.image_shape, self.data.classes)
        except ValueError as error:
            raise DataError(str(error)) from error

    def _load_teacher(self) -> Trained:
        from recipes.torch_checkpoints import load_weights

        model = self._build(self.options.teacher, 0)
        load_weights(model, self.options.teacher_checkpoint)
        return self._trained(model, [])

    def _trained(self, model: Any, rows: list[comparison.Row]) -> Trained:
        from recipes.torch_inference import test_logits
        from recipes.torch_models import count_parameters

        return Trained(
            model,
            rows,
            count_parameters(model),
            lambda: test_logits(model, self.data, self.options),
        )


def list_models() -> str:
    """Return the models' names and sizes."""
    from recipes.cifar_networks import CIFAR_MODELS
    from recipes.torch_models import build, count_parameters

    lines = ["mlp-WIDTH[-WIDTH…], conv-WIDTH, and, for 100 classes of colour images:"]
    for name in CIFAR_MODELS:
        size = count_parameters(build(name, (32, 32, 3), 100))
        lines.append(f"  {name:14} {size:>10,} parameters")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
