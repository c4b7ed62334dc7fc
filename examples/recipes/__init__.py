"""What the examples share; here: what they say while they run, and how far they are.

Modules that are not named after a framework import none.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any


def is_first() -> bool:
    """Whether this is the process that writes and speaks, by the variables of its launcher."""
    for name in ("RANK", "JAX_PROCESS_ID", "KERAS_DISTRIBUTION_PROCESS_ID"):
        if name in os.environ:
            return int(os.environ[name]) == 0
    config = json.loads(os.environ.get("TF_CONFIG", "{}"))
    task, has_chief = config.get("task", {}), "chief" in config.get("cluster", {})
    return int(task.get("index", 0)) == 0 and (task.get("type") == "chief" or not has_chief)


line: Any = None
"""Stands in for all that is said, while it is open: a `benchmarks.comparison.line.Line`."""


def say(text: str, *, important: bool = False) -> None:
    """Print a line without tearing a progress bar; with a `line` open, on or above that.

    One of several processes does.
    """
    if not is_first():
        return
    if line is not None:
        (line.above if important else line.add)(text)
    elif sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(text)
    else:
        print(text, flush=True)


def duration(seconds: float) -> str:
    """Return a time as ``1h02m``, ``3m07s`` or ``12s``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


class Progress:
    """Says how far a training is: a bar at a terminal, else a line every ``seconds``.

    Args:
        name: of the training.
        steps: all steps of the training.
        done: those that an earlier process did.
        seconds: between two lines; at a terminal every epoch has one.
    """

    def __init__(self, name: str, steps: int, done: int = 0, *, seconds: float = 30.0) -> None:
        self.name, self.steps, self.seconds, self.quiet = name, steps, seconds, not is_first()
        self.first = self.done = done
        self.started = self.said = time.monotonic()
        self.bar: Any = None
        if line is not None:
            self.seconds = min(seconds, 0.2)  # the line says when it prints
        elif sys.stderr.isatty() and not self.quiet:
            from tqdm import tqdm

            self.bar = tqdm(total=steps, desc=name, initial=done, leave=False, unit="step")

    def step(self, loss: Callable[[], float] | None = None) -> None:
        """Count a step; ``loss()`` is asked for only where it is shown: it waits for the device."""
        self.done += 1
        if self.bar is not None:
            self.bar.update()
        if self.quiet or time.monotonic() - self.said < self.seconds:
            return
        self.said = time.monotonic()
        shown = f"  loss {loss():.4f}" if loss is not None else ""
        if self.bar is not None:
            self.bar.set_postfix_str(shown.strip())
        else:
            say(f"{self.name} step {self.done}/{self.steps}{shown}  {self.left()}")

    def epoch(self, row: Mapping[str, Any], epochs: int) -> None:
        """Print the numbers of an epoch, if it is time for a line or the last one."""
        due = self.bar is not None or time.monotonic() - self.said >= self.seconds
        if self.quiet or not (due or row["epoch"] in (1, epochs)):
            return
        self.said = time.monotonic()
        parts = [f"{self.name} epoch {row['epoch']}/{epochs}", f"loss {row['loss']:.4f}"]
        shown = [key for key in row if key.endswith("_accuracy")]
        parts += [f"{key.removesuffix('_accuracy')} {100 * row[key]:.2f}%" for key in shown]
        say("  ".join([*parts, self.left()]))

    def left(self) -> str:
        """Return how long the rest will take, by the pace of this process."""
        spent, steps = time.monotonic() - self.started, self.done - self.first
        if self.done >= self.steps or not steps:
            return duration(spent)
        return f"{duration(spent / steps * (self.steps - self.done))} left"

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
