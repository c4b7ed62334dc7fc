"""The picture of head and tail accuracy: it shows the committed results."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.docs.test_docs_made import load

uneven = load("class_imbalance")


def test_the_committed_picture_shows_the_committed_results() -> None:
    """If not: python docs/class_imbalance.py."""
    record = json.loads(uneven.RESULTS.read_text("utf-8"))
    assert str(uneven.picture(record)) == Path(uneven.ASSET).read_text("utf-8")


def test_a_dot_stands_at_the_mean_of_the_seeds() -> None:
    tests = {
        "digits|50|0|CE": {"tail": 10.0, "head": 80.0},
        "digits|50|1|CE": {"tail": 30.0, "head": 90.0},
        "digits|10|0|CE": {"tail": 99.0, "head": 99.0},  # another ratio
    }
    drawn = str(uneven.picture({"tests": tests}))
    dots = {
        kind: float(x)
        for kind, x in re.findall(r'<circle class="(push|pull)" cx="([\d.]+)"', drawn)[:2]
    }
    assert dots == {
        "push": uneven.LEFT + 20 * uneven.SCALE,
        "pull": uneven.LEFT + 85 * uneven.SCALE,
    }
