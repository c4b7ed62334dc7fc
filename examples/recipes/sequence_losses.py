"""The losses that the text and the time-series example compare: the methods of `methods`.

A loss is named as in ``benchmarks/comparison``: ``METHOD`` or ``METHOD:KEY=VALUE,KEY=VALUE``.
"""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from mcld_core import MCLDConfig, mcld_loss
from mcld_core.extensions.nlp import token_mcld_loss
from mcld_core.extensions.timeseries import window_mcld_loss

from .methods import METHODS as KNOWN
from .methods import baseline_loss, settings

METHODS = (
    "ce",
    "kd",
    "kd:weight=1,weight_ce=0",
    "dkd",
    "dkd:weight=0.25",
    "mcld-ce:weight_instance=0,weight_category=0",
    "mcld",
    "mcld-ce",
    "mcld-ce:category_warmup=0",
)
"""CE, KD with it and alone, CE + DKD, CE + sample-wise, MCLD alone and with CE."""
PRIOR, OVERLAP = "class_prior=counts", "overlap=kept"
"""Settings of the token loss and of the window loss, beside those of `MCLDConfig`."""


@functools.cache
def named(text: str, own: str = "") -> tuple[MCLDConfig | None, Callable[..., Any]]:
    """Return a method's configuration, None if it is not by MCLD, and its loss.

    Args:
        text: the method.
        own: a setting that is not for the configuration.

    Raises:
        DataError: a setting that the method does not have.
    """
    method, _, changes = text.partition(":")
    given = [change for change in changes.split(",") if change and change != own]
    options = Namespace(method=method, loss=given, balanced=False)
    found = settings(options)
    if KNOWN[method].loss is mcld_loss:
        return MCLDConfig(**found), mcld_loss
    return None, baseline_loss(options, cross_entropy)


def row_loss(
    text: str,
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    progress: float,
) -> torch.Tensor:
    """Return the loss of a method on logits (…, classes) with one label a row, the mean over rows.

    MCLD is `mcld_loss`: rows are not told apart by the sequence that they are of.
    """
    config, loss = named(text)
    classes = student.shape[-1]
    rows = student.reshape(-1, classes), teacher.reshape(-1, classes), labels.reshape(-1)
    if config is None:
        return loss(*rows, progress)
    return mcld_loss(*rows, config=config, progress=progress)


def token_loss(
    text: str,
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    progress: float,
    counts: torch.Tensor,
) -> torch.Tensor:
    """Return the loss of a method on logits (batch, tokens, vocabulary).

    ``counts`` are those of the vocabulary in the training text, for ``class_prior=counts``.
    """
    config, _ = named(text, PRIOR)
    if config is None:
        return row_loss(text, student, teacher, labels, progress)
    prior = counts if PRIOR in text else None
    return token_mcld_loss(
        student, teacher, labels, config=config, class_prior=prior, progress=progress
    )


def window_loss(
    text: str,
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    progress: float,
    places: dict[str, torch.Tensor],
) -> torch.Tensor:
    """Return the loss of a method on windows (batch, classes), or steps (batch, time, bins).

    ``places`` are the windows' ``starts``, ``lengths`` and ``series``, not used with
    ``overlap=kept``; labels are one a row.
    """
    config, _ = named(text, OVERLAP)
    if config is None:
        return row_loss(text, student, teacher, labels, progress)
    options: dict[str, Any] = {} if OVERLAP in text else dict(places)
    if student.ndim == 3:
        options |= {"step_labels": labels, "category": "step"}
    else:
        options["labels"] = labels
    return window_mcld_loss(student, teacher, config=config, progress=progress, **options)
