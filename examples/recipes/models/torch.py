"""What a script needs of PyTorch: models by name, images to logits, files, and processes.

``build(name, image_shape, classes)`` makes a model; every one takes (batch, channels, height,
width). Small ones for laptops are here; `torch_networks` has those of the literature.
"""

from __future__ import annotations

import atexit
import io
import os
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..data import Dataset, Split
from ..files import DataError, unreadable, write_atomically
from . import Shape, describe


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a "same" convolution without bias."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def head(features: int, classes: int) -> nn.Sequential:
    """Return mean pooling over the image and the linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes))


def mlp(shape: Shape, classes: int, widths: Sequence[int]) -> nn.Module:
    """Return a multilayer perceptron on the flattened image."""
    height, width, channels = shape
    layers: list[nn.Module] = [nn.Flatten()]
    size = height * width * channels
    for hidden in widths:
        layers += [nn.Linear(size, hidden), nn.ReLU()]
        size = hidden
    return nn.Sequential(*layers, nn.Linear(size, classes))


def convnet(channels: int, classes: int, width: int) -> nn.Module:
    """Return three convolutions of width, 2·width, 4·width with batch norm and mean pooling."""
    layers: list[nn.Module] = []
    for number in range(3):
        out = width << number
        layers += [conv(channels, out, 3), nn.BatchNorm2d(out), nn.ReLU()]
        if number < 2:
            layers.append(nn.MaxPool2d(2))
        channels = out
    return nn.Sequential(*layers, *head(channels, classes))


def build(name: str, shape: Shape, classes: int) -> nn.Module:
    """Return the model called ``name``.

    Args:
        name: as `models.describe` takes it: ``mlp-64``, ``conv-32``, ``resnet8x4`` …, or
            ``module:function``: what that function returns, as `own_teachers.call_own` calls it.
        shape: height, width, channels of the images.
        classes: length of the logits.

    Raises:
        DataError: an unknown name, or a function of yours that returns something else.
    """
    if ":" in name:
        from ..own_teachers import call_own

        model = call_own(name, shape, classes)
        if not isinstance(model, nn.Module):
            raise DataError(f"{name} returned a {type(model).__name__}, not a nn.Module")
        return model
    family, settings = describe(name)
    if family == "mlp":
        return mlp(shape, classes, **settings)
    if family == "convnet":
        return convnet(shape[2], classes, **settings)
    from . import torch_networks

    return getattr(torch_networks, family)(shape[2], classes, **settings)


def count_parameters(model: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(parameter.numel() for parameter in model.parameters())


def list_models() -> str:
    """Return the models' names and sizes."""
    from .tables import list_models as listed

    size = lambda name: count_parameters(build(name, (32, 32, 3), 100))  # noqa: E731
    return listed(size, "module:function and, for 100 classes of colour images")


# ---- images to logits ----


class Pixels:
    """Turns (rows, height, width, channels) bytes into normalised tensors on the device."""

    def __init__(self, data: Dataset, device: torch.device, channels_last: bool = False) -> None:
        self.device = device
        moments = (data.mean, data.std)
        self.mean, self.std = (torch.tensor(x, device=device).view(1, -1, 1, 1) for x in moments)
        self.memory = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images: np.ndarray) -> Tensor:
        """Return (rows, channels, height, width) float32."""
        pixels = torch.from_numpy(images).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        return ((pixels.float() / 255 - self.mean) / self.std).contiguous(memory_format=self.memory)


@torch.no_grad()
def predict(model: nn.Module, split: Split, pixels: Pixels, batch_size: int) -> np.ndarray:
    """Return the logits of a whole split in float32, in evaluation mode; restores the mode."""
    was_training = model.training
    model.to(pixels.device).eval()
    starts = range(0, len(split), batch_size)
    parts = [model(pixels(split.images[start : start + batch_size])).float() for start in starts]
    model.train(was_training)
    return torch.cat(parts).cpu().numpy()


# ---- files ----


def save_torch(path: Path, state: dict[str, Any]) -> None:
    """Write a PyTorch checkpoint; the previous one stays whole until the new one is."""
    buffer = io.BytesIO()  # where a disk is full, torch.save would raise a RuntimeError of its own
    torch.save(state, buffer)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))


def load_torch(path: Path) -> dict[str, Any]:
    """Read a PyTorch checkpoint onto the CPU. No code in it can run: ``weights_only=True``.

    ``torch.load`` does not look at the CRCs of the archive, so they are verified first.

    Raises:
        DataError: no file, a damaged one, or one that is not a dictionary of tensors and values.
    """
    try:
        if zipfile.is_zipfile(path):  # files of torch < 1.6 are not, and have no CRC
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"the CRC of {damaged} does not match")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except Exception as error:  # torch raises a dozen types for a damaged file
        raise unreadable(path, error) from error
    return state


# ---- several processes ----


class Ranks:
    """The processes of ``torchrun``: which one this is, and its device; one without torchrun."""

    def __init__(self, device: str) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        accelerator = torch.accelerator.current_accelerator()
        chosen = torch.device(device if device != "auto" else accelerator or "cpu")
        if self.world > 1 and chosen.type == "cuda":
            chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(chosen)
        if self.world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
            atexit.register(leave_group)
        self.device = chosen
        self.rank = dist.get_rank() if self.world > 1 else 0
        self.first = self.rank == 0

    def share(self, count: int) -> slice:
        """Return this rank's rows of a batch of ``count``: as many as every other rank's.

        Equal shares make the mean of the ranks' losses the loss of the whole batch; at most
        ``world − 1`` rows of a ragged last batch go unused.
        """
        return slice(self.rank, count - count % self.world, self.world)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model, averaging gradients over the ranks where there are several."""
        if self.world == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over the ranks."""
        if self.world == 1:
            return value
        result = value.clone()
        dist.all_reduce(result)
        return result

    def any(self, flag: bool) -> bool:
        """Return whether any rank says so; every rank has to ask."""
        if self.world == 1:
            return flag
        return float(self.total(torch.tensor(float(flag), device=self.device))) > 0

    def agree(self, value: Any) -> Any:
        """Return the first rank's value on every rank."""
        values = [value]
        if self.world > 1:
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            dist.barrier()


def leave_group() -> None:
    """End the process group before Python ends.

    A thread of gloo that still frees the last rows it gathered aborts a process that is ending
    (``terminate called without an active exception``): the pause lets it finish.
    """
    dist.destroy_process_group()
    time.sleep(0.5)
