"""The table of what validation says of the defaults, from small records in the files' formats."""

from __future__ import annotations

import numpy as np

from tests.docs.test_docs_made import load

defaults = load("defaults")


def test_differences_are_those_of_the_default_with_their_mean_over_the_sets() -> None:
    sets = {
        "one": ({"MCLD": (80.0, 0.25), "CE": (81.0, 0.5)}, 400),
        "two": ({"MCLD": (50.0, 0.1), "CE": (49.5, None), "no ramp": (52.0, 1.0)}, 100),
        "three": ({"MCLD": (10.0, 0.1), "CE": (12.0, 0.1), "no ramp": (9.0, 1.0)}, 100),
    }
    for scores, _ in sets.values():  # the others are as the default
        for name in ("CE, no ramp", "CE, no contrasts"):
            scores[name] = scores["MCLD"]
    lines = defaults.table(sets).splitlines()
    assert lines[2] == "| one | 400 | 80.00 (2.00) | – | +1.00 | +0.00 | +0.00 |"
    assert lines[3].startswith("| two | 100 | 50.00 (5.00) | +2.00 | -0.50 |")
    gaps = [1.0, -0.5, 2.0]
    half = 4.303 * np.std(gaps, ddof=1) / np.sqrt(3)
    mean = np.mean(gaps)
    assert f"| {mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f}) |" in lines[5]
    assert "| +0.00 (+0.00 to +0.00) |" in lines[5]
    assert lines[-3:-1] == [
        "| one | 0.25 | – | 0.5 | 0.25 | 0.25 |",
        "| two | 0.1 | 1 | – | 0.1 | 0.1 |",
    ]
