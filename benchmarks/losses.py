"""The losses that the tables compare, named ``METHOD`` or ``METHOD:KEY=VALUE,KEY=VALUE``.

A student's loss is ``weight_ce · CE + weight · ramp · loss(student, teacher, …)``, where ``loss``
is a function of `mcld_core` and the ramp grows from 0 to 1 over the first part ``warmup`` of the
training. MCLD has its own ramp and its own ``weight_ce``: those of `MCLDConfig`.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from mcld_core import (
    MCLDConfig,
    dist_loss,
    dkd_loss,
    kd_loss,
    mcld_loss,
    nkd_loss,
    rld_loss,
    ttm_loss,
)

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
"""(student's logits, teacher's logits, labels, progress) → scalar."""


class Method(NamedTuple):
    """A function of `mcld_core` (None: the cross-entropy alone), changed defaults, and weights."""

    loss: Callable[..., Any] | None
    changes: Mapping[str, Any] = {}
    weight: float = 1.0
    weight_ce: float = 1.0
    warmup: float = 0.0

    def settings(self) -> dict[str, Any]:
        """Return what a text may change, with its defaults."""
        if self.loss is None:
            return {}
        if self.loss is mcld_loss:
            return asdict(MCLDConfig()) | dict(self.changes)
        parameters = inspect.signature(self.loss).parameters.values()
        own = {item.name: item.default for item in parameters if item.kind == item.KEYWORD_ONLY}
        own = {k: v for k, v in own.items() if k not in ("sample_weight", "where", "reduction")}
        weights = {"weight": self.weight, "weight_ce": self.weight_ce, "warmup": self.warmup}
        return own | dict(self.changes) | weights


METHODS = {
    "ce": Method(None),
    "kd": Method(kd_loss, {"temperature": 4.0}, weight=0.9, weight_ce=0.1),
    "kd-ls": Method(kd_loss, {"temperature": 2.0, "standardize": True}, weight=9.0, weight_ce=0.1),
    "dkd": Method(dkd_loss, warmup=20 / 240),
    "dist": Method(dist_loss, {"beta": 2.0, "gamma": 2.0, "temperature": 4.0}),
    "nkd": Method(nkd_loss),
    "ttm": Method(ttm_loss, {"weighted": False}, weight=45.0),
    "wttm": Method(ttm_loss, {"gamma": 0.2}, weight=4.0),
    "rld": Method(rld_loss, warmup=20 / 240),
    "sample": Method(mcld_loss, {"weight_instance": 0.0, "weight_category": 0.0, "weight_ce": 1.0}),
    "mcld": Method(mcld_loss),
    "mcld-ce": Method(mcld_loss, {"weight_ce": 1.0}),
}
"""Hinton et al. 2015; Sun et al. 2024; Zhao et al. 2022; Huang et al. 2022; Yang et al. 2023;
Zheng & Yang 2024; Sun et al. 2025. The weights are those of the authors' CIFAR-100 commands, NKD's
those of ImageNet (for CIFAR-100: gamma=3.5,temperature=3). WTTM's are from its use beside CRD, for
alone its authors name none; U makes it larger than TTM. "sample": CE + the sample-wise term."""


def settings_of(text: str) -> tuple[Method, dict[str, Any]]:
    """Return the method that a text names and all its settings.

    Raises:
        ValueError: an unknown method, or a setting that it does not have.
    """
    name, _, changes = text.partition(":")
    if name not in METHODS:
        raise ValueError(f"{text!r}: unknown method; known: {', '.join(METHODS)}")
    found = METHODS[name].settings()
    for change in filter(None, changes.split(",")):
        key, _, written = change.partition("=")
        if key not in found:
            names = ", ".join(f"{k}={v}" for k, v in found.items()) or "none"
            raise ValueError(f"{text!r}: {name} has the settings {names}")
        try:
            value = ast.literal_eval(written)
        except (ValueError, SyntaxError):
            value = written
        found[key] = float(value) if isinstance(found[key], float) else value
    return METHODS[name], found


def loss_of(text: str, **options: Any) -> Loss:
    """Return the loss that a text names.

    Args:
        text: the method and its settings.
        options: further keyword arguments of `mcld_loss` (``class_prior``); no other loss takes
            any.

    Raises:
        ValueError: as `settings_of`.
    """
    method, found = settings_of(text)
    if method.loss is mcld_loss:
        config = MCLDConfig(**found)

        def contrast(
            student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, progress: float
        ) -> torch.Tensor:
            return mcld_loss(student, teacher, labels, config=config, progress=progress, **options)

        return contrast
    weight, weight_ce, warmup = (found.pop(key, 1.0) for key in ("weight", "weight_ce", "warmup"))
    labelled = method.loss is not None and "labels" in inspect.signature(method.loss).parameters

    def loss(
        student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, progress: float
    ) -> torch.Tensor:
        total = weight_ce * cross_entropy(student, labels) if weight_ce else 0.0
        if method.loss is None:
            return total
        ramp = min(progress / warmup, 1.0) if warmup > 0 else 1.0
        given = (student, teacher, labels) if labelled else (student, teacher)
        return total + weight * ramp * method.loss(*given, **found)

    return loss
