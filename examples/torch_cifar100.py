r"""Distil one image classifier into a smaller one with PyTorch: from the data to an ONNX file.

    python examples/torch_cifar100.py --dataset digits

takes no download and less than a minute. Your own data and models, several GPUs:

    python examples/torch_cifar100.py --dataset cifar100 --download --method mcld
    python examples/torch_cifar100.py --dataset folder --data-dir DIR --student mymodels:small \
        --teacher mymodels:large --teacher-weights large.pt
    torchrun --nproc-per-node 4 examples/torch_cifar100.py --dataset cifar100 --amp bf16

On CIFAR-100 the defaults are the published recipe, with 5,000 images for validation. ``--out`` gets
the options, a CSV, checkpoints and the student as a verified ONNX file; ``--resume`` goes on where
a run stopped and ends as if it had not. For many methods and seeds: benchmarks/comparison.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from recipes import is_first, say
from recipes.data import Dataset, accuracies, steps_per_epoch, training_batches
from recipes.options import build_parser, label_counts, mcld_config
from recipes.run import Row, Run
from recipes.torch import Pixels, find_device, predict, save_torch
from torch import Tensor, nn
from torch.nn import functional

from mcld_core import TeacherBank, adjust_logits, mcld_loss
from mcld_core.torch import MCLDLoss


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options: those of every framework, and PyTorch's own."""
    from recipes.configs import parse_options

    parser = build_parser("Distil an image classifier with PyTorch.")
    add = parser.add_argument_group("PyTorch").add_argument
    add("--device", default="auto", help="cpu, cuda, mps …")
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="mixed precision")
    add("--channels-last", action="store_true", help="the memory order that GPUs like best")
    add("--compile", action="store_true", help="compile the student by torch.compile")
    add("--sync-bn", action="store_true", help="batch norm over all processes, not each its own")
    return parse_options(parser, argv)


def train(options: argparse.Namespace, data: Dataset | None = None) -> Run:
    """Train one student by one method; without ``data``, on those that the options name.

    Raises DataError, Diverged or Stopped; `recipes.exits.exit_status` says them in a line.
    """
    device, ranks = find_device(options.device)
    if data is None:
        from recipes.data.load import load_data

        data = load_data(options)
        say(str(data))
    student = make_model(options.student, data, options.seed).to(device)
    size = sum(parameter.numel() for parameter in student.parameters())
    steps = steps_per_epoch(data.train, options.batch_size)
    run = Run(options, data, student, size, steps, "checkpoint.pt", ranks)
    trains = run.begins()
    teacher = None if options.method == "ce" else load_teacher(run, device)
    training = Training(run, teacher, device)
    if trains:
        training.loop()
    if run.exports:
        from recipes.export import hand_over

        images = training.pixels(data.test.images[:64]).contiguous().cpu().numpy()
        notes = run.describe(layout="NCHW")
        hand_over(options.out, student, teacher, images, notes, "onnxscript")
    run.test_logits = partial(training.predict, student, data.test)
    return run


def make_model(name: str, data: Dataset, seed: int) -> nn.Module:
    """Build a model by its name or ``module:function``, its weights drawn from ``seed``."""
    from recipes.models.torch import build

    torch.manual_seed(seed)
    return build(name, data.image_shape, data.classes)


def load_teacher(run: Run, device: torch.device) -> nn.Module:
    """Train the teacher, a network of the recipe's; or load what ``--teacher`` names.

    It takes the student's images and answers in the student's classes.
    """
    from recipes import teachers

    options, data = run.options, run.data
    train_one = partial(train, data=data)
    if not teachers.trains_teacher(options):
        from recipes.teachers.torch import load_fitted

        teacher: nn.Module = load_fitted(options, data, train_one)
    elif options.dry_run:
        teacher = make_model(options.teacher[0], data, options.seed)
    else:
        teacher = train_one(teachers.teacher_options(options)).model
    teacher = teacher.to(device).eval().requires_grad_(False)
    pixels, size = Pixels(data, device), options.eval_batch_size
    teachers.measure(run, partial(predict, teacher, pixels=pixels, batch_size=size))
    return teacher


# ---- the training ----


