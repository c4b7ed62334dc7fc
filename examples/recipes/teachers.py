"""Teachers from anywhere: what ``--teacher`` and its companions mean, for every framework.

| ``--teacher`` | the model | in |
|---|---|---|
| a name of ``--list-models`` | one of `recipes.models` | every framework |
| ``module:function`` | what your function returns | every framework |
| ``FILE.onnx`` | run by onnxruntime on the CPU | every framework |
| ``timm:NAME`` | ``timm.create_model``, pretrained where its weights are on this machine | torch |
| ``hf:FOLDER`` | an image classifier of `transformers` from a folder | torch |
| ``keras.applications:NAME`` | without weights, unless ``--teacher-weights`` has them | keras |

A teacher takes the student's images, normalised its own way, and answers in the student's classes:
`Adapter` holds what lies between.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcld_core import TeacherCache, select_classes
from mcld_core.cache import fingerprint
from mcld_core.extensions.teachers import ensemble

from .data import Dataset, Split
from .files import DataError, load_torch
from .logs import is_first, say_teacher
from .models.tables import call_own


def is_own(name: str) -> bool:
    """Return whether a name is not one of the recipe's networks."""
    return ":" in name or name.endswith(".onnx")


def named_files(options: argparse.Namespace) -> list[tuple[str, Path | None]]:
    """Return each ``--teacher`` with its ``--teacher-weights``, None where there are none.

    Raises:
        DataError: no teacher, or another number of files.
    """
    files = options.teacher_weights or [None] * len(options.teacher)
    if not options.teacher or len(files) != len(options.teacher):
        raise DataError(
            f"--teacher-weights: expected a file for each of {options.teacher}; got {len(files)}"
        )
    return list(zip(options.teacher, files, strict=True))


def untrained(options: argparse.Namespace) -> list[int]:
    """Return the numbers of the teachers that have to be trained first."""
    return [
        number
        for number, (name, file) in enumerate(named_files(options))
        if file is None and not is_own(name)
    ]


