"""PyTorch's teachers: of `timm` and `transformers`, of files of weights, and several as one."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..checkpoints import load_torch
from ..data import Dataset
from ..files import DataError
from ..models.torch import build
from .adapter import Adapter, find_adapter
from .load import OnnxTeacher, load_teachers


def load_fitted(options: argparse.Namespace, data: Dataset, train: Callable[..., Any]) -> Fitted:
    """Return the teachers that ``--teacher`` names; ``train`` is the script's, on the same data.

    Raises:
        DataError: a teacher cannot be loaded.
    """
    adapter = find_adapter(options, data)
    found = load_teachers(options, partial(torch_teacher, data=data), train)
    return Fitted([OnnxModule(x) if isinstance(x, OnnxTeacher) else x for x in found], adapter)


class Fitted(nn.Module):
    """Teachers as one module, from the student's normalised images to logits of its classes."""

    def __init__(self, models: list[nn.Module], adapter: Adapter) -> None:
        super().__init__()
        self.models, self.adapter = nn.ModuleList(models), adapter
        for name in ("scale", "shift"):
            values = torch.from_numpy(getattr(adapter, name)).view(-1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return (batch, classes) for (batch, channels, height, width)."""
        images, size = images * self.scale + self.shift, self.adapter.size
        if size is not None:
            images = interpolate(images, (size, size), mode="bicubic", antialias=True)
        logits: Tensor = self.adapter.combine([model(images).float() for model in self.models])
        return logits


class OnnxModule(nn.Module):
    """An ONNX file as a module, the channels first."""

    def __init__(self, teacher: OnnxTeacher) -> None:
        super().__init__()  # the file is part of the state: a cache tells two files apart
        self.teacher = teacher
        self.register_buffer("file", torch.frombuffer(teacher.content, dtype=torch.uint8))

    def forward(self, images: Tensor) -> Tensor:
        """Return its logits, on the images' device."""
        logits = self.teacher(images.permute(0, 2, 3, 1).float().cpu().numpy())
        return torch.from_numpy(logits).to(images.device)


def torch_teacher(name: str, weights: Path | None, data: Dataset) -> Any:
    """Return a teacher as an ``nn.Module``, with its weights.

    It takes (batch, channels, height, width) and returns logits of its own classes.

    Raises:
        DataError: a package or file is missing, or the weights do not fit.
    """
    if name.startswith(("timm:", "hf:")):
        model = _packaged(name, pretrained=weights is None)
    else:
        model = build(name, data.image_shape, data.classes)
    if weights is not None:
        load_torch_weights(model, weights)
    return model


def _packaged(name: str, pretrained: bool) -> Any:
    kind, _, rest = name.partition(":")
    try:
        if kind == "timm":
            import timm

            return timm.create_model(rest, pretrained=pretrained)
        from transformers import AutoModelForImageClassification

        return Logits(AutoModelForImageClassification.from_pretrained(rest))
    except ImportError as error:
        raise DataError(f"--teacher {name} needs: pip install {error.name}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"--teacher {name}: {str(error).strip().splitlines()[0]}") from error


class Logits(nn.Module):
    """A classifier of `transformers`, whose answer holds the logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        """Return them."""
        return self.model(images).logits


# ---- weights ----


def load_torch_weights(model: Any, path: Path) -> None:
    """Load a model's weights from a file of this recipe's or anyone else's.

    Checkpoints that hold them under ``model``, ``state_dict`` or ``student``, and the prefix
    ``module.`` of data-parallel training, are unwrapped; `.safetensors` files are read, too.

    Raises:
        DataError: no such file, a damaged one, or weights that do not fit: three names are given.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state: Mapping[str, Any] = load_file(path)
    else:
        state = unwrap(load_torch(path))

    def shapes(values: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Without the counters of batch norm, which files of PyTorch < 0.4.1 lack."""
        shaped = {name: tuple(getattr(value, "shape", ())) for name, value in values.items()}
        return {name: shape for name, shape in shaped.items() if not name.endswith("_tracked")}

    check_fit(path, shapes(model.state_dict()), shapes(state))
    model.load_state_dict(state)  # it sets the counters that are missing


def unwrap(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the weights by name, out of the dictionaries and prefixes that surround them."""
    for key in ("state_dict", "model", "student", "model_state_dict"):
        if isinstance(state.get(key), Mapping):
            return unwrap(state[key])
    for prefix in ("module.", "_orig_mod."):
        if state and all(str(name).startswith(prefix) for name in state):
            return unwrap({name.removeprefix(prefix): value for name, value in state.items()})
    return state


def check_fit(
    path: Path, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise `DataError` where names or shapes differ, with three of them and how many there are."""
    differ = [f"{name} is missing" for name in wanted if name not in found]
    differ += [f"{name} is unknown" for name in found if name not in wanted]
    differ += [
        f"{name} is {found[name]} instead of {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if differ:
        more = f" … and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise DataError(f"{path} does not fit the model: {'; '.join(differ[:3])}{more}")
