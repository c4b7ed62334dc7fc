"""What the site makes itself: the figure of pairs, and tables and charts of committed results."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
ACCURACY = """# Accuracy on {name}

Mean ± sample standard deviation over the seeds 0 1 2.

## Comparison

| | lr | test % (last epoch) | test % (best validation epoch) |
|---|---|---|---|
| CE | 0.1 | 90.00 ± 0.20 | 91.00 ± 0.20 |
| MCLD | 0.1 | 92.00 ± 0.30 | 93.00 ± 0.30 |
"""


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


committed, figures, gains = load("committed"), load("figures"), load("gains")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name in ("apples", "pears"):
        (tmp_path / f"accuracy_{name}.md").write_text(ACCURACY.format(name=name), "utf-8")
    (tmp_path / "speed.md").write_text("# Speed\n\n`python benchmarks/speed.py`", "utf-8")
    (tmp_path / "notes.md").write_text("# Notes\n", "utf-8")
    (tmp_path / "notes.png").write_bytes(b"")
    return tmp_path


def test_the_figure_shows_what_the_terms_do() -> None:
    same = figures.LABELS[:, None] == figures.LABELS
    own = np.eye(len(same), dtype=bool)
    instance = figures.signs(figures.instance_wise, figures.LABELS)
    np.testing.assert_array_equal(instance, np.where(own, 1, np.where(same, 0, -1)))
    category = figures.signs(figures.category_wise, figures.LABELS)
    np.testing.assert_array_equal(category, np.where(same, 1, -1))


@pytest.mark.parametrize("name", ["instance", "category", "sample"])
def test_the_committed_pictures_are_those_that_the_script_draws(name: str, tmp_path: Path) -> None:
    figures.draw(tmp_path)
    file = f"pairs_{name}.svg"
    assert (tmp_path / file).read_text("utf-8") == (figures.ASSETS / file).read_text("utf-8")


def test_the_picture_of_gains_is_that_of_the_results() -> None:
    drawn = (committed.DOCS / "assets" / "gains.svg").read_text("utf-8")
    assert drawn == str(gains.picture())
    mean, low, _ = gains.gain(gains.SETS["digits"], gains.NAMES["MCLD + CE"])
    assert 0 < low < mean  # README says that it is above
    assert gains.gain(gains.SETS["digits"], ("no such loss",)) is None


def test_the_gallery_has_every_page(results: Path) -> None:
    gallery = committed.gallery(results)
    for name in ("accuracy_apples", "accuracy_pears", "speed", "notes"):
        assert f"(../../benchmarks/results/{name}.md)**" in gallery
    assert gallery.count("(../assets/charts/accuracy_") == 2


def test_a_chart_has_a_mark_a_row() -> None:
    head, numbers = committed.table(ACCURACY)
    assert (head, list(numbers)) == ("test % (last epoch)", ["CE", "MCLD"])
    chart = str(committed.chart(head, {"CE": (90.0, 89.8, 90.2), "MCLD": (92.0, 91.7, 92.3)}))
    assert chart.count("<circle") == 2
    assert chart.count('<circle class="other"') == 2


def test_a_chart_of_differences_says_on_which_side_of_0_they_are() -> None:
    rows = {"a": (1.0, 0.5, 1.5), "b": (-1.0, -1.5, -0.5), "c": (0.2, -0.5, 0.9)}
    chart = str(committed.chart("points", rows | {"far": (-50.0, -90.0, -10.0)}, zero=True))
    assert re.findall(r'<circle class="(\w+)"', chart) == ["pull", "push", "other"]
    assert ">‹ -50<" in chart


def test_rows_are_shown_less_ce_and_perplexities_the_other_way_round() -> None:
    def record(score: str) -> dict[str, object]:
        values = {"CE": (5.0, 6.0), "KD": (4.0, 4.0)}
        tests = {f"a|{k}|{row}": {score: v[k]} for row, v in values.items() for k in (0, 1)}
        return {"tests": tests}

    low, high = -1.5 - 12.706 * 0.5, -1.5 + 12.706 * 0.5
    assert committed.gained(record("accuracy"))["KD"] == pytest.approx((-1.5, low, high))
    assert committed.gained(record("perplexity"))["KD"] == pytest.approx((1.5, -high, -low))
    wide = 12.706 * 0.5**0.5 * (1 / 2 + 0.75) ** 0.5  # splits that share rows
    found = committed.gained(record("accuracy") | {"overlap": 0.75})["KD"]
    assert found == pytest.approx((-1.5, -1.5 - wide, -1.5 + wide))


def test_every_page_of_results_opens_with_its_chart() -> None:
    """All but those of the regime: less CE is not among what is registered there."""
    for page in committed.RESULTS.glob("*.md"):
        second = page.read_text("utf-8").split("\n\n")[1]
        assert second.startswith("![") or page.stem.startswith("regime_"), page.name


MADE = committed.pages()


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.name)
def test_what_is_made_of_results_is_committed_as_it_is_made(path: Path) -> None:
    """If not: python docs/committed.py."""
    assert path.read_text("utf-8") == MADE[path]


def test_no_chart_is_left_over() -> None:
    assert set(committed.CHARTS.glob("*.svg")) <= set(MADE)
