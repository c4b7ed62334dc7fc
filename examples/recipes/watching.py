"""What watches a training: lines or a bar that say how far it is, Ctrl-C, and trackers."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from . import is_first, replaced_by_line, say


class Watcher:
    """Stands around the loop of a `run.Run`: shows its progress, and hears Ctrl-C and SIGTERM.

    Args:
        name: of the run.
        options: ``tensorboard`` and ``track`` say where else the numbers go.
        steps: all steps of the training.
        done: those that an earlier process did.
    """

    def __init__(self, name: str, options: argparse.Namespace, steps: int, done: int) -> None:
        self.asked_to_stop, self.sinks = False, list[Any]()
        self.progress = Progress(name, steps, done, seconds=options.log_seconds)
        if done < steps and is_first() and (options.tensorboard or options.track):
            from .trackers import open_sinks

            self.sinks = open_sinks(name, options)

    def __enter__(self) -> Watcher:
        numbers = (signal.SIGINT, signal.SIGTERM)
        self.before = {number: signal.signal(number, self.hear) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away, and let the signals do what they did before."""
        self.progress.__exit__()
        for sink in self.sinks:
            sink.close()
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def hear(self, *_: object) -> None:
        """Note the signal, so that no step is cut in half; a second one acts at once."""
        if self.asked_to_stop:
            raise KeyboardInterrupt
        self.asked_to_stop = True
        say("stopping once the state is saved; once more to stop at once", important=True)


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
        if replaced_by_line():
            self.seconds = min(seconds, 0.2)  # the line says when it prints
        elif sys.stderr.isatty() and not self.quiet:
            from tqdm import tqdm

            self.bar = tqdm(total=steps, desc=name, initial=done, leave=False, unit="step")

    def step(self, loss: Callable[[], float] | None = None) -> None:
        """Count a step; ``loss()`` is asked for only where it is shown: it waits for the device."""
        self.done += 1
        if self.bar is not None:
            self.bar.update()
        if not self.due():
            return
        shown = [f"loss {loss():.4f}"] if loss is not None else []
        if self.bar is not None:
            self.bar.set_postfix_str("".join(shown))
        else:
            self.say(f"step {self.done}/{self.steps}", *shown)

    def epoch(self, row: Mapping[str, Any], epochs: int) -> None:
        """Print the numbers of an epoch, if it is time for a line or the last one."""
        if not self.due(self.bar is not None or row["epoch"] in (1, epochs)):
            return
        shown = [key for key in row if key.endswith("_accuracy")]
        parts = [f"{key.removesuffix('_accuracy')} {100 * row[key]:.2f}%" for key in shown]
        self.say(f"epoch {row['epoch']}/{epochs}", f"loss {row['loss']:.4f}", *parts)

    def due(self, always: bool = False) -> bool:
        """Return whether it is time for a line, and if so, wait anew for the next one."""
        now = time.monotonic()
        due = not self.quiet and (always or now - self.said >= self.seconds)
        self.said = now if due else self.said
        return due

    def say(self, *parts: str) -> None:
        """Print a line of such parts."""
        say(f"{self.name} {'  '.join([*parts, self.left()])}")

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


def duration(seconds: float) -> str:
    """Return a time as ``1h02m``, ``3m07s`` or ``12s``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
