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


def first_look(
    name: str, student: Any, teacher: Any, labels: Any, where: Any, config: MCLDConfig, level: int
) -> bool:
    """Warn of each doubt about a batch; return whether its values could be read without waiting.

    An adapter of this name does so until it was done once; ``level`` is the warning's stacklevel
    as the caller counts.
    """
    found = batch_warnings(student, teacher, labels, where, config)
    for text in found or ():
        warnings.warn(f"{name}: {text}", UserWarning, stacklevel=level + 1)
    return found is not None


def start(
    function: str,
    config: Any,
    class_prior: Any,
    balanced: Any,
    *,
    total_steps: Any = None,
    bank_size: Any = 0,
    class_means: Any = False,
    soft_labels: bool = False,
    classes: Any = None,
    like: Any = None,
) -> tuple[NDArray[Any] | None, TeacherBank | None, ClassMeans | None]:
    """Return the class prior in NumPy, and the bank and the class means before the first step.

    Raise for what is not of its kind or range, and for class means that the settings would not use.
    ``classes`` is the width of the logits, None if unknown; a new bank and means lie beside
    ``like``.
    """
    checks = Checks(function)
    checks.settings(config, MCLDConfig)
    checks.flag("class_means", class_means)
    if class_means and config.category_contrast != "prototypes":
        needs = 'class_means needs a config with category_contrast="prototypes"'
        raise checks.wrong(needs, repr(config.category_contrast))
    if total_steps is not None:
        checks.integer("total_steps", total_steps, minimum=1)
    bank: Any = bank_size
    if isinstance(bank, TeacherBank):
        width = int(bank.vectors.shape[1])
        if classes not in (None, width):
            needs = f"bank_size needs a bank of {classes} classes, as the logits have"
            raise checks.wrong(needs, width, "Map its rows: select_classes")
        classes = width
    else:
        size = checks.integer("bank_size", bank_size, minimum=0)
        if (size or class_means) and classes is None:
            cure = "Pass classes=, or give the student of Keras an Input"
            raise checks.wrong("a bank and class means need the number of classes", None, cure)
        bank = TeacherBank.empty(size, classes, like, soft_labels=soft_labels) if size else None
    means = ClassMeans.empty(classes, like) if class_means else None
    return checked_prior(function, class_prior, balanced), bank, means


def step_keys(
    rows: TeacherKeys,
    gathered: TeacherKeys | None,
    state: tuple[TeacherBank | None, ClassMeans | None],
    config: MCLDConfig,
    *,
    training: bool,
    bank_moves: bool,
    index: Any = None,
    order: Any = None,
) -> tuple[TeacherKeys | None, tuple[TeacherBank | None, ClassMeans | None]]:
    """Return the keys of a step, and the bank and the class means after it, None where they stay.

    ``rows`` are the batch's and ``gathered`` those of all ranks, if there are others; where they
    are the only keys there is nothing to add to them. In training the means, which are the
    prototypes, take the rows in first. If the bank moves, its oldest rows give way to these, which
    enter it in their ``order`` (None: as they stand).
    """
    bank, means = state
    if bank is None and means is None:
        return gathered, state
    keys = rows = rows if gathered is None else gathered
    moved, prototypes = None, None
    if means is not None:
        means = means.update(rows, config=config) if training else means
        prototypes = means.prototypes
    if bank is not None:
        keys = bank.keys(rows, index=index, ignore_index=config.ignore_index)
        if training and bank_moves:
            if order is not None:
                *given, index = (None if x is None else x[order] for x in (*rows[:3], index))
                rows = TeacherKeys(*given)
            moved = bank.push(rows, index=index, ignore_index=config.ignore_index)
    return keys._replace(prototypes=prototypes), (moved, means if training else None)
