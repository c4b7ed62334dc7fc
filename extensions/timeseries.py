"""Time series: the three contrasts on windows, and forecasts as distributions over bins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mcld_core import MCLDConfig
from mcld_core.arguments import Arguments, Checks, both_kept, fits, is_number, to_numpy
from mcld_core.backends import Backend
from mcld_core.extensions._sequences import (
    SequenceArguments,
    contrast_apart,
    contrast_sequences,
    reduce_terms,
    sequence_of_row,
)
from mcld_core.typing import Array, Bool, Float, Int, Labels, Num, Reduction, Scalar


class Windows(NamedTuple):
    """Windows cut from longer series, with what `window_mcld_loss` needs to know of them."""

    values: Float[Array, "batch time channels"]
    """Zeros where a window reaches beyond the end of its series."""
    mask: Bool[Array, "batch time"]
    starts: Int[Array, " batch"]
    lengths: Int[Array, " batch"]
    """Steps within the series."""
    series: Int[Array, " batch"]
    """The place of the window's series in the list."""


def cut_windows(
    series: Sequence[Float[Array, "time channels"]], length: int, stride: int | None = None
) -> Windows:
    """Cut series of any lengths into windows of one length, in NumPy.

    Windows start every ``stride`` steps until the series is covered: the last one may be padded,
    and a series shorter than ``length`` is one padded window.

    Args:
        series: arrays (time,) or (time, channels), at least one step each.
        length: steps a window.
        stride: steps between starts; None: ``length``, no overlap.

    Returns:
        `Windows` in the order of the series; (time,) series have one channel.

    Raises:
        ValueError: a length or stride below 1, a stride above the length (steps would be lost), or
            no series.

    Example:
        >>> import numpy as np
        >>> windows = cut_windows([np.arange(5.0)], length=4, stride=2)
        >>> windows.starts.tolist(), windows.lengths.tolist()
        ([0, 2], [4, 3])
    """
    checks = Checks("cut_windows")
    length = checks.integer("length", length, minimum=1)
    stride = length if stride is None else stride
    stride = checks.integer("stride", stride, minimum=1, maximum=length)
    series = list(series) if isinstance(series, Iterable) else []
    if not series:
        raise checks.wrong("series needs a list of arrays, (time, channels) each", "none")
    values, places = list[Any](), list[Any]()
    for number, one in enumerate(series):
        steps = np.asarray(one)
        steps = steps[:, None] if steps.ndim == 1 else steps
        if steps.ndim != 2 or not len(steps) or (values and steps.shape[1] != values[0].shape[2]):
            needs = "series need shape (time, channels) with a step at least, all of one width"
            raise checks.wrong(needs, f"{np.shape(one)} of series {number}")
        starts = np.arange(0, max(len(steps) - length, 0) + stride, stride)
        lengths = np.minimum(len(steps) - starts, length)
        steps = np.pad(steps, ((0, starts[-1] + length - len(steps)), (0, 0)))
        values.append(steps[starts[:, None] + np.arange(length)])
        places.append(np.stack([starts, lengths, np.full_like(starts, number)]))
    cut = np.concatenate(values)
    starts, lengths, numbers = np.concatenate(places, 1).astype("int32")
    return Windows(cut, np.arange(length) < lengths[:, None], starts, lengths, numbers)


