"""The progress bar of an epoch."""

from __future__ import annotations

import io
import re

import pytest
from recipes import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_shows_loss_and_accuracy_of_the_epoch_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    bar = logs.progress_bar(range(4), 4, "seed 0 kd 1/2")
    for number in bar:
        if number == 2:
            logs.show(bar, {"loss": 6.0, "train_accuracy": 9.0, "rows": 12.0, "term_kd": 1.0})
    shown = terminal.getvalue()
    assert "seed 0 kd 1/2" in shown
    assert re.search(r"loss=0\.5000, accuracy=75\.0%", shown)


def test_where_nobody_watches_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    bar = logs.progress_bar(range(2), 2, "title")
    logs.show(bar, {"loss": 6.0, "train_accuracy": 9.0, "rows": 12.0})
    assert list(bar) == [0, 1]
    assert capsys.readouterr() == ("", "")
