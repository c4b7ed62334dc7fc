"""What the tests of the four scripts share: a signal in a training, and errors of one line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from multiprocessing import active_children, current_process
from pathlib import Path
from typing import Any

import common
import pytest

from tests.examples.conftest import EXAMPLES


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int, number: int) -> None:
    """Send this process and its workers a signal, as Ctrl-C does, after so many steps."""
    progress = common.progress

    def counting(options: Any, *rest: Any) -> Any:
        bar, done = progress(options, *rest), []
        update = bar.update

        def count() -> None:
            done.append(1)
            if len(done) == steps and options.method == "mcld":
                [os.kill(who.pid, number) for who in (*active_children(), current_process())]
            update()

        bar.update = count
        return bar

    monkeypatch.setattr(common, "progress", counting)


def killed(script: str) -> str:
    """Return code that runs a script and is killed: steps, then the script's words."""
    return f"""
import sys
sys.path[:0] = [{str(EXAMPLES)!r}]
import pytest, {script}
from tests.examples.stopping import stop_after
stop_after(pytest.MonkeyPatch(), int(sys.argv[1]), 9)
sys.exit({script}.main(sys.argv[2:]))
"""


def assert_said_in_one_line(
    run: Callable[..., int],
    wrong: Mapping[str, str],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Run a script with each wrong word; its last line is the error."""
    for number, (word, said) in enumerate(wrong.items()):
        more = [] if "teacher" in word else ["--method", "ce"]
        assert run(word, *more, out=folder / str(number)) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert said in error