def torch_teacher(name: str, data: Dataset, *, weights: Path | None = None) -> Any:
    """Return an ``nn.Module`` for a teacher that is not one of the recipe's networks.

    It takes (batch, channels, height, width) and returns logits of its own classes.

    Raises:
        DataError: a package or file is missing, or the weights do not fit.
    """
    kind, _, rest = name.partition(":")
    if name.endswith(".onnx"):
        return _onnx_module(OnnxTeacher(Path(name)))
    try:
        if kind == "timm":
            import timm

            model = timm.create_model(rest, pretrained=weights is None)
        elif kind == "hf":
            from transformers import AutoModelForImageClassification

            model = _logits_of(AutoModelForImageClassification.from_pretrained(rest))
        else:
            model = call_own(name, data.image_shape, data.classes)
    except ImportError as error:
        raise DataError(f"--teacher {name} needs: pip install {error.name}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"--teacher {name}: {str(error).strip().splitlines()[0]}") from error
    if weights is not None:
        load_torch_weights(model, weights)
    return model


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


def measure(
    options: argparse.Namespace, data: Dataset, answer: Callable[[Split], Any]
) -> dict[str, float]:
    """Return the teacher's accuracy by split, and print it: a bad teacher is seen at once.

    Args:
        options: of the run.
        data: the validation split, where there is one, and the test split are asked.
        answer: the teacher's logits of a split, an array or tensor of any framework.

    Raises:
        DataError: the teacher cannot take these images.
    """
    names = " + ".join(options.teacher)
    found = {}
    for part, split in data.held_out().items():
        try:
            logits = answer(split)
        except (RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"--teacher {names}: it cannot answer images of {data.image_shape}, scaled to "
                f"--teacher-size {options.teacher_size}: {reason}"
            ) from error
        best = np.asarray(logits.cpu() if hasattr(logits, "cpu") else logits).argmax(1)
        found[part] = float((best == split.labels).mean())
    say_teacher(names, found, data.classes)
    return found


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


# ---- between student and teacher ----


@dataclass(frozen=True)
class Adapter:
    """What a teacher's input and output need: pure functions for arrays of every framework."""

    scale: np.ndarray
    shift: np.ndarray
    """Per channel: ``images · scale + shift`` are the student's images as the teacher wants them;
    both are float32 (channels,)."""
    columns: list[int] | None
    """The teacher's class for each class of the student; None: the same classes."""
    classes: int
    """The student's."""
    size: int | None
    """The side that the teacher's images are scaled to; None: the student's."""

    def combine(self, answers: Sequence[Any]) -> Any:
        """Return the logits of the student's classes from the logits of one or more teachers.

        Raises:
            DataError: a teacher of another number of classes, and no ``--teacher-classes``.
        """
        chosen = [self._select(answer) for answer in answers]
        return chosen[0] if len(chosen) == 1 else ensemble(chosen)

    def _select(self, logits: Any) -> Any:
        width = int(logits.shape[-1])
        if self.columns is not None and (width != self.classes or max(self.columns) < width):
            try:
                return select_classes(logits, self.columns)
            except ValueError as error:
                raise DataError(f"--teacher-classes: {error}") from error
        if width != self.classes:
            raise DataError(
                f"the teacher has {width} classes and the data {self.classes}; say by "
                "--teacher-classes FILE which of the teacher's is which"
            )
        return logits


def find_adapter(options: argparse.Namespace, data: Dataset) -> Adapter:
    """Read ``--teacher-mean``, ``--teacher-std`` and ``--teacher-classes``.

    Raises:
        DataError: another number of channels, a deviation ≤ 0, a file that does not fit.
    """
    mean, std = (np.asarray(values, np.float32) for values in (data.mean, data.std))
    own = []
    for name, default in (("teacher_mean", mean), ("teacher_std", std)):
        values = getattr(options, name)
        array = default if values is None else np.asarray(values, np.float32)
        if len(array) == 1:
            array = np.repeat(array, len(mean))
        if array.shape != mean.shape or (name == "teacher_std" and not (array > 0).all()):
            raise DataError(
                f"--{name.replace('_', '-')}: expected {len(mean)} numbers, one a channel"
                f"{', above 0' if name == 'teacher_std' else ''}; got {values}"
            )
        own.append(array)
    columns = None
    if options.teacher_classes is not None:
        columns = read_classes(options.teacher_classes, data.classes)
    scale, shift = std / own[1], (mean - own[0]) / own[1]
    return Adapter(scale, shift, columns, data.classes, options.teacher_size)


def read_classes(path: Path, classes: int) -> list[int]:
    """Read the teacher's class number for each class of the student, one a line.

    Raises:
        DataError: no such file, another number of lines, or a line that is not a number.
    """
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        columns = [int(line.split()[0]) for line in lines]
    except (OSError, ValueError) as error:
        raise DataError(f"--teacher-classes {path}: expected a number a line ({error})") from error
    if len(columns) != classes:
        raise DataError(
            f"--teacher-classes {path} has {len(columns)} lines; the data have {classes} classes"
        )
    return columns


def cached_logits(
    folder: Path | None,
    name: str,
    split: Any,
    classes: int,
    weights: Sequence[Any],
    compute: Callable[[], np.ndarray],
    *,
    wait: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Return what ``compute`` returns, from the folder if it has it, and leave it there.

    Args:
        folder: of ``--teacher-cache``; None: compute.
        name: of the data set.
        split: the images, or paths of files, and the labels that the teacher answers.
        classes: the width of an answer.
        weights: the teacher's arrays and settings: another teacher gets a file of its own.
        compute: (rows, classes), in the order of the split.
        wait: waits until every process is here; the first one writes the file.

    Raises:
        DataError: the file is damaged.
    """
    if folder is None:
        return np.asarray(compute(), "float32")
    images = getattr(split, "images", None)
    if images is None:  # files are known by their names, sizes and times
        stats = [(path, os.stat(path)) for path in getattr(split, "paths", ())]
        images = " ".join(f"{path} {found.st_size} {found.st_mtime_ns}" for path, found in stats)
    mark = fingerprint(name, images, split.labels, *weights)
    path = Path(folder) / f"{name}-{mark[:16]}.npy"
    if is_first() and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = np.arange(len(split))
        TeacherCache.write(path, [(rows, compute())], len(rows), classes, fingerprint=mark)
    wait()
    try:
        cache = TeacherCache.open(path, fingerprint=mark)
    except ValueError as error:
        raise DataError(str(error)) from error
    return np.asarray(cache[:], "float32")
