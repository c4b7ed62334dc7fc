"""Distil one image classifier into a smaller one with PyTorch: from the data to an ONNX file.

    pip install '.[torch,examples,onnx]' accelerate kornia
    python examples/torch_cifar100.py --dataset digits

takes no download. CIFAR-100's published recipe, a model of yours; GPUs (see `accelerate config`):

    python examples/torch_cifar100.py --dataset cifar100 --workers 4 --student mymodels:small
    accelerate launch --num_processes 4 --mixed_precision bf16 examples/torch_cifar100.py …

`accelerate` brings devices, precision, processes and checkpoints, `datasets` the pictures, `kornia`
the augmentation. The loss is `MCLDLoss`, in `loss_of`. Ctrl-C saves the state; ``--resume`` goes
on, also after a crash, and ends on a CPU with the same bits as if nothing had happened.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedType, set_seed
from data import Data, InputError, Pictures
from kornia.augmentation import RandomCutMixV2, RandomMixUpV2
from kornia.augmentation.auto import RandAugment
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
from torch_networks import FromPixels, build, ours

from mcld_core import MCLDConfig
from mcld_core.torch import MCLDLoss

READING = {"split_batches": True, "use_seedable_sampler": True}  # what resumes with the same bits


def parser() -> argparse.ArgumentParser:
    """Return the options: those of every image script, and PyTorch's own."""
    made = common.parser(__doc__.splitlines()[0])
    add = made.add_argument_group("PyTorch; the rest is accelerate's").add_argument
    add("--cpu", action="store_true", help="default: the accelerator, where there is one")
    add("--compile", action="store_true", help="by torch.compile")
    add("--accumulate", type=int, default=1, metavar="BATCHES", help="to one step")
    add("--track", nargs="+", help="tensorboard, wandb, mlflow … of accelerate")
    return made


class Views(Dataset[tuple[Tensor, int]]):
    """Pictures as (channels, height, width) uint8; in training cropped, mirrored, RandAugmented.

    What is random depends on (seed, epoch, row) alone: a resumed run sees the same pictures.
    """

    epoch, policy = 0, None

    def __init__(self, pictures: Any, options: argparse.Namespace, trains: bool) -> None:
        self.pictures, self.seed, self.trains = pictures, options.seed, trains
        if trains and options.recipe == "vit":
            self.policy = RandAugment(n=2, m=9)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image, label = self.pictures[row]
        return self.view(image, row), label

    def view(self, image: np.ndarray, *place: int) -> Tensor:
        """Return the picture as this epoch shows it."""
        if not self.trains:
            return torch.tensor(image).permute(2, 0, 1)
        rng = np.random.default_rng((self.seed, self.epoch, *place))
        view = torch.tensor(common.crop_and_flip(image, rng)).permute(2, 0, 1)
        if self.policy is None:
            return view
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            view = self.policy(view.expand(1, 3, -1, -1) / 255)[0, : len(view)]
        return (view * 255).round().to(torch.uint8)


class StreamedViews(Views, IterableDataset[tuple[Tensor, int]]):
    """The same of a stream, in its order."""

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        self.pictures.rows.set_epoch(self.epoch)
        worker = getattr(get_worker_info(), "id", 0)
        for row, (image, label) in enumerate(self.pictures):
            yield self.view(image, worker, row), label


def make_loader(pictures: Any, options: argparse.Namespace, trains: bool = False) -> Any:
    """Return batches of (batch, channels, height, width) uint8 and class numbers."""
    known, size = isinstance(pictures, Pictures), options.batch_size
    views = (Views if known else StreamedViews)(pictures, options, trains)
    more = {"shuffle": trains and known, "drop_last": trains and len(pictures) >= size}
    return DataLoader(views, size, num_workers=options.workers, **more)