def window_mcld_loss(
    student_logits: Float[Array, "batch *time classes"],
    teacher_logits: Float[Array, "batch *time classes"],
    labels: Labels | None = None,
    *,
    starts: Int[Array, " batch"] | None = None,
    lengths: Int[Array, " batch"] | int | None = None,
    series: Int[Array, " batch"] | None = None,
    mask: Bool[Array, " batch *time"] | None = None,
    step_labels: Num[Array, "batch time"] | None = None,
    category: str = "window",
    step_contrast: Scalar | None = None,
    config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
    class_prior: Float[Array, " classes"] | None = None,
    progress: Scalar = 1.0,
    reduction: Reduction = "mean",
    normalizer: Scalar | None = None,
    return_terms: bool = False,
) -> Any:
    """Contrast a student's logits on time-series windows with a teacher's.

    Two windows of one series that share a step show the same thing: with ``starts`` and
    ``lengths`` they do not push each other away, whatever their labels. One row of logits a
    window, (batch, classes), is `mcld_core.mcld_loss` with ``pairs`` = not overlapping. One row a
    time step, (batch, time, classes), is the form of `mcld_core.extensions.nlp.token_mcld_loss`:

    ``L = w_ins · mean_b InfoNCE(s̄_b; p̄) + w_sam · mean_i [ L_sam,i + γ InfoNCE(s_i; p_j of the
    same window) ] + ramp · w_cat · mean_b L_cat(s̄_b; p̄) + w_ce · mean_i L_ce,i``

    with ``s̄_b`` the mean of a window's student logits and ``p̄_b`` of its teacher probabilities,
    a reconstruction carried over from images. Both instance- and category-wise terms leave out
    overlapping windows, except those that share the label in the category-wise one. The contrast
    of the steps within a window takes (batch · time)² bytes.

    Args:
        student_logits: (batch, classes) or (batch, time, classes), any float dtype.
        teacher_logits: the same shape; never receives a gradient.
        labels: of the windows, (batch,) int, or (batch, classes) soft; None: the teacher's arg
            max. ``config.ignore_index`` drops a window.
        starts: (batch,) int, the first step of each window in its series. Beyond 32 bits, as for
            time stamps, they need 64-bit integers: in JAX ``jax_enable_x64``.
        lengths: (batch,) int, or one number: the steps that each window spans, in the units of
            ``starts``. Needed with ``starts``.
        series: (batch,) int ids; None: all windows are of one series.
        mask: True or 1 = keep; (batch, time) for ragged windows, (batch,) for rows of one a
            window.
        step_labels: (batch, time) int, or (batch, time, classes) soft, for labels that change
            within a window, such as forecasts; None: the label of the window at each step.
        category: ``"window"``, or ``"step"``: each step against all valid steps of the batch.
        step_contrast: γ; None: 1/T².
        config: weights and settings; a weight of 0 switches its term off.
        class_prior, progress: as in `mcld_core.mcld_loss`.
        reduction, normalizer: as in `mcld_core.extensions.nlp.token_mcld_loss`, with steps for
            tokens (windows, where a window is one row).
        return_terms: also return the parts.

    Returns:
        The loss, float32 (float64 for float64 logits), with ``return_terms`` a pair of it and a
        dict as of `mcld_core.mcld_loss`; for (batch, time, classes) ``"token"`` is the contrast
        of the steps within their window.

    Raises:
        ValueError, TypeError: what does not fit, what came, and what to do.

    Example:
        >>> import numpy as np
        >>> student, teacher = np.eye(2), 20 * np.eye(2)
        >>> apart = window_mcld_loss(student, teacher, starts=[0, 4], lengths=4)
        >>> overlapping = window_mcld_loss(student, teacher, starts=[0, 2], lengths=4)
        >>> round(float(apart - overlapping), 4)
        0.6265

    References:
        Q. Wang, J. Zhou, arXiv:2411.10693, 2024 (the three contrasts, on images).
    """
    beside = (labels, starts, lengths, series, mask, step_labels)
    arguments = SequenceArguments("window_mcld_loss", student_logits, teacher_logits, *beside)
    arguments.settings(config, MCLDConfig)
    arguments.choice("category", category, ("window", "step"))
    arguments.flag("return_terms", return_terms)
    if step_contrast is not None:
        arguments.number("step_contrast", step_contrast, minimum=0.0)
    arguments.reduction(reduction)
    student, teacher = arguments.tensors(student_logits, teacher_logits)
    ours, theirs = tuple(student.shape), tuple(teacher.shape)
    if len(ours) not in (2, 3) or not fits(ours, theirs):
        forms = "(batch, classes) or (batch, time, classes)"
        needs = f"student_logits and teacher_logits need one shape, {forms}"
        raise arguments.wrong(needs, f"{ours} and {theirs}")
    if len(ours) == 2 and step_labels is not None:
        raise arguments.wrong("step_labels need logits (batch, time, classes)", ours)
    overlapping = _overlapping(arguments, student, starts, lengths, series)
    ops = arguments.ops
    given = {"config": config, "class_prior": class_prior, "progress": progress}
    kept = arguments.flat_mask("mask", mask, student)
    if len(ours) == 2:
        rows = arguments.rows(student, teacher, labels, kept, config)
        found = contrast_apart(ops, rows, overlapping, reduction="none", **given)
        return reduce_terms(arguments, rows, student, found, reduction, normalizer, return_terms)
    window = sequence_of_row(ops, student)
    if labels is not None:
        labels = arguments.array("labels", labels, student)
        arguments.label_shape("labels", labels, student.shape[0], student.shape[2])
        if len(labels.shape) == 1:
            labels = arguments.ids("labels", labels, student)
            kept = both_kept(kept, ops.take(labels != config.ignore_index, window))
    if step_labels is not None:
        step_labels = arguments.flat_labels("step_labels", step_labels, student)
    elif labels is not None:
        step_labels = ops.take(labels, window)
    rows = arguments.rows(student, teacher, step_labels, kept, config)
    by_window, own = category == "window", None if labels is None else (labels, labels)
    found = contrast_sequences(
        ops, rows, student, own, step_contrast, by_window, overlapping, **given
    )
    return reduce_terms(arguments, rows, student, found, reduction, normalizer, return_terms)


