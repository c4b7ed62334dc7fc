"""What the adapters of all frameworks have in common: state from step to step, and a first look."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcld_core.arguments import Arguments, Checks, to_numpy
from mcld_core.backends import backend_for
from mcld_core.bank import TeacherBank
from mcld_core.config import MCLDConfig
from mcld_core.keys import ClassMeans, TeacherKeys
from mcld_core.logits import adjust_logits, findings, log_prior
from mcld_core.losses import mcld_loss


def first_look(
    name: str, student: Any, teacher: Any, labels: Any, where: Any, config: MCLDConfig, level: int
) -> bool:
    """Warn of what looks wrong about a batch that a loss has taken; return whether it could look.

    Logits that are not finite, and rows that look like probabilities, each with its cure; what
    stands in dropped rows does not count. The values are not read where that would wait, of a
    teacher that is traced or on an accelerator: the adapter of this ``name`` then tries again. (A
    student that is traced alone, as by ``jax.grad``, is left out.) ``level`` is the warning's
    stacklevel as the caller counts.
    """
    ops = backend_for(name, student, teacher, labels, where)

    def readable(x: Any) -> NDArray[Any] | None:
        if x is None:
            return None
        return ops.host_values(x) if ops.is_tensor(x) else np.asarray(x)

    student, teacher, labels, kept = map(readable, (student, teacher, labels, where))
    if teacher is None:
        return False
    if labels is not None and labels.ndim == 1:
        named = labels != config.ignore_index
        kept = named if kept is None else kept & named
    sides = {"student_logits": student, "teacher_logits": teacher}
    for _, text in findings(sides, labels, kept, config.compares_distributions):
        warnings.warn(f"{name}: {text}", UserWarning, stacklevel=level + 1)
    return True


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
    checks.flag("balanced", balanced)
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
    if class_prior is None:
        if balanced:
            cure = "Pass the counts of the training labels"
            raise checks.wrong("balanced=True needs class_prior", None, cure)
        return None, bank, means
    prior = to_numpy(class_prior).astype("float64")
    log_prior(Arguments(function), prior, prior[None], "float64")  # for its checks
    return prior.astype("float32"), bank, means


def loss_of_step(
    adapter: Any,
    rows: tuple[Any, Any, Any, Any, Any],
    gathered: TeacherKeys | None = None,
    state: tuple[TeacherBank | None, ClassMeans | None] = (None, None),
    *,
    training: bool = False,
    index: Any = None,
    order: Any = None,
    **settings: Any,
) -> tuple[Any, tuple[TeacherBank | None, ClassMeans | None]]:
    """Return `mcld_loss` of a step, and bank and class means after it, None where they stay.

    ``rows`` are student, teacher, labels, sample weight and ``where``, and ``gathered`` the keys of
    all ranks, if there are others. In training the means, which are the prototypes, take the rows
    in first. If the adapter's bank moves, its oldest rows give way to these, which enter it in
    their ``order`` (None: as they stand).
    """
    student, teacher, labels, sample_weight, where = rows
    config, (bank, means) = adapter.config, state
    own = TeacherKeys(teacher, labels, where) if gathered is None else gathered
    keys, moved = gathered, None
    if means is not None:
        means = means.update(own, config=config) if training else means
        keys = own = own._replace(prototypes=means.prototypes)
    if bank is not None:
        keys = bank.keys(own, index=index, ignore_index=config.ignore_index)
        if training and adapter.bank_moves:
            if order is not None:
                *given, index = (None if x is None else x[order] for x in (*own[:3], index))
                own = TeacherKeys(*given)
            moved = bank.push(own, index=index, ignore_index=config.ignore_index)
    loss = mcld_loss(
        adjust_logits(student, adapter.class_prior) if adapter.balanced else student,
        teacher,
        labels,
        config=config,
        keys=keys,
        class_prior=adapter.class_prior,
        sample_weight=sample_weight,
        where=where,
        **settings,
    )
    return loss, (moved, means if training else None)
