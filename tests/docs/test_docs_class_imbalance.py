"""The picture and the tables of class imbalance are means and differences of the seeds."""

from __future__ import annotations

import re

from tests.docs.test_docs_made import load

uneven = load("class_imbalance")
TESTS = {
    "digits|50|0|CE": {"balanced": 50.0, "tail": 10.0, "head": 80.0, "posthoc_balanced": 58.0},
    "digits|50|1|CE": {"balanced": 52.0, "tail": 30.0, "head": 90.0, "posthoc_balanced": 60.0},
    "digits|50|0|CE, adjusted": {"balanced": 55.0, "tail": 40.0},
    "digits|50|1|CE, adjusted": {"balanced": 59.0, "tail": 60.0},
    "digits|10|0|CE": {"tail": 99.0, "head": 99.0},  # another ratio
}


def test_a_dot_stands_at_the_mean_of_the_seeds() -> None:
    drawn = str(uneven.picture({"tests": TESTS}))
    dots = {
        kind: float(x)
        for kind, x in re.findall(r'<circle class="(push|pull)" cx="([\d.]+)"', drawn)[:2]
    }
    assert dots == {
        "push": uneven.LEFT + 20 * uneven.SCALE,
        "pull": uneven.LEFT + 85 * uneven.SCALE,
    }


def test_a_difference_is_paired_by_seed() -> None:
    best = {"best": {"lr": 0.1}, "validation": 0.5}
    chosen = {f"digits|50|{row}": best for row in ("CE", "CE, adjusted")}
    text = uneven.tables({"tests": TESTS, "chosen": chosen})
    gap, half = (5 + 7) / 2, 12.706 * 2**0.5 / 2**0.5  # two seeds, deviation sqrt(2)
    assert f"| CE, adjusted | {gap:+.2f} ({gap - half:+.2f} to {gap + half:+.2f}) |" in text
    assert "| +2.00 (-10.71 to +14.71) |" in text  # 58 - 55 and 60 - 59: after less in
    assert "| CE | lr 0.1 | 50.00 |" in text