class Training:
    """The state of one training and the loop over it.

    Batches and augmentation depend on (seed, epoch, step) alone and the checkpoint holds the rest:
    a run that was killed and resumed ends with the parameters of one that was not, to the bit.
    """

    def __init__(self, run: Run, teacher: nn.Module | None, device: torch.device) -> None:
        options, data = run.options, run.data
        self.options, self.run, self.ranks, self.model = options, run, run.processes, run.model
        self.data, self.teacher, self.device = data, teacher, device
        torch.manual_seed(options.seed)  # whatever the teacher drew
        self.pixels = Pixels(data, device, channels_last=options.channels_last)
        size = options.eval_batch_size
        self.predict = partial(predict, pixels=self.pixels, batch_size=size)
        self.moving = options.crop or options.flip  # the images are others in each epoch
        self.table = self.teacher_table()
        memory = torch.channels_last if options.channels_last else torch.preserve_format
        self.model.to(memory_format=memory).train()
        if options.sync_bn and not self.ranks.alone:
            from recipes.processes.torch import share_norms

            share_norms(self.model)
        parallel = self.model if self.ranks.alone else self.ranks.wrap(self.model)
        self.forward = torch.compile(parallel) if options.compile else parallel
        kind = partial(torch.optim.SGD, momentum=options.momentum)
        self.optimizer = (torch.optim.AdamW if options.optimizer == "adamw" else kind)(
            self.model.parameters(), lr=options.lr, weight_decay=options.weight_decay
        )
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(options.amp)
        self.autocast = partial(torch.autocast, device.type, half, half is not None)
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16")

        prior = label_counts(options, data.train.labels, data.classes)
        self.prior = None if prior is None else torch.from_numpy(prior).to(device)
        self.config, self.mcld, self.baseline = mcld_config(options), None, None
        if self.config is None and teacher is not None:
            from recipes.methods import baseline_loss

            self.baseline = baseline_loss(options, functional.cross_entropy, self.prior)
        elif self.config is not None:
            bank = options.bank_size
            if bank == "all":  # of a dry run there are no answers
                labels = torch.from_numpy(data.train.labels).to(device)
                bank = 0 if self.table is None else TeacherBank.from_logits(self.table, labels)
            self.mcld = MCLDLoss(
                self.config, total_steps=max(1, options.epochs * run.steps), bank_size=bank,
                classes=data.classes, class_prior=prior, balanced=options.balanced,
            ).to(device)  # fmt: skip

    def teacher_table(self) -> Tensor | None:
        """Return the teacher's logits of all training images, where steps or the bank use them."""
        options, data, teacher = self.options, self.data, self.teacher
        used = not self.moving or options.bank_size == "all"
        if teacher is None or not used or options.dry_run:
            return None
        if options.teacher_cache is None:
            table = self.predict(teacher, data.train)
        else:
            from recipes.teachers.cache import cached_logits

            weights = [value.cpu() for value in teacher.state_dict().values()]
            compute = partial(self.predict, teacher, data.train)
            adapter = getattr(teacher, "adapter", None)
            table = cached_logits(options, data, adapter, weights, compute, self.ranks)
        return torch.from_numpy(table).to(self.device)

    def loop(self) -> None:
        """Train to the last epoch."""
        run, options = self.run, self.options
        if run.resumes:
            self.load()
        with run.watch(self.save):
            while run.running:
                rate = run.begin_epoch()
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                for images, labels, index in training_batches(
                    self.data.train, options.batch_size, seed=options.seed, epoch=run.epoch,
                    crop=options.crop, flip=options.flip, start=run.step, share=self.ranks.share,
                ):  # fmt: skip
                    run.add(self.train_step(images, labels, index) if len(labels) else {})
                run.end_epoch(self.evaluate, self.keep)

    def train_step(
        self, images: np.ndarray, labels: np.ndarray, index: np.ndarray
    ) -> dict[str, Tensor]:
        """Take one step on this process's rows of a batch; return sums over them."""
        inputs = self.pixels(images)
        targets, numbers = (torch.from_numpy(x).to(self.device) for x in (labels, index))
        with self.autocast():
            if self.table is not None and not self.moving:
                teacher = self.table[numbers]
            else:
                with torch.no_grad():
                    teacher = None if self.teacher is None else self.teacher(inputs).float()
            student = self.forward(inputs)
            if self.mcld is not None:
                loss = self.mcld(student, teacher, targets, index=numbers)
            elif self.baseline is not None:
                loss = self.baseline(student, teacher, targets, self.run.done)
            else:  # no teacher, or this is one
                loss = functional.cross_entropy(self.adjust(student), targets)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.mcld is not None:
            self.mcld.step()
        rows = torch.tensor(float(len(labels)), device=loss.device)
        right = (student.detach().argmax(1) == targets).sum().float()
        return {"rows": rows, "loss": rows * loss.detach().float(), "train_accuracy": right}

    def adjust(self, logits: Tensor) -> Tensor:
        """Return logits that ``--balanced`` adjusts by the counts of the labels."""
        return adjust_logits(logits, self.prior) if self.options.balanced else logits

    def evaluate(self) -> Row:
        """Return the accuracies; and for the curves, the terms of MCLD on held-out batches."""
        row: Row = accuracies(partial(self.predict, self.model), self.data, self.options.balanced)
        if self.config is not None and self.teacher is not None:
            held = next(iter(self.data.held_out().values()))  # validation, if there is any
            few = held.take(np.arange(min(len(held), 4 * self.options.batch_size)))
            arrays = self.predict(self.model, few), self.predict(self.teacher, few), few.labels
            student, teacher, labels = (torch.from_numpy(x).to(self.device) for x in arrays)
            _, terms = mcld_loss(
                self.adjust(student), teacher, labels, config=self.config,
                class_prior=self.prior, return_terms=True,
            )  # fmt: skip
            row |= {f"term_{key}": float(terms[key]) for key in ("instance", "sample", "category")}
        return row

    # ---- files ----

    def keep(self, kind: str) -> None:
        """Write the model alone, as `python -m mcld_core export` reads it."""
        notes = self.run.describe(name=self.options.student)
        save_torch(self.options.out / f"{kind}.pt", notes | {"model": self.model.state_dict()})

    def save(self) -> None:
        """Write what a resumed run needs."""
        state = self.run.notes()
        if not is_first():
            return
        for name in ("model", "optimizer", "scaler", "mcld"):
            part = getattr(self, name)
            state[name] = None if part is None else part.state_dict()
        state["random"] = torch.get_rng_state()
        state["random_cuda"] = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        save_torch(self.run.checkpoint, state)

    def load(self) -> None:
        """Go back to the checkpoint."""
        from recipes.checkpoints import load_torch

        state = load_torch(self.run.checkpoint)
        for name in ("model", "optimizer", "scaler", "mcld"):
            if state[name] is not None:
                getattr(self, name).load_state_dict(state[name])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["random_cuda"])
        self.run.restore(state)
        if not is_first():  # the sums are those of all ranks
            self.run.sums = {}


def main(argv: Sequence[str] | None = None) -> int:
    """Train; return the process's exit status."""
    from recipes.exits import exit_status
    from recipes.models.torch import list_models

    return exit_status(train, parse(argv), argv, models=list_models)


if __name__ == "__main__":
    sys.exit(main())
