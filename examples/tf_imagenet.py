"""Distil ImageNet classifiers by CE, KD, DKD and MCLD, with TensorFlow: tf.data to checkpoints.

    python examples/tf_imagenet.py --dataset digits

takes no download and about a minute. ``--dataset openclipart`` reads 35 classes of colour pictures
(``apt-get install openclipart-png``). ImageNet is read from ``--data-dir``: class folders,
``train/n01440764/*.JPEG`` and ``val/n01440764/*.JPEG``, or TFRecord shards,
``train-00000-of-01024`` and ``validation-00000-of-00128``, with the usual feature keys. The
defaults are the 100-epoch recipe (rate 0.2 at batch 512, ×0.1 at 30, 60 and 90 % of the epochs,
which is also what ``--schedule step`` means here); pairs of the literature:

    python examples/tf_imagenet.py --dataset imagenet --data-dir /data/imagenet --amp bf16
    python examples/tf_imagenet.py --dataset imagenet --teacher resnet50 --student mobilenet_v1

All GPUs are used, each contrasting with the teacher's rows of all. A picture that does not decode
is skipped and counted. ``--resume`` goes on where a run stopped and ends as if it had not. Where
onnx and tf2onnx are installed, the run ends with ``student.onnx``, verified, its size and latency
against the teacher's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes import comparison
from recipes.comparison import Trained
from recipes.defaults import DATASET_DEFAULTS, Defaults
from recipes.files import DataError
from recipes.logs import Diverged, Stopped, say
from recipes.old_methods import METHODS
from recipes.old_options import build_parser, parse_options

PICTURES = {
    "imagenet": Defaults(
        {
            "teacher": "resnet34",
            "student": "resnet18",
            "epochs": 100,
            "teacher_epochs": 100,
            "batch_size": 512,
            "eval_batch_size": 250,
            "teacher_lr": 0.2,
            "weight_decay": 1e-4,
            "flip": True,
            "random_resized_crop": True,
            "lr_grid": [0.05, 0.1, 0.2, 0.4],
        },
        dict.fromkeys(METHODS, 0.2),
    ),
    "openclipart": Defaults(
        {
            "teacher": "conv-32",
            "student": "conv-8",
            "epochs": 30,
            "teacher_epochs": 30,
            "batch_size": 64,
            "eval_batch_size": 250,
            "teacher_lr": 0.05,
            "schedule": "cosine",
            "image_size": 64,
            "flip": True,
            "random_resized_crop": True,
            "validation_size": 200,
            "lr_grid": [0.01, 0.03, 0.1, 0.3],
        },
        dict.fromkeys(METHODS, 0.05),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; return 0, 2 after an error said in one line, 130 after Ctrl-C."""
    DATASET_DEFAULTS.update(PICTURES)
    parser = build_parser("Distil ImageNet classifiers by CE, KD, DKD and MCLD, with TensorFlow.")
    parser.conflict_handler = "resolve"
    parser.epilog = (
        "--teacher-cache and --bank-size all need all training images as an array: digits."
    )
    add = parser.add_argument_group("TensorFlow").add_argument
    add("--dataset", choices=("digits", "openclipart", "imagenet"), default="digits")
    add("--download", action="store_true",
        help="refused: digits are embedded, openclipart is a Debian package, and ImageNet is given "
        "on request, at image-net.org")  # fmt: skip
    add("--validation-size", type=int, default=0,
        help="training pictures set apart for choices (learning rate, best epoch): of TFRecords, "
        "the first of every shard; of ImageNet none unless told, and then there is no best epoch: "
        "--validation-size 10000 holds 10,000 out")  # fmt: skip
    add("--image-size", type=int, default=224,
        help="height and width that the models take; digits stay as they are")  # fmt: skip
    add("--random-resized-crop", action=argparse.BooleanOptionalAction, default=False,
        help="train on random parts of the pictures, in place of --crop")  # fmt: skip
    add("--first-label", type=int, default=1, help="the least label in the TFRecords")
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="mixed precision")
    add("--replicas", type=int, default=0, help="0: all GPUs, or one CPU; n: so many CPU devices")
    add("--teacher-checkpoint", type=Path, metavar="FILE",
        help="load the teacher instead of training it")  # fmt: skip
    options = parse_options(parser, argv)
    if options.list_models:
        print(list_models())
        return 0
    if options.dataset != "digits":
        for given, name in ((options.bank_size == "all", "--bank-size all"),
                            (options.teacher_cache is not None, "--teacher-cache")):  # fmt: skip
            if given:
                parser.error(f"{name} needs all training images as an array: --dataset digits")
    if options.teacher_cache is not None and options.random_resized_crop:
        parser.error("--teacher-cache needs images that stay the same: --no-random-resized-crop")
    if options.download and options.dataset != "digits":
        parser.error("--download: get openclipart by apt-get install openclipart-png, ImageNet at "
                     "image-net.org, and pass --data-dir")  # fmt: skip
    if options.crop and options.random_resized_crop:
        parser.error("--crop shifts whole pictures: pass --no-random-resized-crop as well")
    if options.batch_size % max(options.replicas, 1):
        parser.error(f"--batch-size {options.batch_size} does not divide by --replicas")
    from recipes.tf_onnx import export_student

    try:
        data = load(options)
        trainer = TfTrainer(options, data)
        if options.tune_lr:
            options.learning_rates |= comparison.tune(trainer, options)
        comparison.compare(trainer, options, data)
        export_student(options, data)
    except (DataError, Diverged, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"{stopped}\nGo on with the same command and --resume", file=sys.stderr)
        return 130
    return 0


