"""What every picture of a run needs, by matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_atomically


def new_figure(width: float, height: float) -> Any:
    """Return a figure that touches no global state and needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Any) -> bytes:
    """Return the figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def write_figure(path: Path, figure: Any) -> None:
    """Write the figure as a PNG file, atomically."""
    write_atomically(path, lambda file: file.write(png(figure)))


def marker(points: Sequence[Any]) -> str:
    """Return how to mark the points of a curve: a line through one point draws nothing."""
    return "o" if len(points) == 1 else ""
