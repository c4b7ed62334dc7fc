"""The losses that ``--method`` names: one table for every framework.

A student's loss is ``weight_ce · CE + weight · ramp · loss(student, teacher, …)``, where ``loss``
is a function of `mcld_core` and the ramp grows from 0 to 1 over the first part ``warmup`` of the
training. MCLD has its own ramp and its own ``weight_ce``: those of `MCLDConfig`.

``--loss KEY=VALUE …`` changes a setting of the chosen method: a keyword of its function, a field of
`MCLDConfig`, or one of weight, weight_ce and warmup.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from mcld_core import MCLDConfig, dkd_loss, kd_loss, mcld_loss
from mcld_core.backends import backend_for

from .files import DataError


def standardised_kd_loss(student: Any, teacher: Any, *, temperature: float) -> Any:
    """Return `kd_loss` of logits that are standardised a row: ``(z − mean z) / std z``."""
    return kd_loss(standardise(student), standardise(teacher), temperature=temperature)


def standardise(logits: Any) -> Any:
    """Return each row minus its mean, over its sample standard deviation (a constant row: 0)."""
    ops = backend_for("standardise", logits)
    logits = ops.astype(logits, "float64" if ops.dtype(logits) == "float64" else "float32")
    classes = logits.shape[1]
    centred = logits - ops.sum(logits, 1, keepdims=True) / classes
    variance = ops.sum(centred**2, 1, keepdims=True) / (classes - 1)
    return centred / (ops.sqrt(ops.maximum(variance, 1e-12)) + 1e-7)  # √ has no slope at 0


class Method(NamedTuple):
    """A function of `mcld_core` (None: the cross-entropy alone), its settings and its weights."""

    loss: Callable[..., Any] | None
    settings: Mapping[str, Any] = {}
    weight: float = 1.0
    weight_ce: float = 1.0
    warmup: float = 0.0
    labels: bool = False
    """Whether the function takes the labels as its third argument."""


MCLD = asdict(MCLDConfig())

METHODS = {
    "ce": Method(None),
    "kd": Method(kd_loss, {"temperature": 4.0}, weight=0.9, weight_ce=0.1),
    "kd-ls": Method(standardised_kd_loss, {"temperature": 2.0}, weight=9.0, weight_ce=0.1),
    "dkd": Method(
        dkd_loss, {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}, warmup=20 / 240, labels=True
    ),
    "mcld": Method(mcld_loss, MCLD),
    "mcld-ce": Method(mcld_loss, MCLD | {"weight_ce": 1.0}),
}
"""Hinton et al. 2015; Sun et al. 2024; Zhao et al. 2022; `mcld_core.mcld_loss`."""


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the chosen method: the table's, the data set's, then ``--loss``.

    Raises:
        DataError: a setting that the method does not have, or one of another kind.
    """
    method = METHODS[options.method]
    known = dict(method.settings)
    if method.loss not in (None, mcld_loss):
        known |= {"weight": method.weight, "weight_ce": method.weight_ce, "warmup": method.warmup}
    for text in options.loss:
        key, equals, written = text.partition("=")
        if not equals or key not in known:
            raise DataError(
                f"--loss {text}: {options.method} has the settings "
                f"{', '.join(f'{key}={value}' for key, value in known.items()) or 'none'}"
            )
        known[key] = _value(text, written, known[key])
    return known


def _value(text: str, written: str, default: Any) -> Any:
    try:
        value = ast.literal_eval(written)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(written.lower(), written)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(default, bool | float) and not isinstance(value, type(default)):
        raise DataError(f"--loss {text}: expected a {type(default).__name__}, such as {default}")
    return value


def mcld_config(options: argparse.Namespace) -> MCLDConfig | None:
    """Return the configuration of a method by MCLD; None for the other methods.

    Raises:
        DataError: as `settings`, and values that `MCLDConfig` refuses.
    """
    found = settings(options)
    if METHODS[options.method].loss is not mcld_loss:
        return None
    try:
        return MCLDConfig(**found)
    except (TypeError, ValueError) as error:
        raise DataError(f"--loss: {error}") from error


def baseline_loss(
    options: argparse.Namespace, cross_entropy: Callable[[Any, Any], Any]
) -> Callable[[Any, Any, Any, Any], Any]:
    """Return ``loss(student, teacher, labels, progress)`` of a method other than MCLD.

    Args:
        options: ``method`` and ``loss``.
        cross_entropy: ``cross_entropy(logits, labels)``, the framework's own, the mean over rows.

    Raises:
        DataError: as `settings`.
    """
    method, found = METHODS[options.method], settings(options)
    weight, weight_ce, warmup = (found.pop(key, 1.0) for key in ("weight", "weight_ce", "warmup"))

    def loss(student: Any, teacher: Any, labels: Any, progress: Any) -> Any:
        total = weight_ce * cross_entropy(student, labels)
        if method.loss is None:
            return total
        given = (student, teacher, labels) if method.labels else (student, teacher)
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