def load(options: argparse.Namespace) -> Any:
    """Find the pictures; leave out those of validation and test that do not decode."""
    from recipes.tf_input import readable
    from recipes.tf_pictures import Records, load_pictures

    data = load_pictures(
        options.dataset,
        options.data_dir,
        image_size=options.image_size,
        train_size=options.train_size,
        validation_size=options.validation_size,
        first_label=options.first_label,
    )
    if len(data.train) < options.batch_size:
        raise DataError(f"{len(data.train)} training pictures make no batch; set --batch-size")
    for part in ("validation", "test"):
        split, skipped = readable(getattr(data, part), data)
        data = replace(data, **{part: split})
        if skipped:
            say(f"skipped {skipped} {part} pictures that do not decode")
    if isinstance(data.validation, Records) and data.validation.labels is not None:
        held_out = len(set(data.validation.labels.tolist()))
        say(f"validation: the first records of the shards, of {held_out} classes")
    say(
        f"{data.name}: {len(data.train):,} training, {len(data.validation):,} validation, "
        f"{len(data.test):,} test pictures, {data.classes} classes"
    )
    return data


class TfTrainer:
    """Builds, trains and resumes the models; see `recipes.array_loop` for the loop."""

    speaks = True

    def __init__(self, options: argparse.Namespace, data: Any) -> None:
        import keras
        import tensorflow as tf

        self.options, self.data = options, data
        policies = {"off": "float32", "bf16": "mixed_bfloat16", "fp16": "mixed_float16"}
        keras.mixed_precision.set_global_policy(policies[options.amp])
        self.strategy: Any = tf.distribute.get_strategy()
        if options.replicas:
            cpu = tf.config.list_physical_devices("CPU")[0]
            devices = [tf.config.LogicalDeviceConfiguration() for _ in range(options.replicas)]
            tf.config.set_logical_device_configuration(cpu, devices)
            names = [f"/cpu:{number}" for number in range(options.replicas)]
            self.strategy = tf.distribute.MirroredStrategy(names)
        elif len(tf.config.list_physical_devices("GPU")) > 1:
            self.strategy = tf.distribute.MirroredStrategy()
        say(f"{self.strategy.num_replicas_in_sync} replicas")

    def train(
        self, method: str, seed: int, lr: float, folder: Path | None, teacher: Trained | None
    ) -> Trained:
        """Train one model by one method."""
        from recipes.array_loop import Loop
        from recipes.handover import describe
        from recipes.tf_onnx import centre_share
        from recipes.tf_teacher import Teaching, teach
        from recipes.tf_training import TfLearner
        from recipes.training import Job

        options = self.options
        if method == "teacher":
            if options.teacher_checkpoint is not None:
                return self._load_teacher()
            name, loss, epochs = options.teacher, "ce", options.teacher_epochs
        else:
            name, loss, epochs = options.student, method, options.epochs
        job = Job(f"seed {seed} {method}", loss, name, seed, lr, epochs, folder)
        model = self._build(name, seed)
        teaches = None if loss == "ce" or teacher is None else teacher.model
        teaching = Teaching()
        if teaches is not None:
            teaching = teach(teaches, self.data, options, contrasts=loss.startswith("mcld"))
        learner = TfLearner(job, model, teaches, teaching, self.data, options, self.strategy)
        notes = describe(self.data, loss, options.teacher) | {
            "center_crop": centre_share(self.data)
        }
        loop = Loop(job, learner, notes, options.tensorboard)
        if folder is not None and options.resume:
            loop.resume()
        return self._trained(model, loop.run())

    def untrained_logits(self, seed: int) -> Any:
        """Return the test logits of the student before its training."""
        return self._trained(self._build(self.options.student, seed), []).test_logits()

    def _build(self, name: str, seed: int) -> Any:
        from recipes.tf_models import build

        try:
            with self.strategy.scope():
                return build(name, self.data.image_shape, self.data.classes, seed)
        except ValueError as error:
            raise DataError(str(error)) from error

    def _load_teacher(self) -> Trained:
        from recipes import npz
        from recipes.tf_training import assign, named

        model = self._build(self.options.teacher, 0)
        like = named("weight", model.weights)
        arrays, _ = npz.load(self.options.teacher_checkpoint, like)
        assign("weight", model.weights, arrays)
        return self._trained(model, [])

    def _trained(self, model: Any, rows: list[comparison.Row]) -> Trained:
        from recipes.tf_models import count_parameters
        from recipes.tf_training import logits_function, predict

        batch_size = self.options.eval_batch_size
        return Trained(
            model,
            rows,
            count_parameters(model),
            lambda: predict(logits_function(model), self.data.test, self.data, batch_size)[0],
        )


def list_models() -> str:
    """Return the models' names and sizes."""
    from recipes.tf_models import MODELS, build, count_parameters

    lines = ["mlp-WIDTH[-WIDTH…], conv-WIDTH, and, for 1,000 classes of 224 pixels:"]
    for name in MODELS:
        size = count_parameters(build(name, (224, 224, 3), 1000))
        lines.append(f"  {name:14} {size:>10,} parameters")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
