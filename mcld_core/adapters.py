"""What the adapters of all frameworks have in common: state from step to step, and a first look."""

from __future__ import annotations

import warnings
from typing import Any

from numpy.typing import NDArray

from mcld_core.arguments.checks import Checks
from mcld_core.bank import TeacherBank
from mcld_core.config import MCLDConfig
from mcld_core.keys import ClassMeans, TeacherKeys
from mcld_core.logits import batch_warnings, checked_prior

SWAPPED = (
    "the student needs no gradient and the teacher does, as if the two were swapped. {} (or "
    "unfreeze the student)"
)
"""What is said where nothing of the student learns; to be filled with the cure."""


class FirstLook:
    """One look at the logits of the first training step, with a warning for each doubt.

    Args:
        name: of the adapter, with which its warnings begin.
    """

    def __init__(self, name: str) -> None:
        self.name, self.done = name, False

    def look(
        self,
        student: Any,
        teacher: Any,
        labels: Any,
        where: Any,
        config: MCLDConfig,
        *,
        stacklevel: int,
    ) -> None:
        """Look, unless this was done or the values cannot be read without waiting."""
        found = None if self.done else batch_warnings(student, teacher, labels, where, config)
        if found is None:
            return
        self.done = True
        learning = [getattr(x, "requires_grad", False) for x in (student, teacher)]  # of PyTorch
        if learning == [False, True]:
            found.append(SWAPPED.format("Pass the student's logits first, the teacher's second"))
        for text in found:
            warnings.warn(f"{self.name}: {text}", UserWarning, stacklevel=stacklevel + 1)


def step_keys(
    rows: TeacherKeys,
    bank: TeacherBank | None,
    means: ClassMeans | None,
    config: MCLDConfig,
    training: bool,
    bank_moves: bool = True,
    index: Any = None,
    order: Any = None,
) -> tuple[TeacherKeys, TeacherBank | None, ClassMeans | None]:
    """Return the keys of a step, and the bank and the class means after it.

    ``rows`` are the batch's, or those of all ranks. In training the means, which are the
    prototypes, take the rows in first. If the bank moves, its oldest rows give way to these, which
    enter it in their ``order`` (None: as they stand).
    """
    keys, prototypes = rows, None
    if means is not None:
        means = means.update(rows, config=config) if training else means
        prototypes = means.prototypes
    if bank is not None:
        keys = bank.keys(rows, index=index, ignore_index=config.ignore_index)
        if training and bank_moves:
            if order is not None:
                logits, labels, where, index = (
                    None if x is None else x[order] for x in (*rows[:3], index)
                )
                rows = TeacherKeys(logits, labels, where)
            bank = bank.push(rows, index=index, ignore_index=config.ignore_index)
    return keys._replace(prototypes=prototypes), bank, means


def adapter_settings(
    function: str,
    config: Any,
    class_prior: Any,
    balanced: Any,
    *,
    total_steps: Any = None,
    bank_size: Any = 0,
    class_means: Any = False,
) -> tuple[NDArray[Any] | None, int, TeacherBank | None]:
    """Return the class prior in NumPy, how many rows the bank has, and the bank that was given.

    Raise for what is not of its kind or range, and for class means that the settings would not use.
    """
    checks = Checks(function)
    checks.settings(config, MCLDConfig)
    checks.flag("class_means", class_means)
    if class_means and config.category_contrast != "prototypes":
        needs = 'class_means needs a config with category_contrast="prototypes"'
        raise checks.wrong(needs, repr(config.category_contrast))
    if total_steps is not None:
        checks.integer("total_steps", total_steps, minimum=1)
    whole = bank_size if isinstance(bank_size, TeacherBank) else None
    rows = int(bank_size.vectors.shape[0]) if whole else bank_size
    rows = checks.integer("bank_size", rows, minimum=0)
    return checked_prior(function, class_prior, balanced), rows, whole
