"""The losses that ``--method`` names, and their settings: one table for every framework.

A student's loss is ``weight_ce · CE + weight · ramp · loss(student, teacher, …)``, where ``loss``
is a function of `mcld_core` and the ramp grows from 0 to 1 over the first part ``warmup`` of the
training. MCLD has its own ramp and its own ``weight_ce``: those of `MCLDConfig`.

``--loss KEY=VALUE …`` changes a setting of the chosen method: a keyword of its function, a field of
`MCLDConfig`, or one of weight, weight_ce and warmup. Without it MCLD does not read this module.
"""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from mcld_core import (
    MCLDConfig,
    adjust_logits,
    dist_loss,
    dkd_loss,
    kd_loss,
    mcld_loss,
    nkd_loss,
    rld_loss,
    ttm_loss,
)
from mcld_core.backends import backend_for

from .files import DataError
from .options import MCLD


class Method(NamedTuple):
    """A function of `mcld_core` (None: the cross-entropy alone), changed defaults, and weights."""

    loss: Callable[..., Any] | None
    changes: Mapping[str, Any] = {}
    weight: float = 1.0
    weight_ce: float = 1.0
    warmup: float = 0.0

    def settings(self) -> dict[str, Any]:
        """Return what ``--loss`` may change, with its defaults."""
        if self.loss is None:
            return {}
        if self.loss is mcld_loss:
            return asdict(MCLDConfig()) | dict(self.changes)
        parameters = inspect.signature(self.loss).parameters.values()
        own = {item.name: item.default for item in parameters if item.kind == item.KEYWORD_ONLY}
        common = ("sample_weight", "where", "reduction")
        weights = {"weight": self.weight, "weight_ce": self.weight_ce, "warmup": self.warmup}
        own = {name: value for name, value in own.items() if name not in common}
        return own | dict(self.changes) | weights

    def takes_labels(self) -> bool:
        """Whether the function has labels as its third argument."""
        return self.loss is not None and "labels" in inspect.signature(self.loss).parameters


METHODS = {
    "ce": Method(None),
    "kd": Method(kd_loss, {"temperature": 4.0}, weight=0.9, weight_ce=0.1),
    "kd-ls": Method(kd_loss, {"temperature": 2.0, "standardize": True}, weight=9.0, weight_ce=0.1),
    "kd-reverse": Method(kd_loss, {"temperature": 1.0, "divergence": "reverse"}, weight_ce=0.0),
    "kd-jsd": Method(kd_loss, {"temperature": 1.0, "divergence": "jsd"}, weight_ce=0.0),
    "dkd": Method(dkd_loss, warmup=20 / 240),
    "dist": Method(dist_loss, {"beta": 2.0, "gamma": 2.0, "temperature": 4.0}),
    "nkd": Method(nkd_loss),
    "ttm": Method(ttm_loss, {"weighted": False}, weight=45.0),
    "wttm": Method(ttm_loss, {"gamma": 0.2}, weight=4.0),
    "rld": Method(rld_loss, warmup=20 / 240),
    **{name: Method(mcld_loss, changes) for name, changes in MCLD.items()},
}
"""Hinton et al. 2015; Sun et al. 2024; Agarwal et al. 2024; Zhao et al. 2022; Huang et al. 2022;
Yang et al. 2023; Zheng & Yang 2024; Sun et al. 2025. The weights are
those of the authors' CIFAR-100 commands, NKD's those of ImageNet (for CIFAR-100: gamma=3.5
temperature=3). WTTM's are from its use beside CRD, for alone its authors name none; U makes it
larger than TTM."""


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the chosen method: the table's, the data set's, then ``--loss``.

    Raises:
        DataError: a setting that the method does not have, or one of another kind.
    """
    known = METHODS[options.method].settings()
    for text in options.loss:
        key, equals, written = text.partition("=")
        if not equals or key not in known:
            names = ", ".join(f"{key}={value}" for key, value in known.items()) or "none"
            raise DataError(f"--loss {text}: {options.method} has the settings {names}")
        known[key] = _value(text, written, known[key])
    return known


def _value(text: str, written: str, default: Any) -> Any:
    try:
        value = ast.literal_eval(written)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(written.lower(), written)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if isinstance(default, bool | float) and not isinstance(value, type(default)):
        raise DataError(f"--loss {text}: expected a {type(default).__name__}, such as {default}")
    return value


def baseline_loss(
    options: argparse.Namespace, cross_entropy: Callable[[Any, Any], Any], prior: Any = None
) -> Callable[[Any, Any, Any, Any], Any]:
    """Return ``loss(student, teacher, labels, progress)`` of a method other than MCLD.

    Args:
        options: ``method`` and ``loss``.
        cross_entropy: ``cross_entropy(logits, labels)``, the framework's own, the mean over rows.
        prior: of `options.label_counts`, for ``--balanced``.

    Raises:
        DataError: as `settings`.
    """
    method, found = METHODS[options.method], settings(options)
    weight, weight_ce, warmup = (found.pop(key, 1.0) for key in ("weight", "weight_ce", "warmup"))

    def loss(student: Any, teacher: Any, labels: Any, progress: Any) -> Any:
        student = adjust_logits(student, prior) if options.balanced else student
        total = weight_ce * cross_entropy(student, labels)
        if method.loss is None:
            return total
        given = (student, teacher, labels) if method.takes_labels() else (student, teacher)
        return total + weight * ramp(progress, warmup) * method.loss(*given, **found)

    return loss


def ramp(progress: Any, warmup: float) -> Any:
    """Return min(progress / warm-up, 1), and 1 without a warm-up."""
    if warmup <= 0:
        return 1.0
    part = progress / warmup
    return (
        min(part, 1.0) if isinstance(part, float) else backend_for("ramp", part).minimum(part, 1.0)
    )
