"""Train a teacher, then the same student by cross-entropy, KD, DKD and MCLD, with Keras.

    KERAS_BACKEND=jax python examples/keras_cifar100.py --dataset digits

takes no download and a minute or two on two cores; ``tensorflow`` and ``torch`` are the other
backends. Data, methods, options and what is written are those of the PyTorch example; MCLD is
``MCLDDistiller.fit``; the baselines, and MCLD with ``--bank-size all``, are a ``keras.Model`` of
their own. On CIFAR-100 the defaults are the published recipe:

    KERAS_BACKEND=jax python examples/keras_cifar100.py --dataset cifar100 --download --amp bf16

Ctrl-C saves the state. ``--resume`` goes on there, or after the last whole epoch of a run that was
killed, and ends on the same backend as if the run had not stopped. Where onnx and the backend's
exporter (onnxscript, tf2onnx, jax2onnx) are installed, the run ends with ``student.onnx``,
verified, its size and latency against the teacher's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes import comparison
from recipes.comparison import Trained
from recipes.data import Dataset
from recipes.files import DataError
from recipes.old_options import build_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; return the process's exit status."""
    parser = build_parser("Distil image classifiers by CE, KD, DKD and MCLD, with Keras.")
    add = parser.add_argument_group("Keras").add_argument
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="mixed precision")
    add(
        "--teacher-checkpoint",
        type=Path,
        metavar="FILE",
        help="load the teacher (a last.keras) instead of training it",
    )
    return comparison.run(parser, argv, KerasTrainer, list_models, hand_on)


def hand_on(options: argparse.Namespace, data: Dataset) -> None:
    """Export the student to ONNX."""
    from recipes.keras_onnx import export_student

    export_student(options, data)


class KerasTrainer:
    """Builds, trains and resumes the models; see `recipes.keras_training` for `fit`."""

    speaks = True

    def __init__(self, options: argparse.Namespace, data: Dataset) -> None:
        self.options, self.data = options, data

    def train(
        self, method: str, seed: int, lr: float, folder: Path | None, teacher: Trained | None
    ) -> Trained:
        """Train one model by one method."""
        import keras
        from recipes.keras_teacher import teach
        from recipes.keras_training import Teaching, Training
        from recipes.logs import say
        from recipes.training import Job

        options = self.options
        keras.utils.set_random_seed(seed)
        if method == "teacher":
            if options.teacher_checkpoint is not None:
                return self._load_teacher()
            name, loss, epochs = options.teacher, "ce", options.teacher_epochs
        else:
            name, loss, epochs = options.student, method, options.epochs
        job = Job(f"seed {seed} {method}", loss, name, seed, lr, epochs, folder)
        teaching = Teaching()
        if loss != "ce" and teacher is not None:
            contrasts = loss.startswith("mcld")
            teaching = teach(teacher.model, self.data, options, contrasts=contrasts)
        training = Training(job, self._build(name), teaching, self.data, options)
        if folder is not None and options.resume and training.resume():
            say(f"{job.name}: resumed after epoch {training.epoch}/{job.epochs}")
        return self._trained(training.model, training.run())

    def untrained_logits(self, seed: int) -> Any:
        """Return the test logits of the student before its training."""
        import keras

        keras.utils.set_random_seed(seed)
        return self._trained(self._build(self.options.student), []).test_logits()

    def _build(self, name: str) -> Any:
        import keras
        from recipes.keras_models import build

        policy = {"off": "float32", "bf16": "mixed_bfloat16", "fp16": "mixed_float16"}
        keras.config.set_dtype_policy(policy[self.options.amp])
        try:
            return build(name, self.data.image_shape, self.data.classes)
        except ValueError as error:
            raise DataError(str(error)) from error

    def _load_teacher(self) -> Trained:
        from recipes.keras_checkpoints import load_model

        path = self.options.teacher_checkpoint
        model = load_model(path)
        expected = (None, *self.data.image_shape), (None, self.data.classes)
        if (model.input_shape, model.output_shape) != expected:
            raise DataError(
                f"{path} maps {model.input_shape} to {model.output_shape}; {self.data.name} needs "
                f"{expected[0]} to {expected[1]}"
            )
        return self._trained(model, [])

    def _trained(self, model: Any, rows: list[comparison.Row]) -> Trained:
        from recipes.keras_models import count_parameters
        from recipes.keras_training import predict

        size = self.options.eval_batch_size
        return Trained(
            model,
            rows,
            count_parameters(model),
            lambda: predict(model, self.data.test, self.data, size),
        )


def list_models() -> str:
    """Return the models' names and sizes."""
    from recipes.keras_models import CIFAR_MODELS, build, count_parameters

    lines = ["mlp-WIDTH[-WIDTH…], conv-WIDTH, and, for 100 classes of colour images:"]
    for name in CIFAR_MODELS:
        size = count_parameters(build(name, (32, 32, 3), 100))
        lines.append(f"  {name:14} {size:>10,} parameters")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
