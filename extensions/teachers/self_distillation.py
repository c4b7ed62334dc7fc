"""The student as its own teacher: averaged weights, generations, heads of one network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from mcld_core.config import MCLDConfig
from mcld_core.extensions.teachers.ensemble import ensemble
from mcld_core.losses import mcld_loss
from mcld_core.typing import Array, Bool, Float, Labels, Logits, Reduction, Scalar

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
        ValueError: a count below 1, when the first student is asked for.

    Example:
        >>> list(generations(lambda teacher, number: (teacher or 0) + 10 + number, 3))
        [10, 21, 33]

    References:
        T. Furlanello et al., "Born Again Neural Networks", ICML 2018.
    """
    if not count >= 1:
        raise ValueError(f"generations: count needs a number ≥ 1; got {count!r}")
    for generation in range(count):
        teacher = train(teacher, generation)
        yield teacher


def deep_supervision_loss(
    heads: Sequence[Logits],
    labels: Labels,
    *,
    config: MCLDConfig = MCLDConfig(weight_ce=1.0),  # noqa: B008  (frozen)
    weight_last: Scalar = 1.0,
    weight_heads: Scalar = 1.0,
    progress: Scalar = 1.0,
    sample_weight: Float[Array, "batch"] | None = None,  # noqa: F821
    where: Bool[Array, "batch"] | None = None,  # noqa: F821
    reduction: Reduction = "mean",
) -> Any:
    """Distil between the heads of one network: no other teacher, one training.

    With heads h = 1 … H, the last being the one that is kept, and ``MCLD(s; t)``:
    ``w_last MCLD(z_H; ensemble(z_1 … z_{H-1})) + w_heads mean_h<H MCLD(z_h; z_H)``. No gradient
    passes through a head as teacher. Early in a training every head is a poor teacher, hence the
    cross-entropy in the default settings.

    Args:
        heads: two or more (batch, classes) arrays, the last head last.
        labels: (batch,) int, or (batch, classes) soft.
        config: the settings of each distillation.
        weight_last: weight of the last head's loss; a Python 0 skips it.
        weight_heads: weight of the other heads' mean loss; a Python 0 skips it.
        progress, sample_weight, where, reduction: as in `mcld_core.mcld_loss`.

    Returns:
        The loss, float32 (float64 for float64 heads).

    Raises:
        ValueError, TypeError: fewer than two heads, or what does not fit.

    Example:
        >>> import numpy as np
        >>> heads = [np.eye(2), 2 * np.eye(2), 4 * np.eye(2)]
        >>> round(float(deep_supervision_loss(heads, np.arange(2))), 4)
        1.2283

    References:
        L. Zhang et al., "Be Your Own Teacher", ICCV 2019.
    """
    if len(heads) < 2:
        raise ValueError(
            f"deep_supervision_loss: heads needs two or more heads, the last one last; got "
            f"{len(heads)}"
        )
    *early, last = heads

    def distil(student: Array, teacher: Array) -> Any:
        return mcld_loss(
            student, teacher, labels, config=config, progress=progress,
            sample_weight=sample_weight, where=where, reduction=reduction,
        )  # fmt: skip

    total: Any = 0.0
    if not (isinstance(weight_last, (int, float)) and weight_last == 0):
        masks = None if where is None else [where] * len(early)
        total = total + weight_last * distil(last, ensemble(early, where=masks))
    if not (isinstance(weight_heads, (int, float)) and weight_heads == 0):
        for head in early:
            total = total + weight_heads / len(early) * distil(head, last)
    return total
