"""The student as its own teacher: averaged weights, generations, heads of one network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from mcld_core.arguments import Checks, wide_dtype
from mcld_core.config import MCLDConfig, check_config
from mcld_core.extensions.teachers.arguments import TeacherArguments
from mcld_core.extensions.teachers.ensemble import ensemble
from mcld_core.formulas.objective import TermWeights, is_zero
from mcld_core.losses import Objective, evaluate, term_weights
from mcld_core.typing import Array, Bool, Float, Labels, Reduction, Scalar, Tensor

Model = TypeVar("Model")


def generations(
    train: Callable[[Model | None, int], Model], count: int, teacher: Model | None = None
) -> Iterator[Model]:
    """Yield students that each learn from the one before (born-again networks).

    ``train(teacher, generation)`` returns a trained student of the same size; generation 0 has
    the given teacher, or None. The students together make an `ensemble`.

    Args:
        train: trains one student, from its teacher or without.
        count: how many generations.
        teacher: of the first generation.

    Yields:
        The students, ``count`` of them, each when its training is done.

    Raises:
        ValueError, TypeError: a count that is not an int ≥ 1 or a train that is not a function,
            when the first student is asked for.

    Example:
        >>> list(generations(lambda teacher, number: (teacher or 0) + 10 + number, 3))
        [10, 21, 33]

    References:
        T. Furlanello et al., "Born Again Neural Networks", ICML 2018.
    """
    Checks("generations").integer("count", count, minimum=1)
    if not callable(train):
        raise TypeError(f"generations: train needs a function; got {type(train).__name__}")
    for generation in range(count):
        teacher = train(teacher, generation)
        yield teacher


def deep_supervision_loss(
    heads: Sequence[Float[Tensor, "batch classes"]],
    labels: Labels,
    *,
    config: MCLDConfig = MCLDConfig(weight_ce=1.0),  # noqa: B008  (frozen)
    weight_last: Scalar = 1.0,
    weight_heads: Scalar = 1.0,
    class_prior: Float[Array, " classes"] | None = None,
    progress: Scalar = 1.0,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Bool[Array, " batch"] | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Distil between the heads of one network: no other teacher, one training.

    ``w_last MCLD(z_H; ensemble(z_1 … z_{H-1})) + w_heads mean_h<H MCLD(z_h; z_H)``, where z_H are
    the logits of the head that is kept, and ``MCLD(s; t)`` is `mcld_core.mcld_loss` of student s
    and teacher t. A head gets no gradient from where it is the teacher. Early in a training every
    head is a poor teacher: hence the cross-entropy in the default settings.

    Args:
        heads: two or more (batch, classes) arrays, the last head last.
        labels: (batch,) int, or (batch, classes) soft.
        config: the settings of each distillation.
        weight_last: weight of the last head's loss; a Python 0 skips it.
        weight_heads: weight of the other heads' mean loss; a Python 0 skips it.
        class_prior, progress, sample_weight, where, reduction: as in `mcld_core.mcld_loss`.

    Returns:
        The loss, float32 (float64 if one of the heads is).

    Raises:
        ValueError, TypeError: fewer than two heads, labels that are None, a weight that is not one
            number ≥ 0, or what does not fit.

    Example:
        >>> import numpy as np
        >>> heads = [np.eye(2), 2 * np.eye(2), 4 * np.eye(2)]
        >>> round(float(deep_supervision_loss(heads, np.arange(2))), 4)
        1.2283

    References:
        L. Zhang et al., "Be Your Own Teacher", ICCV 2019.
    """
    function = "deep_supervision_loss"
    check_config(function, config)
    if len(TeacherArguments(function).entries("heads", heads)) < 2:
        raise ValueError(
            f"{function}: heads needs two or more, the last head last; got {len(heads)}"
        )
    arguments = TeacherArguments(function, *heads, labels, sample_weight, where)
    arguments.required_labels(labels)
    ops = arguments.ops
    heads = [arguments.array(f"heads[{h}]", x, arguments.like) for h, x in enumerate(heads)]
    for h, head in enumerate(heads):
        arguments.logits(f"heads[{h}]", head)
    arguments.same_shape("heads", heads)
    arguments.mask("where", where, heads[-1], "heads[-1]")
    *early, last = heads
    dtype = wide_dtype(*(ops.dtype(head) for head in heads))
    of_last = arguments.scalar("weight_last", weight_last, last, dtype)
    of_heads = arguments.scalar("weight_heads", weight_heads, last, dtype)

    def distil(student: Array, teacher: Array, weights: TermWeights) -> Any:
        objective = Objective(config, weights, None, class_prior, progress)
        rows = (student, teacher, labels, sample_weight, where)
        return ops.astype(evaluate(function, rows, objective, reduction), dtype)

    weights = term_weights(config)
    if is_zero(weight_last) and is_zero(weight_heads):
        return distil(last, last, TermWeights())
    total: Any = 0.0
    if not is_zero(weight_last):
        masks = None if where is None else [where] * len(early)
        total = total + of_last * distil(last, ensemble(early, where=masks), weights)
    if not is_zero(weight_heads):
        for head in early:
            total = total + of_heads / len(early) * distil(head, last, weights)
    return total
