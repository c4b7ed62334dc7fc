"""The settings of the objective."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mcld_core.formulas.similarity import SIMILARITIES
from mcld_core.typing import Scalar

CATEGORY_CONTRASTS = ("labels", "prototypes", "columns")


@dataclass(frozen=True)
class MCLDConfig:
    """The settings of the objective. Frozen and hashable: under ``jax.jit`` it is static.

    Numbers of NumPy become Python's.

    Args:
        weight_instance: weight of the instance-wise term; a weight of 0 skips its term.
        weight_sample: weight of the sample-wise term.
        weight_category: weight of the category-wise term, before the ramp.
        weight_ce: weight of the cross-entropy with the labels (off by default).
        similarity: ``"probability"`` (raw student logits against teacher probabilities),
            ``"pearson"``, ``"cosine"`` or ``"dot"``.
        temperature: τ of the similarity; None: 1, 0.1, 0.1 and the number of classes.
        key_temperature: temperature of the teacher's probabilities as keys.
        sample_temperature: T of the sample-wise term (its rows carry T²).
        target_mask: leave same-label keys out of the instance-wise negatives.
        sample_target_mask: split the label's entry off in the sample-wise term.
        beta: weight of the non-target part of the sample-wise term.
        category_contrast: ``"labels"``, ``"prototypes"`` or ``"columns"``.
        category_warmup: the part of the training over which the category-wise term comes in
            (above 1: it is not all in at the end).
        ignore_index: rows with this int label are dropped.
        block_size: anchor rows evaluated at once where the gradient is formed in the forward
            pass; ``"auto"`` chooses, None takes all rows and lets the framework differentiate.
            Only the student's logits get a gradient unless it is None: a weight or temperature
            that is itself trained needs ``block_size=None`` (PyTorch's are refused otherwise).

    Raises:
        ValueError: a value out of its range or not finite (checked where it is a Python number).
        TypeError: None (but for ``temperature``), a text or a list where a number belongs.
    """

    weight_instance: Scalar = 1.0
    weight_sample: Scalar = 0.25
    weight_category: Scalar = 1.0
    weight_ce: Scalar = 0.0
    similarity: str = "probability"
    temperature: Scalar | None = None
    key_temperature: Scalar = 1.0
    sample_temperature: Scalar = 4.0
    target_mask: bool = True
    sample_target_mask: bool = True
    beta: Scalar = 1.0
    category_contrast: str = "labels"
    category_warmup: Scalar = 1.0
    ignore_index: int = -100
    block_size: int | str | None = "auto"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if plain_number(value) is not value:
                object.__setattr__(self, field.name, plain_number(value))
        weights = ("weight_instance", "weight_sample", "weight_category", "weight_ce")
        for name in (*weights, "beta", "category_warmup"):
            check_number("MCLDConfig", name, getattr(self, name), minimum=0.0)
        for name in ("temperature", "key_temperature", "sample_temperature"):
            if name != "temperature" or self.temperature is not None:
                check_number("MCLDConfig", name, getattr(self, name), above=0.0)
        check_choice("MCLDConfig", "similarity", self.similarity, SIMILARITIES)
        check_choice("MCLDConfig", "category_contrast", self.category_contrast, CATEGORY_CONTRASTS)
        size = self.block_size
        if size != "auto" and size is not None and not (isinstance(size, int) and size > 0):
            raise ValueError(
                f"MCLDConfig: block_size needs 'auto', None or an int > 0; got {size!r}"
            )


def plain_number(value: Any) -> Any:
    """Return a number of NumPy, or an array of one without axes, as Python's; all else as it is."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value


def check_number(
    function: str,
    name: str,
    value: Scalar,
    minimum: float | None = None,
    above: float | None = None,
) -> None:
    """Raise for a number out of its range or not finite, and for what is no number."""
    value = plain_number(value)
    bound = "" if above is None else f" > {above:g}"
    bound = bound if minimum is None else f" ≥ {minimum:g}"
    if value is None or isinstance(value, (str, bytes, list, tuple, dict)):
        raise TypeError(f"{function}: {name} needs a finite number{bound}; got {value!r}")
    if not isinstance(value, (int, float)):
        return  # an array, which may be traced
    in_range = value >= minimum if minimum is not None else above is None or value > above
    is_finite = -math.inf < value < math.inf  # isfinite makes a compiler trace each number anew
    if not (is_finite and in_range):
        raise ValueError(f"{function}: {name} needs a finite number{bound}; got {value!r}")


def check_choice(function: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError for a name that is none of the choices."""
    if value not in choices:
        raise ValueError(f"{function}: {name} needs one of {', '.join(choices)}; got {value!r}")
