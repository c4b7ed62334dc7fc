"""The student as its own teacher: averaged weights, generations, heads of one network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from mcld_core.arguments import Arguments, Checks, is_number, wide_dtype
from mcld_core.config import MCLDConfig, check_config
from mcld_core.extensions.teachers.arguments import TeacherArguments
from mcld_core.extensions.teachers.ensemble import ensemble
from mcld_core.formulas.objective import TermWeights, is_zero
from mcld_core.losses import Objective, evaluate, term_weights
from mcld_core.typing import Array, Bool, Float, Labels, Logits, Reduction, Scalar

Model = TypeVar("Model")


def ema_update(average: Any, value: Any, decay: Scalar) -> Any:
    """Return the moving average of weights: ``decay · average + (1 − decay) · value``.

    A teacher whose weights are those of the student averaged over the last steps, about
    ``1 / (1 − decay)`` of them, is steadier than the student and costs one addition a step.
    Pure: under JAX use it in the jitted step; ``EMATeacher`` of the PyTorch and Keras backends
    holds such a copy of a model.

    A half-precision average would stand still, for a step of ``1 − decay`` is below its rounding:
    its leaves come out as float32. Keep them so from step to step (``ema_update(params, params,
    0.0)`` is a start that has the final dtypes, as a ``scan`` needs), and cast where the teacher
    is called.

    Args:
        average: an array, or a dict, list or tuple of them, nested at will (a JAX parameter tree,
            a ``state_dict``). Leaves that are not floating take the value of ``value``; a None
            stays.
        value: the student's, of the same structure.
        decay: 0 … 1, a number or a traced array; `ema_decay` warms it up.

    Returns:
        The same structure, floating leaves as float32 (float64 stays), without a gradient.

    Raises:
        ValueError, TypeError: structures that differ, or a decay that is not one number in 0 … 1.

    Example:
        >>> import numpy as np
        >>> ema_update({"w": np.array([1.0])}, {"w": np.array([2.0])}, 0.75)
        {'w': array([1.25])}

    References:
        A. Tarvainen, H. Valpola, "Mean teachers are better role models", NeurIPS 2017.
    """
    Checks("ema_update").number("decay", decay, minimum=0.0, maximum=1.0)
    return _average(average, value, decay)


def _average(average: Any, value: Any, decay: Scalar) -> Any:
    """Return `ema_update` of a structure or one of its leaves."""
    if isinstance(average, Mapping):
        if not isinstance(value, Mapping) or set(average) != set(value):
            raise _different(average, value)
        updated = {key: _average(average[key], value[key], decay) for key in average}
        return updated if type(average) is dict else type(average)(updated)  # type: ignore[call-arg]
    if isinstance(average, (list, tuple)):
        if type(average) is not type(value) or len(average) != len(value):
            raise _different(average, value)
        entries = [_average(a, b, decay) for a, b in zip(average, value, strict=True)]
        return type(average)(*entries) if hasattr(average, "_fields") else type(average)(entries)
    if average is None or value is None:
        if average is not value:
            raise _different(average, value)
        return None
    arguments = Arguments("ema_update", average, value)
    ops = arguments.ops
    average, value = ops.asarray(average), ops.stop_gradient(ops.asarray(value, average))
    if tuple(average.shape) != tuple(value.shape):
        raise _different(average, value)
    dtype = ops.dtype(average)
    if "float" not in dtype:
        return value
    dtype = wide_dtype(dtype)
    if not is_number(decay):
        decay = arguments.scalar("decay", decay, average, dtype, maximum=1.0)
    average, value = ops.astype(average, dtype), ops.astype(value, dtype)
    return ops.stop_gradient(decay * average + (1.0 - decay) * value)


def ema_decay(step: Scalar, decay: float = 0.999) -> Any:
    """Return ``min(decay, (1 + step) / (10 + step))``: the first weights are forgotten soon.

    Args:
        step: updates done so far, ≥ 0: a number, or an array without axes of any int or float
            dtype (traced, or an optimizer's count of its steps).
        decay: the final decay, 0 … 1.

    Returns:
        A number of Python, or a float32 array (float64 for a float64 step) where the step is one.

    Raises:
        ValueError, TypeError: a step that is not one number ≥ 0, a decay outside 0 … 1.

    Example:
        >>> [round(ema_decay(step), 3) for step in (0, 90, 10**6)]
        [0.1, 0.91, 0.999]
    """
    arguments = Arguments("ema_decay", step)
    arguments.number("step", step, minimum=0.0)
    arguments.number("decay", decay, minimum=0.0, maximum=1.0)
    if is_number(step):
        return min(decay, (1.0 + step) / (10.0 + step))
    ops = arguments.ops
    given = ops.asarray(step)
    step = arguments.scalar("step", given, given, wide_dtype(ops.dtype(given)))
    return ops.minimum((1.0 + step) / (10.0 + step), decay)


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
        ValueError, TypeError: a count that is not an int ≥ 1, when the first student is asked for.

    Example:
        >>> list(generations(lambda teacher, number: (teacher or 0) + 10 + number, 3))
        [10, 21, 33]

    References:
        T. Furlanello et al., "Born Again Neural Networks", ICML 2018.
    """
    Checks("generations").integer("count", count, minimum=1)
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
    class_prior: Float[Array, " classes"] | None = None,
    progress: Scalar = 1.0,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Bool[Array, " batch"] | None = None,
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
    *early, last = heads
    dtype = wide_dtype(*(ops.dtype(head) for head in heads))
    of_last, of_heads = (
        arguments.scalar(name, weight, last, dtype)
        for name, weight in (("weight_last", weight_last), ("weight_heads", weight_heads))
    )

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


def _different(average: Any, value: Any) -> ValueError:
    return ValueError(
        "ema_update: average and value need the same structure and shapes; got "
        f"{_describe(average)} and {_describe(value)}"
    )


def _describe(x: Any) -> str:
    if x is None:
        return "None"
    if isinstance(x, Mapping):
        return f"a dict of {sorted(map(str, x))}"
    if isinstance(x, (list, tuple)):
        return f"a {type(x).__name__} of {len(x)}"
    return f"shape {tuple(getattr(x, 'shape', ()))}"
