"""Models that are not the recipe's: how ``module:function`` and ``--teacher-weights`` load them.

A script imports this module where such a model is named or has a file; `teachers` has the table
of names.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .data import Dataset
from .files import DataError


def call_own(name: str, image_shape: Sequence[int], classes: int, **more: Any) -> Any:
    """Return what the function ``module:function`` returns.

    The module is found as ``python -m module`` would find it: installed, or in this folder. The
    function is given those of ``image_shape`` (height, width, channels), ``classes``,
    ``num_classes`` and ``more`` that it has parameters for, and no others.

    Raises:
        DataError: there is no such function, or it fails: it is the user's code.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(f"{name!r} needs to be module:function ({error})") from error
    if not callable(found):
        raise DataError(f"{name!r} is not a function that returns the model")
    known = {"image_shape": tuple(image_shape), "classes": classes, "num_classes": classes} | more
    try:
        taken = inspect.signature(found).parameters
        return found(**{key: value for key, value in known.items() if key in taken})
    except Exception as error:
        raise DataError(f"{name}: {type(error).__name__}: {error}") from error


def load_fitted(options: argparse.Namespace, data: Dataset, train: Callable[..., Any]) -> Any:
    """Return the teachers that ``--teacher`` names as one ``nn.Module``.

    It takes the student's normalised images, channels first, to logits of the student's classes.
    """
    import torch
    from torch import nn
    from torch.nn.functional import interpolate

    from .teachers import find_adapter, load_teachers

    class Fitted(nn.Module):
        def __init__(self, models: list[nn.Module]) -> None:
            super().__init__()
            self.models, self.adapter = nn.ModuleList(models), adapter
            for name in ("scale", "shift"):
                values = torch.from_numpy(getattr(adapter, name)).view(-1, 1, 1)
                self.register_buffer(name, values, persistent=False)

        def forward(self, images: Any) -> Any:
            images, size = images * self.scale + self.shift, adapter.size
            if size is not None:
                images = interpolate(images, (size, size), mode="bicubic", antialias=True)
            return adapter.combine([model(images).float() for model in self.models])

    adapter = find_adapter(options, data)
    found = load_teachers(options, partial(torch_teacher, data=data), train)
    return Fitted([_onnx_module(x) if isinstance(x, OnnxTeacher) else x for x in found])


def torch_teacher(name: str, weights: Path | None, data: Dataset) -> Any:
    """Return a teacher as an ``nn.Module``, with its weights.

    It takes (batch, channels, height, width) and returns logits of its own classes.

    Raises:
        DataError: a package or file is missing, or the weights do not fit.
    """
    from .models.torch import build

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

        return _logits_of(AutoModelForImageClassification.from_pretrained(rest))
    except ImportError as error:
        raise DataError(f"--teacher {name} needs: pip install {error.name}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"--teacher {name}: {str(error).strip().splitlines()[0]}") from error


def _logits_of(model: Any) -> Any:
    from torch import nn

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Any) -> Any:
            return self.model(images).logits

    return Logits()


def _onnx_module(teacher: OnnxTeacher) -> Any:
    """Return an ONNX file as an ``nn.Module``, the channels first."""
    import torch
    from torch import nn

    class OnnxModule(nn.Module):
        def __init__(self) -> None:
            super().__init__()  # the file is part of the state: a cache tells two files apart
            self.register_buffer("file", torch.frombuffer(teacher.content, dtype=torch.uint8))

        def forward(self, images: Any) -> Any:
            logits = teacher(images.permute(0, 2, 3, 1).float().cpu().numpy())
            return torch.from_numpy(logits).to(images.device)

    return OnnxModule()


class OnnxTeacher:
    """An ONNX file as a function from normalised images, channels last, to logits.

    The file says whether it wants the channels first: by its metadata ``layout`` if it has that
    (`mcld_core.export_onnx` writes it), else by which axis holds 1 or 3 numbers.

    Raises:
        DataError: onnxruntime is not installed, or the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise DataError(f"--teacher {path} needs: pip install onnxruntime") from error
        if not path.is_file():
            raise DataError(f"--teacher {path} does not exist")
        try:
            self.content = bytearray(path.read_bytes())
            self.session = onnxruntime.InferenceSession(
                bytes(self.content), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own types
            raise DataError(f"--teacher {path}: {str(error).splitlines()[0]}") from error
        (self.input,) = self.session.get_inputs()
        outputs = [output.name for output in self.session.get_outputs()]
        self.output = "logits" if "logits" in outputs else outputs[0]
        noted = self.session.get_modelmeta().custom_metadata_map.get("layout", "").strip('"')
        self.first = noted == "NCHW" or (not noted and self.input.shape[1] in (1, 3))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return (rows, classes) float32 for (rows, height, width, channels)."""
        if self.first:
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        (logits,) = self.session.run([self.output], {self.input.name: images})
        return np.asarray(logits, np.float32)


# ---- weights ----


def load_torch_weights(model: Any, path: Path) -> None:
    """Load a model's weights from a file of this recipe's or anyone else's.

    Checkpoints that hold them under ``model``, ``state_dict`` or ``student``, and the prefix
    ``module.`` of data-parallel training, are unwrapped; `.safetensors` files are read, too.

    Raises:
        DataError: no such file, a damaged one, or weights that do not fit: three names are given.
    """
    from .checkpoints import load_torch

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
