"""What the examples share; here: what they say while they run.

A script imports at its top what its training is made of: `data`, `options`, `run`, `files`, and the
module of its framework. Where they are used, it imports what starts a run (`configs`, `folder`,
`teachers`), makes its networks (`models`), watches it (`watching`, `trackers`) and ends it
(`export`, `exits`). `processes` is for several of them, `comparing` for many trainings. Modules
that are not named after a framework import none.
"""

from __future__ import annotations

import json
import os
import sys
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


def replaced_by_line() -> bool:
    """Return whether a `line` is open."""
    return line is not None


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