def _overlapping(
    arguments: SequenceArguments, student: Array, starts: Any, lengths: Any, series: Any
) -> Bool[Array, "batch batch"] | None:
    """Return which windows share a step, from their places.

    By the distance of the starts, since a stop may lie beyond the largest number.
    """
    if starts is None and lengths is None and series is None:
        return None
    if starts is None or lengths is None:
        ours, theirs = ("None" if x is None else "given" for x in (starts, lengths))
        needs = "starts and lengths are needed together (series alone does not say what overlaps)"
        raise arguments.wrong(needs, f"starts {ours}, lengths {theirs}")
    ops = arguments.ops
    start = arguments.ids("starts", starts, student)
    lengths = arguments.array("lengths", lengths, student)
    length = arguments.ids("lengths", lengths, student, None if len(lengths.shape) else ())
    spans = ops.host_values(length)
    if spans is not None and (spans <= 0).any():
        raise arguments.wrong("lengths needs numbers of steps > 0", spans.min())
    dtype = "int64" if "int64" in (ops.dtype(start), ops.dtype(length)) else "int32"
    start, length = ops.astype(start, dtype), ops.astype(length, dtype)
    number = 0 * start if series is None else arguments.ids("series", series, student)
    length = length + 0 * start
    distance = start[None, :] - start[:, None]
    share = (distance < length[:, None]) & (-distance < length[None, :])
    return share & (number[:, None] == number[None, :])


def forecast_bins(targets: Float[Array, "..."], bins: int = 16) -> Float[Array, " edges"]:
    """Choose the edges between bins from training targets, in NumPy.

    The edges are quantiles: each bin has the same share of the targets, so that every class is
    learned from as many examples and resolution goes where the data are. Both outer bins are open.
    More bins are finer, but each has fewer positives.

    Args:
        targets: real values of the training set, any shape; NaN is left out.
        bins: how many, at least 2.

    Returns:
        (bins - 1,) increasing edges. Quantiles of targets that repeat give fewer, so that no bin
        is empty of the targets.

    Raises:
        ValueError: fewer than 2 bins, or targets that are all the same.

    Example:
        >>> forecast_bins([1.0, 2.0, 3.0, 10.0], bins=2).tolist()
        [2.5]
    """
    arguments = Arguments("forecast_bins", targets)
    bins = arguments.integer("bins", bins, minimum=2)
    values = to_numpy(arguments.array("targets", targets)).astype("float64").ravel()
    values = values[np.isfinite(values)]
    if values.size == 0 or values.min() == values.max():
        needs = "targets need two different finite values at least"
        raise arguments.wrong(needs, f"{values.size} values without a spread")
    edges = np.unique(np.quantile(values, np.linspace(0.0, 1.0, bins + 1)[1:-1]))
    counts = np.bincount(np.searchsorted(edges, values), minlength=edges.size + 1)
    edges = edges[counts[1:] > 0]  # an edge with an empty bin above it divides nothing
    return edges if edges.size else np.max(values[values < values.max()], keepdims=True)


def bin_labels(
    targets: Float[Array, "batch time"], edges: Float[Array, " edges"], ignore_index: int = -100
) -> Int[Array, "batch time"]:
    """Return the bin of each target, ``ignore_index`` where it is not finite.

    Args:
        targets: (batch, time), float or int, in the units of the edges; any shape.
        edges: (bins - 1,) increasing, of `forecast_bins`. A target on an edge is in the bin below.
        ignore_index: stands where a target is NaN or infinite, so that the losses drop it.

    Returns:
        (batch, time) int32 in 0 … bins - 1, or ``ignore_index``.

    Raises:
        TypeError: targets that are not numbers.
        ValueError: edges that are not increasing and finite, one at least.

    Example:
        >>> bin_labels([[0.2, 5.0, float("nan")]], [0.0, 1.0]).tolist()
        [[1, 2, -100]]
    """
    arguments = Arguments("bin_labels", targets)
    ops, ignore_index = arguments.ops, arguments.integer("ignore_index", ignore_index)
    edges = _checked_edges("bin_labels", edges)
    targets = _floating(ops, arguments.array("targets", targets))
    edges = edges.reshape([1] * len(targets.shape) + [-1])  # JAX may refuse to add axes
    above = targets[..., None] > ops.astype(ops.asarray(edges, targets), ops.dtype(targets))
    number = ops.sum(ops.astype(above, "int32"), -1)
    return ops.where(ops.isfinite(targets), ops.astype(number, "int32"), ignore_index)