def mix(pixels: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mix pairs of pictures, by mixup or by cutmix; return them with soft, smoothed labels."""
    kind = RandomMixUpV2 if torch.rand(()) < 0.5 else RandomCutMixV2
    pixels, pairs = kind(data_keys=["input", "class"])(pixels, labels)
    one, two, share = pairs.reshape(-1, 3).T
    one, two = (functional.one_hot(x.long(), classes) for x in (one, two))
    return pixels, 0.9 * (one + share[:, None] * (two - one)) + 0.1 / classes


@torch.no_grad()
def accuracy(model: nn.Module, loader: Any, accelerator: Accelerator) -> float:
    """Return the share of right answers."""
    model.eval()
    right = []
    for pixels, labels in loader:
        with accelerator.autocast():
            found = model(pixels / 255).argmax(1)
        right.append(accelerator.gather_for_metrics(found == labels))
    return float(torch.cat(right).float().mean())


def load_teacher(options: argparse.Namespace, data: Data) -> FromPixels:
    """Return the teacher; one of our networks that has no weights is trained first."""
    weights = options.teacher_weights
    if weights is None and ours(options.teacher):
        weights = options.out / "teacher" / "model.safetensors"
        if not weights.is_file():
            train(common.of_teacher(options), data)
    teacher = build(options.teacher, "--teacher", data, weights)
    size = options.teacher_size or teacher.size
    few = argparse.Namespace(**vars(options) | {"batch_size": 256, "workers": 0})
    pixels, labels = next(iter(make_loader(data.test, few)))
    made = partial(FromPixels, teacher.requires_grad_(False).model, size=size)
    logits = lambda mean, std: made(mean, std)(pixels / 255).numpy()  # noqa: E731
    own = teacher.mean, teacher.std
    return made(*common.check_teacher(options, logits, labels.numpy(), own, data)).eval()


def states(folder: Path) -> list[Path]:
    """Return the saved states of a run, ``state-EPOCH-STEP``, the last one last."""
    return sorted(folder.glob("state-*[0-9]"), key=lambda x: [*map(int, x.name.split("-")[1:])])


def train(options: argparse.Namespace, data: Data) -> None:
    """Train a student as the options say. Raises KeyboardInterrupt once a signal came."""
    accelerator = Accelerator(
        cpu=options.cpu, gradient_accumulation_steps=options.accumulate, log_with=options.track,
        project_dir=options.out, dynamo_backend="inductor" if options.compile else None,
        dataloader_config=DataLoaderConfiguration(**READING, data_seed=options.seed),
    )  # fmt: skip
    if accelerator.distributed_type == DistributedType.FSDP:
        raise InputError("FSDP cuts up the weights, which this script exports: use DDP")
    device, classes, vit = accelerator.device, len(data.classes), options.recipe == "vit"
    test = accelerator.prepare(make_loader(data.test, options))
    held = data.validation
    validation = None if held is None else accelerator.prepare(make_loader(held, options))
    teacher, accuracies = None, dict[str, float]()
    if options.method != "ce":
        teacher = load_teacher(options, data).to(device)
        accuracies["teacher"] = accuracy(teacher, test, accelerator)
        common.say(f"{options.teacher}: test accuracy {accuracies['teacher']:.2%}")

    set_seed(options.seed)  # whatever came before
    student = build(options.student, "--student", data)
    set_seed(options.seed, device_specific=True)
    kind, more = (torch.optim.AdamW, {}) if vit else (torch.optim.SGD, {"momentum": 0.9})
    optimizer = kind(student.parameters(), options.lr, weight_decay=options.weight_decay, **more)
    loader = make_loader(data.train, options, trains=True)
    views, steps = loader.dataset, len(loader)
    total = options.epochs * -(-steps // options.accumulate)
    factor = lambda step: common.rate(options, step / total)  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    criterion = MCLDLoss(
        MCLDConfig(weight_ce=1.0), total_steps=total, bank_size=options.bank_size, classes=classes,
        soft_labels=vit, dealt_in_turn=False,
    ).to(device)  # fmt: skip
    student, optimizer, loader, schedule = accelerator.prepare(student, optimizer, loader, schedule)
    accelerator.register_for_checkpointing(criterion)
    accelerator.init_trackers("mcld", {key: str(value) for key, value in vars(options).items()})

    def loss_of(pixels: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch: what this script is about."""
        pixels = pixels / 255
        if vit:
            pixels, labels = mix(pixels, labels, classes)
        logits = student(pixels)
        if teacher is None:
            return functional.cross_entropy(logits, labels)
        with torch.no_grad(), accelerator.autocast():
            answers = teacher(pixels)
        return criterion(logits, answers, labels)

    def save(epoch: int, step: int) -> None:
        """Write the state into a temporary folder, rename it, and remove the one before."""
        folder, before = options.out / f"state-{epoch}-{step}", states(options.out)
        accelerator.save_state(str(folder.with_suffix(".tmp")))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            folder.with_suffix(".tmp").rename(folder)
            list(map(shutil.rmtree, before))

    saved = states(options.out)[-1:]  # of a run that goes on
    first, begun = map(int, saved[0].name.split("-")[1:]) if saved else (0, 0)
    if saved and not begun:
        accelerator.load_state(str(saved[0]))
    bar = common.progress(options, steps * options.epochs, first * steps + begun)
    with common.signals() as heard, bar:
        for epoch in range(first, options.epochs):
            student.train()
            views.epoch, losses, stops = epoch, torch.zeros((), device=device), False
            batches = accelerator.skip_first_batches(loader, begun) if begun else loader
            batches.set_epoch(epoch)
            iterator = iter(batches)
            batch, step = next(iterator, None), begun
            if begun:  # after the iterator and its first batch have drawn random numbers
                accelerator.load_state(str(saved[0]))
            while batch is not None and not stops:
                with accelerator.accumulate(student):
                    loss = loss_of(*batch)
                    accelerator.backward(loss)
                    if vit and accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(student.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
                step, losses, batch = step + 1, losses + loss.detach(), next(iterator, None)
                bar.update()
                if accelerator.sync_gradients:
                    criterion.step()
                    if heard:
                        accelerator.set_trigger()  # several processes ask each other
                    asks = accelerator.num_processes == 1 or step % 10 == 0 or batch is None
                    stops = asks and accelerator.check_trigger()
            if batch is not None:
                save(epoch, step)
                raise KeyboardInterrupt(f"epoch {epoch + 1}, step {step}: {common.SAVED}")
            row = {"loss": float(accelerator.reduce(losses, "mean")) / max(step - begun, 1)}
            begun = 0
            if validation is not None:
                row["validation"] = accuracy(student, validation, accelerator)
            accelerator.log(row, epoch)
            bar.set_postfix(row)
            save(epoch + 1, 0)
            if stops:
                raise KeyboardInterrupt(f"epoch {epoch + 1} is done: {common.SAVED}")
    accuracies["student"] = accuracy(student, test, accelerator)
    [tracker.finish() for tracker in accelerator.trackers]  # `end_training` ends processes, too
    plain = {"keep_fp32_wrapper": False, "keep_torch_compile": False}  # without autocast
    student = accelerator.unwrap_model(student, **plain).cpu().eval()
    if accelerator.is_main_process:
        with common.drafted(options.out / "model.safetensors") as path:
            save_file(student.model.state_dict(), path)
        example = next(iter(make_loader(data.test, options)))[0][:8].numpy() / np.float32(255)
        common.finish(options, data, student, example, accuracies, "NCHW")
    accelerator.wait_for_everyone()  # whoever comes next reads the file


main = partial(common.run, parser, train)

if __name__ == "__main__":
    sys.exit(main())
