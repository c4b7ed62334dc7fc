"""What a comparison shows of its trainings while they run: one line for those of a method."""

from __future__ import annotations

import shutil
import sys
import time

import recipes


class Line:
    """One line for several trainings: while it is open, it stands in for all that they say.

    At a terminal it is written over and over, with what a training says last as its end. Elsewhere
    it is printed at most every ``seconds``, and when it is closed. What is important (a warning, a
    file that was written) is printed above it.

    Args:
        name: its first words.
        seconds: between two prints where nobody watches.
    """

    def __init__(self, name: str, seconds: float = 30.0) -> None:
        self.name, self.seconds, self.found = name, seconds, ""
        self.said = time.monotonic()

    def show(self, found: str) -> None:
        """Set what is known so far; the line ends with it."""
        self.found = found
        self.add("")

    def add(self, passing: str) -> None:
        """Show a passing text after what is known."""
        text = "  ".join(part for part in (self.name, self.found, passing) if part)
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{text[:width]}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self.said >= self.seconds:
            self.said = time.monotonic()
            print(text, flush=True)

    def above(self, text: str) -> None:
        """Print a line that stays."""
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        print(text, flush=True)

    def __enter__(self) -> Line:
        recipes.line = self
        return self

    def __exit__(self, *_: object) -> None:
        """Print the line as it stays; nothing where nothing is known."""
        recipes.line = None
        if self.found:
            self.above(f"{self.name}  {self.found}")
        elif sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
