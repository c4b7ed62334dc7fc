"""Forecasts as distributions over bins, so that the contrasts of logits apply to them."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcld_core.arguments import Arguments, fits, to_numpy
from mcld_core.backends import Backend
from mcld_core.typing import Array, Float, Int, Scalar


def forecast_bins(
    targets: Float[Array, "..."], bins: int = 16, kind: str = "quantile"
) -> Float[Array, " edges"]:
    """Choose the edges between bins from training targets, in NumPy.

    ``"quantile"`` (the default) gives each bin the same share of the targets, so that every class
    is learned from as many examples and resolution goes where the data are; ``"uniform"`` gives
    bins of one width between the smallest and the largest target, which keeps distances but
    leaves bins empty where the targets are skewed. Both outer bins are open. More bins are finer,
    but each has fewer positives.

    Args:
        targets: real values of the training set, any shape; NaN is left out.
        bins: how many, at least 2.
        kind: ``"quantile"`` or ``"uniform"``.

    Returns:
        (bins - 1,) increasing edges. Quantiles of targets that repeat give fewer, so that no bin
        is empty of the targets.

    Raises:
        ValueError: fewer than 2 bins, another kind, or targets that are all the same.

    Example:
        >>> forecast_bins([1.0, 2.0, 3.0, 10.0], bins=2).tolist()
        [2.5]
    """
    arguments = Arguments("forecast_bins", targets)
    bins = arguments.integer("bins", bins, minimum=2)
    arguments.choice("kind", kind, ("quantile", "uniform"))
    values = to_numpy(arguments.array("targets", targets)).astype("float64").ravel()
    values = values[np.isfinite(values)]
    if values.size == 0 or values.min() == values.max():
        needs = "targets need two different finite values at least"
        raise arguments.wrong(needs, f"{values.size} values without a spread")
    inner = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    if kind == "uniform":
        return np.asarray(values.min() + inner * (values.max() - values.min()))
    edges = np.unique(np.quantile(values, inner))
    counts = np.bincount(np.searchsorted(edges, values), minlength=edges.size + 1)
    edges = edges[counts[1:] > 0]  # an edge with an empty bin above it divides nothing
    return edges if edges.size else np.max(values[values < values.max()], keepdims=True)


def bin_labels(
    targets: Float[Array, "batch time"],
    edges: Float[Array, " edges"],
    ignore_index: int = -100,
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
        ValueError, ImportError: ``MCLD_BACKEND`` names no backend, or one that is not installed.

    Example:
        >>> bin_labels([[0.2, 5.0, float("nan")]], [0.0, 1.0]).tolist()
        [[1, 2, -100]]
    """
    arguments = Arguments("bin_labels", targets)
    ops, ignore_index = arguments.ops, arguments.integer("ignore_index", ignore_index)
    edges = _checked_edges("bin_labels", edges)
    targets = _floating(ops, arguments.array("targets", targets))
    above = targets[..., None] > _beside(ops, edges, targets)
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
    if scale is None:
        scale = float(np.median(np.diff(inner))) / 2.0 if inner.size > 1 else 0.0
    spread: Any = scale
    is_number = isinstance(spread, (int, float))
    if not is_number:
        spread = ops.astype(arguments.array("scale", spread, x), ops.dtype(x))
        if len(spread.shape) and not fits(spread.shape, x.shape):
            needs = f"scale needs one number, or the shape of the forecast, {tuple(x.shape)}"
            raise arguments.wrong(needs, tuple(spread.shape))
    values = spread if is_number else ops.host_values(spread)
    if values is not None and not np.all(values > 0):
        raise arguments.wrong("scale needs numbers > 0", values)
    spread = spread if is_number or not len(spread.shape) else spread[..., None]
    # An open end has no edge: it stands at the last one, and what it would add is left out.
    ends = np.arange(inner.size + 1)
    first, last = (_beside(ops, ends == end, x, "bool") for end in (0, inner.size))
    upper = _beside(ops, np.append(inner, inner[-1]), x)
    lower = _beside(ops, np.append(inner[0], inner), x)
    width = _beside(ops, np.concatenate([[1.0], np.diff(inner), [1.0]]), x)
    below_upper = ops.where(last, 0.0, ops.log_sigmoid((upper - x[..., None]) / spread))
    above_lower = ops.where(first, 0.0, ops.log_sigmoid((x[..., None] - lower) / spread))
    between = ops.where(first | last, 0.0, ops.log(-ops.expm1(-width / spread)))
    return below_upper + above_lower + between


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


def _beside(ops: Backend, edges: Any, x: Array, dtype: str | None = None) -> Array:
    """Return the edges, in the dtype of x, with one axis for each of x and one of their own."""
    edges = ops.astype(ops.asarray(np.asarray(edges), x), dtype or ops.dtype(x))
    return ops.reshape(edges, (*(1 for _ in x.shape), -1))
