"""Train a teacher, then the same student by cross-entropy, KD, DKD and MCLD, with JAX and Flax.

    pip install '.[jax,examples,onnx]' flax optax jax2onnx
    python examples/jax_cifar100.py --dataset digits

takes no download and about a minute on two cores. Data, methods, options and what is written are
those of the PyTorch example; the models are Flax NNX, the optimiser is optax, the whole step
(teacher, student, loss, update, bank) is one compiled program, and each batch is split over the
local devices. On CIFAR-100 the defaults are the published recipe, on 45,000 images, the other 5,000
for validation; add ``--validation-size 0`` for the published 50,000 training images:

    python examples/jax_cifar100.py --dataset cifar100 --download --seeds 0 1 2 --amp bf16

``--resume`` goes on where a run stopped and ends as if it had not. Where onnx and jax2onnx are
installed, the run ends with ``student.onnx``, verified, its size and latency against the teacher's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recipes import comparison
from recipes.comparison import Trained
from recipes.data import Dataset
from recipes.files import DataError
from recipes.old_options import build_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; return the process's exit status."""
    parser = build_parser("Distil image classifiers by CE, KD, DKD and MCLD, with JAX.")
    add = parser.add_argument_group("JAX").add_argument
    add("--amp", choices=("off", "bf16"), default="off", help="what the layers compute in")
    add(
        "--teacher-checkpoint",
        type=Path,
        metavar="FILE",
        help="load the teacher instead of training it",
    )
    return comparison.run(parser, argv, JaxTrainer, list_models, hand_on)


def hand_on(options: argparse.Namespace, data: Dataset) -> None:
    """Export the student to ONNX."""
    from recipes.jax_onnx import export_student

    export_student(options, data)


class JaxTrainer:
    """Builds, trains and resumes the models; see `recipes.array_loop` for the loop."""

    speaks = True

    def __init__(self, options: argparse.Namespace, data: Dataset) -> None:
        from recipes.jax_network import Devices, Predictor

        self.options, self.data = options, data
        self.devices = Devices()
        self.predict = Predictor(data, self.devices, options.eval_batch_size)
        self.steps: dict[Any, Callable[..., Any]] = {}  # compiled once for all seeds

    def train(
        self, method: str, seed: int, lr: float, folder: Path | None, teacher: Trained | None
    ) -> Trained:
        """Train one model by one method."""
        from recipes.array_loop import Loop
        from recipes.handover import describe
        from recipes.jax_step import Teaching, make_step
        from recipes.jax_teacher import teach
        from recipes.jax_training import JaxLearner
        from recipes.training import Job

        options = self.options
        if method == "teacher":
            if options.teacher_checkpoint is not None:
                return self._load_teacher()
            name, loss, epochs = options.teacher, "ce", options.teacher_epochs
        else:
            name, loss, epochs = options.student, method, options.epochs
        job = Job(f"seed {seed} {method}", loss, name, seed, lr, epochs, folder)
        network, variables = self._build(name, seed)
        teaching, teacher_network = Teaching(), None
        if loss != "ce" and teacher is not None:
            teacher_network, teacher_variables = teacher.model
            teaching = teach(
                teacher_network,
                teacher_variables,
                self.data,
                options,
                self.devices,
                self.predict,
                contrasts=loss.startswith("mcld"),
            )
        step = self.steps.setdefault(
            (loss, network, teacher_network),
            make_step(loss, network, teacher_network, self.data, options),
        )
        learner = JaxLearner(
            job,
            network,
            variables,
            step,
            teaching,
            self.data,
            options,
            self.devices,
            self.predict,
        )
        notes = describe(self.data, loss, options.teacher)
        loop = Loop(job, learner, notes, options.tensorboard)
        if folder is not None and options.resume:
            loop.resume()
        rows = loop.run()
        return self._trained(network, learner.state.variables, rows)

    def untrained_logits(self, seed: int) -> Any:
        """Return the test logits of the student before its training."""
        return self._trained(*self._build(self.options.student, seed), []).test_logits()

    def _build(self, name: str, seed: int) -> Any:
        import jax.numpy as jnp
        from recipes.jax_models import build
        from recipes.jax_network import take_apart

        dtype = jnp.bfloat16 if self.options.amp == "bf16" else jnp.float32
        try:
            model = build(name, self.data.image_shape, self.data.classes, seed, dtype)
        except ValueError as error:
            raise DataError(str(error)) from error
        return take_apart(model)

    def _load_teacher(self) -> Trained:
        from recipes import npz
        from recipes.jax_training import named, unnamed

        network, variables = self._build(self.options.teacher, 0)
        like = self.devices.copy(variables)
        arrays, _ = npz.load(self.options.teacher_checkpoint, named(like))
        return self._trained(network, unnamed(arrays, like), [])

    def _trained(self, network: Any, variables: Any, rows: list[comparison.Row]) -> Trained:
        import jax

        return Trained(
            (network, variables),
            rows,
            sum(leaf.size for leaf in jax.tree.leaves(variables.params)),
            lambda: self.predict(network, variables, self.data.test),
        )


def list_models() -> str:
    """Return the models' names and sizes."""
    from flax import nnx
    from recipes.jax_models import CIFAR_MODELS, build, count_parameters

    lines = ["mlp-WIDTH[-WIDTH…], conv-WIDTH, and, for 100 classes of colour images:"]
    for name in CIFAR_MODELS:
        shapes = nnx.eval_shape(lambda name=name: build(name, (32, 32, 3), 100))
        lines.append(f"  {name:14} {count_parameters(shapes):>10,} parameters")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