def forecast_to_logits(
    forecast: Float[Array, "batch time"],
    edges: Float[Array, " edges"],
    scale: Scalar | Float[Array, "batch time"] | None = None,
) -> Float[Array, "batch time bins"]:
    """Turn real-valued forecasts into log-probabilities over bins, so that the contrasts apply.

    The mass of a logistic distribution around the forecast x in each bin,
    ``σ((e_{k+1} - x) / c) - σ((e_k - x) / c)``, outer bins open: a smooth function of the
    forecast with a gradient far from the target too, and a proper distribution. Take logarithms
    as ``σ(a) - σ(b) = σ(a) σ(-b) (1 - exp(b - a))``, which never underflows.

    Args:
        forecast: (batch, time) in the units of the targets; any shape.
        edges: (bins - 1,) increasing, of `forecast_bins`.
        scale: c > 0, the width of the logistic: a number, or of the forecast's shape where the
            model tells its spread (by softplus or exp of an output, so that it is > 0: traced
            values and those on an accelerator are not checked). None: half the median width of
            the inner bins (so two edges at least): a forecast in the middle of a bin leaves half of
            the mass to the others.

    Returns:
        (batch, time, bins) log-probabilities: logits that sum to 1 after exp.

    Raises:
        ValueError: edges that do not increase, a single edge without a scale, or a scale ≤ 0.

    Example:
        >>> import numpy as np
        >>> logits = forecast_to_logits(np.array([[0.0]]), [-1.0, 1.0])
        >>> np.exp(logits).round(3).tolist()
        [[[0.269, 0.462, 0.269]]]

    References:
        T. Salimans et al., "PixelCNN++", ICLR 2017 (the discretised logistic distribution).
    """
    arguments = Arguments("forecast_to_logits", forecast, scale)
    ops = arguments.ops
    x = arguments.array("forecast", forecast, scale if ops.is_tensor(scale) else None)
    x = _floating(ops, x)
    inner = _checked_edges("forecast_to_logits", edges)
    gaps = np.diff(inner)
    if scale is None:
        if not gaps.size:
            raise arguments.wrong("scale is needed where edges has one entry", None)
        scale = float(np.median(gaps)) / 2.0
    spread = ops.astype(arguments.array("scale", scale, x), ops.dtype(x))
    if len(spread.shape) and not fits(spread.shape, x.shape):
        needs = f"scale needs one number, or the shape of the forecast, {tuple(x.shape)}"
        raise arguments.wrong(needs, tuple(spread.shape))
    values = scale if is_number(scale) else ops.host_values(spread)
    if values is not None and not np.all(values > 0):
        raise arguments.wrong("scale needs numbers > 0", values)
    sizes = [ops.size(x, axis) for axis in range(len(x.shape))]
    x, spread = (ops.reshape(y, (1, -1)) for y in (x, spread))  # an edge a row, a forecast a column
    edge, width = (ops.astype(ops.asarray(y[:, None], x), ops.dtype(x)) for y in (inner, gaps))
    z = (edge - x) / spread
    open_end = ops.astype(z[:1] > z[:1], ops.dtype(x))  # 0, for it has no edge
    below = ops.concat([ops.log_sigmoid(z), open_end])
    above = ops.concat([open_end, ops.log_sigmoid(-z)])
    between = ops.log(-ops.expm1(-width / spread)) + open_end
    logits = below + above + ops.concat([open_end, between, open_end])
    return ops.reshape(ops.matrix_transpose(logits), (*sizes, inner.size + 1))


def _checked_edges(function: str, edges: Any) -> np.ndarray[Any, Any]:
    arguments = Arguments(function, edges)
    values = to_numpy(arguments.array("edges", edges)).astype("float64")
    increase = values.ndim == 1 and bool((np.diff(values) > 0).all())
    if not increase or values.size == 0 or not np.isfinite(values).all():
        needs = "edges need shape (bins - 1,), increasing and finite"
        raise arguments.wrong(needs, values.tolist(), "Choose them with forecast_bins")
    return values


def _floating(ops: Backend, x: Array) -> Array:
    """Return x as float64 where its numbers need it, else as float32."""
    return ops.astype(x, "float64" if ops.dtype(x) in ("float64", "int64") else "float32")
