"""The settings of a call, checked: numbers, choices, flags."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

REDUCTIONS = ("mean", "sum", "none")


class Checks:
    """The settings of one call; its errors name the function."""

    def __init__(self, function: str) -> None:
        self.function = function

    def wrong(self, needs: str, came: object, cure: str = "") -> ValueError:
        """Return the error of an argument: what it needs, what came, and what to do."""
        return ValueError(f"{self.function}: {needs}; got {came}{cure and '. '}{cure}")

    def wrong_type(self, needs: str, came: object, cure: str = "") -> TypeError:
        """Return the same for a value of another type."""
        return TypeError(*self.wrong(needs, came, cure).args)

    def number(
        self,
        name: str,
        value: Any,
        *,
        minimum: float | None = None,
        above: float | None = None,
        maximum: float | None = None,
    ) -> None:
        """Raise for a number out of its range or not finite, and for what is not one number.

        An array without axes passes: it may be traced. `Arguments.scalar` reads it where it can.
        """
        value = plain_number(value)
        bound = range_text(minimum, above, maximum)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            low = value >= minimum if minimum is not None else above is None or value > above
            high = maximum is None or value <= maximum
            # math.isfinite would make a compiler trace each number anew
            if not (-math.inf < value < math.inf and low and high) or is_huge(value):
                raise self.wrong(f"{name} needs a finite number{bound}", repr(value))
        elif not (hasattr(value, "shape") and hasattr(value, "dtype")):
            raise self.wrong_type(f"{name} needs a finite number{bound}", repr(value))
        elif len(value.shape) > 0:
            raise self.wrong(f"{name} needs one number", f"shape {tuple(value.shape)}")
        elif "complex" in str(value.dtype) or "bool" in str(value.dtype):
            raise self.wrong_type(f"{name} needs a real number{bound}", f"dtype {value.dtype}")

    def choice(self, name: str, value: Any, choices: tuple[str, ...]) -> None:
        """Raise ValueError for a name that is none of the choices."""
        if not isinstance(value, str) or value not in choices:
            raise self.wrong(f"{name} needs one of {', '.join(choices)}", repr(value))

    def flag(self, name: str, value: Any) -> None:
        """Raise TypeError unless the value is a bool."""
        if not isinstance(value, bool):
            raise self.wrong_type(f"{name} needs True or False", repr(value))

    def integer(
        self, name: str, value: Any, *, minimum: int | None = None, maximum: int | None = None
    ) -> int:
        """Return an int; raise TypeError for anything else, ValueError out of its range."""
        value = plain_number(value)
        bound = "" if minimum is None else f" ≥ {minimum}"
        bound = bound if maximum is None else f" in {minimum} … {maximum}"
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong_type(f"{name} needs an int{bound}", repr(value))
        too_small = minimum is not None and value < minimum
        if too_small or is_huge(value) or (maximum is not None and value > maximum):
            raise self.wrong(f"{name} needs an int{bound}", repr(value))
        return value

    def settings(self, config: Any, kind: type) -> None:
        """Raise TypeError unless the settings are of their kind, `MCLDConfig`."""
        if not isinstance(config, kind):
            came = f"the class {config.__name__}" if isinstance(config, type) else repr(config)
            cure = f"Pass {kind.__name__}(…), or leave it out for the defaults"
            raise self.wrong_type(f"config needs an {kind.__name__}", came, cure)

    def reduction(self, reduction: Any) -> None:
        """Raise ValueError unless the reduction is one of the three."""
        self.choice("reduction", reduction, REDUCTIONS)

    def trainer(self, trainer: Any, loss: str) -> None:
        """Keep a ``transformers.Trainer``'s labels; raise for settings that our loss ignores."""
        names = trainer.label_names = trainer.args.label_names or ["labels"]
        for name, came, needed in (
            ("compute_loss_func", trainer.compute_loss_func, "None"),
            ("label_smoothing_factor", trainer.args.label_smoothing_factor, "0"),
            ("label_names", "labels" not in names and names, "'labels'"),
        ):
            if came:
                raise self.wrong(f"{name} needs {needed}", repr(came), f"The loss is {loss}")


def range_text(minimum: float | None, above: float | None, maximum: float | None) -> str:
    """Return the range of a number, as its errors say it."""
    if maximum is not None and minimum is not None:
        return f" in {minimum:g} … {maximum:g}"
    bound = "" if above is None else f" > {above:g}"
    bound = bound if minimum is None else f" ≥ {minimum:g}"
    return bound if maximum is None else f"{bound} and ≤ {maximum:g}"


def plain_number(value: Any) -> Any:
    """Return a number of NumPy, or an array of one without axes, as Python's; all else as it is."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value


def is_huge(value: float) -> bool:
    """Whether an int has more than the 64 bits that an array can hold."""
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def is_plain(value: Any, number: float) -> bool:
    """Whether a value is this number of Python, so that what it makes useless can be left out."""
    return is_number(value) and bool(value == number)


def is_number(value: Any) -> bool:
    """Whether a value is a number of Python (or NumPy's float64, which is one)."""
    return isinstance(value, (int, float))
