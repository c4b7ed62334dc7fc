"""What a run says while it runs: bars or lines, a CSV file, TensorBoard scalars; how it stops."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .files import write_text
from .logs import Diverged as Diverged
from .logs import Row as Row
from .logs import Stopped as Stopped
from .logs import StopSignal as StopSignal
from .logs import say as say

T = TypeVar("T")


def progress_bar(steps: Iterable[T], total: int, title: str, initial: int = 0) -> Iterable[T]:
    """Wrap an epoch's steps in a bar with its remaining time; silent where nobody watches."""
    if not sys.stderr.isatty():
        return steps
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(
        steps, total=total, desc=title, initial=initial, leave=False, unit="step"
    )
    return bar


def show(bar: Iterable[Any], sums: Mapping[str, Any]) -> None:
    """Show loss and accuracy of the epoch so far at the end of a `progress_bar`.

    Args:
        bar: what `progress_bar` returned.
        sums: ``loss``, ``train_accuracy`` and ``rows``, summed over the epoch's rows. Reading them
            waits for the device.
    """
    if not hasattr(bar, "set_postfix_str"):
        return
    loss, right = (float(sums[key]) / float(sums["rows"]) for key in ("loss", "train_accuracy"))
    bar.set_postfix_str(f"loss={loss:.4f}, accuracy={100 * right:.1f}%")


def epoch_line(name: str, row: Row, epochs: int) -> str:
    """Return one line on one epoch: its losses, accuracies in percent, and its time."""
    parts = [f"{name} epoch {row['epoch']}/{epochs}"]
    parts += [
        f"{key} {value:.4f}"
        for key, value in row.items()
        if key == "loss" or key.startswith("term_")
    ]
    parts += [
        f"{key.removesuffix('_accuracy')} {100 * value:.2f}%"
        for key, value in row.items()
        if key.endswith("_accuracy")
    ]
    return "  ".join([*parts, f"{row['seconds']:.1f}s"])


def write_csv(path: Path, rows: list[Row]) -> None:
    """Write an epoch a line. Written whole each time: a resumed run repeats no line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


class Scalars:
    """TensorBoard scalars of one training, through the `tensorboard` package alone."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise SystemExit("--tensorboard needs: pip install tensorboard") from error
        self._writer = EventFileWriter(str(folder))

    def add(self, row: Row) -> None:
        """Add an epoch's numbers."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=key, simple_value=value)
            for key, value in row.items()
            if key != "epoch"
        ]
        self._writer.add_event(Event(step=row["epoch"], summary=Summary(value=values)))
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
