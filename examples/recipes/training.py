"""What a training is in every framework: its job, its learning rate, when and how it ends early."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import DataError
from .logs import Diverged, Row, Stopped

CHECK_EVERY = 50  # steps between two looks at the loss: each look waits for the device
CIFAR_STEPS = (0.625, 0.75, 0.875)  # epochs 150, 180 and 210 of the published 240


def learning_rate(
    schedule: str, base: float, done: float, steps: Sequence[float] = CIFAR_STEPS
) -> float:
    """Return the rate of an epoch that starts when this part of the training is ``done``.

    Args:
        schedule: ``cosine`` falls from ``base`` to 0; ``step`` multiplies by 0.1 at each of
            ``steps``.
        base: the first epoch's.
        done: epochs before this one / all epochs, in [0, 1).
        steps: parts of the training.
    """
    if schedule == "cosine":
        return base * 0.5 * (1 + math.cos(math.pi * done))
    return float(base * 0.1 ** sum(done >= step for step in steps))


@dataclass(frozen=True)
class Job:
    """What one training is. ``folder=None``: nothing is written (trials of --tune-lr)."""

    name: str
    method: str
    model: str
    seed: int
    lr: float
    epochs: int
    folder: Path | None

    def identity(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with to be resumed."""
        return {
            "method": self.method,
            "model": self.model,
            "seed": self.seed,
            "lr": self.lr,
            "epochs": self.epochs,
        }

    def check_identity(self, path: Path, found: dict[str, Any]) -> None:
        """Raise `DataError` where the checkpoint at ``path`` is of another training."""
        if found != self.identity():
            raise DataError(
                f"{path} is of another training: {found}, not {self.identity()}; "
                "resume with the options of that run, or choose another --out"
            )

    def check_finite(self, loss: float, epochs_done: int, step: int, checkpoint: str) -> None:
        """Raise `Diverged` where the loss is NaN or infinite.

        Args:
            loss: a sum or mean over the running epoch.
            epochs_done: whole epochs, each of which left a checkpoint.
            step: steps of the running epoch.
            checkpoint: its file's name in the folder.
        """
        if math.isfinite(loss):
            return
        kept = ""
        if self.folder is not None and epochs_done:
            kept = f" The last good checkpoint is {self.folder / checkpoint} (epoch {epochs_done})."
        raise Diverged(
            f"{self.name}: the loss is {loss} in epoch {epochs_done + 1}, by step {step}.{kept} "
            f"Try a smaller rate: --lr {self.method}={self.lr / 3:.2g}"
        )

    def stopped(self, epochs_done: int, step: int) -> Stopped:
        """Return what to raise when the user stopped.

        Args:
            epochs_done: whole epochs.
            step: steps of the running epoch; 0 between two epochs.
        """
        if self.folder is None:
            return Stopped(f"stopped while trying {self.name} at lr {self.lr:g}")
        where = f"after epoch {epochs_done}/{self.epochs}"
        if step:
            where = f"in epoch {epochs_done + 1}/{self.epochs} after step {step}"
        return Stopped(f"{self.name} stopped {where}; the state is saved in {self.folder}")


def validates_best(rows: Sequence[Row]) -> bool:
    """Return whether the last epoch validates better than all before; without a split, never."""
    if "validation_accuracy" not in rows[-1]:
        return False
    scores = [row["validation_accuracy"] for row in rows]
    return bool(scores[-1] > max(scores[:-1], default=-1.0))
