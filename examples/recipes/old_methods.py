"""The losses that are compared, written once for every framework.

| method | loss |
|---|---|
| ``ce`` | cross-entropy, no teacher |
| ``kd`` | ``kd_weight_ce · CE + kd_weight · KD(T)`` (Hinton et al. 2015) |
| ``kd-ls`` | the same on standardised logits, ``(z − mean z) / std z`` (Sun et al. 2024) |
| ``dkd`` | ``dkd_weight_ce · CE + warm-up · dkd_weight · DKD(α, β, T)`` (Zhao et al. 2022) |
| ``mcld`` | `mcld_core.mcld_loss`, no cross-entropy unless ``--mcld-weight-ce`` says so |
| ``mcld-ce`` | the same with ``weight_ce`` 1 where it was 0 |
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from typing import Any

from mcld_core import MCLDConfig, dkd_loss, kd_loss, mcld_loss
from mcld_core.backends import backend_for

METHODS = ("ce", "kd", "kd-ls", "dkd", "mcld", "mcld-ce")


CrossEntropy = Callable[[Any, Any], Any]
"""``cross_entropy(logits, labels)``, the framework's own: the mean over the rows."""


def standardise(logits: Any) -> Any:
    """Return each row minus its mean, over its sample standard deviation (a constant row: 0)."""
    ops = backend_for("standardise", logits)
    logits = ops.astype(logits, "float64" if ops.dtype(logits) == "float64" else "float32")
    classes = logits.shape[1]
    centred = logits - ops.sum(logits, 1, keepdims=True) / classes
    variance = ops.sum(centred**2, 1, keepdims=True) / (classes - 1)
    return centred / (ops.sqrt(ops.maximum(variance, 1e-12)) + 1e-7)  # √ has no slope at 0


def ramp(progress: Any, warmup: float) -> Any:
    """Return min(progress / warm-up, 1), and 1 without a warm-up."""
    if warmup <= 0:
        return 1.0
    part = progress / warmup
    if isinstance(part, float):
        return min(part, 1.0)
    return backend_for("ramp", part).minimum(part, 1.0)


def add_method_options(parser: argparse.ArgumentParser) -> None:
    """Add the weights and temperatures of KD and DKD, and every field of `MCLDConfig`."""
    add = parser.add_argument_group("baselines").add_argument
    add("--kd-temperature", type=float, default=4.0)
    add("--kd-weight", type=float, default=0.9)
    add("--kd-weight-ce", type=float, default=0.1)
    add("--kd-ls-temperature", type=float, default=2.0)
    add("--kd-ls-weight", type=float, default=9.0)
    add("--kd-ls-weight-ce", type=float, default=0.1)
    add("--dkd-temperature", type=float, default=4.0)
    add("--dkd-alpha", type=float, default=1.0)
    add("--dkd-beta", type=float, default=8.0)
    add("--dkd-weight", type=float, default=1.0)
    add("--dkd-weight-ce", type=float, default=1.0)
    add(
        "--dkd-warmup",
        type=float,
        default=20 / 240,
        help="part of the training over which the DKD term grows to its weight",
    )
    add = parser.add_argument_group("MCLD", "the fields of mcld_core.MCLDConfig").add_argument
    add(
        "--bank-size",
        type=_bank_size,
        default=0,
        help="teacher rows of earlier batches to contrast with as well, or all: the training set",
    )
    for field in fields(MCLDConfig):
        assert field.default is not MISSING, field.name
        kind: dict[str, Any] = {
            "type": _block_size
            if field.name == "block_size"
            else float
            if field.name == "temperature"
            else type(field.default)
        }
        if isinstance(field.default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        add(f"--mcld-{field.name.replace('_', '-')}", default=field.default, **kind)


def _bank_size(text: str) -> int | str:
    if text == "all":
        return text
    if int(text) < 0:
        raise argparse.ArgumentTypeError("expected a number of rows ≥ 0, or all")
    return int(text)


def _block_size(text: str) -> int | str | None:
    return None if text == "none" else text if text == "auto" else int(text)


def mcld_config(options: argparse.Namespace, method: str = "mcld") -> MCLDConfig:
    """Return the configuration that the ``--mcld-…`` options describe."""
    config = MCLDConfig(
        **{field.name: getattr(options, f"mcld_{field.name}") for field in fields(MCLDConfig)}
    )
    if method == "mcld-ce" and config.weight_ce == 0:
        config = replace(config, weight_ce=1.0)
    return config


def method_loss(
    method: str, options: argparse.Namespace, cross_entropy: CrossEntropy
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Return ``loss(student, teacher, labels, progress, keys=None) -> (loss, terms)``.

    ``terms`` are the unweighted parts, for the curves. ``teacher`` is None for ``ce``.
    """
    if method in ("mcld", "mcld-ce"):
        config = mcld_config(options, method)

        def mcld(student: Any, teacher: Any, labels: Any, progress: Any, keys: Any = None) -> Any:
            return mcld_loss(
                student,
                teacher,
                labels,
                config=config,
                keys=keys,
                progress=progress,
                return_terms=True,
            )

        return mcld

    def baseline(student: Any, teacher: Any, labels: Any, progress: Any, keys: Any = None) -> Any:
        ce = cross_entropy(student, labels)
        if method == "ce":
            return ce, {"ce": ce}
        if method == "dkd":
            dkd = dkd_loss(
                student,
                teacher,
                labels,
                alpha=options.dkd_alpha,
                beta=options.dkd_beta,
                temperature=options.dkd_temperature,
            )
            weight = options.dkd_weight * ramp(progress, options.dkd_warmup)
            return options.dkd_weight_ce * ce + weight * dkd, {"ce": ce, "dkd": dkd}
        if method == "kd":
            kd = kd_loss(student, teacher, temperature=options.kd_temperature)
            return options.kd_weight_ce * ce + options.kd_weight * kd, {"ce": ce, "kd": kd}
        kd = kd_loss(
            standardise(student),
            standardise(teacher),
            temperature=options.kd_ls_temperature,
        )
        return options.kd_ls_weight_ce * ce + options.kd_ls_weight * kd, {"ce": ce, "kd": kd}

    return baseline
