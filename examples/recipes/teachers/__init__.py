"""Teachers: which ones ``--teacher`` and its companions name, and how good they are.

| ``--teacher`` | the model | in |
|---|---|---|
| a name of ``--list-models`` | one of `recipes.models` | every framework |
| ``module:function`` | what your function returns | every framework |
| ``FILE.onnx`` | run by onnxruntime on the CPU | every framework |
| ``timm:NAME`` | ``timm.create_model``, pretrained where its weights are on this machine | torch |
| ``hf:FOLDER`` | an image classifier of `transformers` from a folder | torch |
| ``keras.applications:NAME`` | without weights, unless ``--teacher-weights`` has them | keras |

A script trains the first kind itself, unless one of the others is named, or weights or another
option of the teacher's is given: then `load` and the module of the framework load them, `adapter`
fits them to the student's images and classes, and `cache` keeps their answers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import say
from ..data import accuracies
from ..files import DataError
from ..run import Run


def is_own(name: str) -> bool:
    """Return whether a model is not one of the recipe's networks."""
    return ":" in name or name.endswith(".onnx")


def trains_teacher(options: argparse.Namespace) -> bool:
    """Return whether the teacher is one network that is trained first: it fits the student's data.

    All other teachers are loaded, and fitted to the student's images and classes, by `load`.
    """
    given = ("weights", "mean", "std", "size", "classes")
    others = any(getattr(options, f"teacher_{name}") is not None for name in given)
    return len(options.teacher) == 1 and not others and not is_own(options.teacher[0])


def teacher_options(options: argparse.Namespace, number: int = 0) -> argparse.Namespace:
    """Return the options that train teacher ``number``, in a folder of OUT of its own.

    Several teachers have seeds of their own, so that an ensemble of one network is one.
    """
    single = len(options.teacher) == 1
    changes = {
        "method": "ce", "loss": [], "bank_size": 0, "class_prior": "none", "balanced": False,
        "student": options.teacher[number], "teacher": [], "teacher_weights": None,
        "epochs": options.teacher_epochs, "lr": options.teacher_lr, "track": None, "onnx": False,
        "seed": options.seed + 1000 * number,
        "out": options.out / ("teacher" if single else f"teacher{number}"),
    }  # fmt: skip
    return argparse.Namespace(**vars(options) | changes)


def measure(run: Run, logits_of: Callable[[Any], np.ndarray]) -> None:
    """Print the teacher's accuracies, and a warning below twice what chance gives.

    Args:
        run: gets its accuracy and logits.
        logits_of: from a split of the run's data to the logits.

    Raises:
        DataError: the teacher cannot take these images.
    """
    name, data = " + ".join(run.options.teacher), run.data
    try:
        found = accuracies(logits_of, data)
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"--teacher {name}: it cannot answer images of {data.image_shape}, scaled to "
            f"--teacher-size {run.options.teacher_size}: {reason}"
        ) from error
    numbers = (f"{key.split('_')[0]} {100 * value:.2f}%" for key, value in found.items())
    say(f"teacher {name}: {', '.join(numbers)}")
    if min(found.values()) < 2 / data.classes:
        say(
            f"warning: the teacher is hardly better than chance ({100 / data.classes:.2g}%): "
            "are its normalisation (--teacher-mean, --teacher-std), its classes "
            "(--teacher-classes) and its weights (--teacher-weights) right?",
            important=True,
        )
    run.teacher_accuracy = found["test_accuracy"]
    run.teacher_logits = lambda: logits_of(data.test)
