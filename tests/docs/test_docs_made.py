"""What the site makes itself: the figure of pairs, and tables and charts of committed results."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

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

## Ablation

| | lr | test % (last epoch) |
|---|---|---|
| all (the default) | 0.1 | 92.00 ± 0.30 |
| {row} | 0.1 | 91.00 ± 0.40 |
| no ramp | 0.1 | 90.00 ± 0.40 |
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
    for name, row in (("apples", "target mask off"), ("pears", "similarity dot")):
        text = ACCURACY.format(name=name, row=row)
        (tmp_path / f"accuracy_{name}.md").write_text(text, "utf-8")
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
    drawn = (gains.DOCS / "assets" / "gains.svg").read_text("utf-8")
    assert drawn == str(gains.picture())
    mean, half = gains.gain(gains.RESULTS / gains.SETS["digits"], gains.NAMES["MCLD + CE"])
    assert 0 < mean - half < mean  # README says that it is above
    assert gains.gain(gains.RESULTS / gains.SETS["digits"], ("no such loss",)) is None


def test_the_boxes_of_the_figure_are_the_signs() -> None:
    picture = str(figures.pairs("instance-wise", figures.instance_wise))
    boxes = re.findall(r'<rect class="(pull|push|out)" .* width="33"', picture)
    kinds = {1: "pull", -1: "push", 0: "out"}
    signs = figures.signs(figures.instance_wise, figures.LABELS)
    assert boxes == [kinds[sign] for sign in signs.flat]


def test_differences_join_the_data_sets(results: Path) -> None:
    assert committed.differences(results).splitlines() == [
        "| setting | [apples](../benchmarks/results/accuracy_apples.md) "
        "| [pears](../benchmarks/results/accuracy_pears.md) |",
        "|---|---|---|",
        "| all (the default) | 92.00 ± 0.30 % | 92.00 ± 0.30 % |",
        "| target mask off | -1.00 ± 0.50 | – |",
        "| no ramp | **-2.00 ± 0.50** | **-2.00 ± 0.50** |",
        "| similarity dot | – | -1.00 ± 0.50 |",
    ]


def test_the_gallery_has_every_page(results: Path) -> None:
    gallery = committed.gallery(results)
    for name in ("accuracy_apples", "accuracy_pears", "speed", "notes"):
        assert f"(../../benchmarks/results/{name}.md)**" in gallery
    assert gallery.count("(../assets/charts/accuracy_") == 2
    assert "![Notes](../../benchmarks/results/notes.png)" in gallery
    assert "benchmarks/speed.py" in gallery


def test_a_chart_has_a_mark_a_row() -> None:
    head, numbers = committed.table(ACCURACY)
    assert (head, list(numbers)) == ("test % (last epoch)", ["CE", "MCLD"])
    chart = str(committed.chart(head, numbers))
    assert chart.count("<circle") == 2
    assert chart.count('<circle class="pull"') == 1


def test_a_chart_shows_long_names_and_code_whole() -> None:
    long = "`deep_supervision_loss` with a teacher of the generation before (2)"
    chart = str(committed.chart("%", {long: committed.Spread(90.0, 1.0)}))
    ElementTree.fromstring(chart)  # Markdown of a label made an element of it once
    lines = re.findall(r'class="ink end" x="([\d.]+)" y="[\d.]+">(.*)<', chart)
    assert " ".join(words for _, words in lines) == long.replace("`", "")
    assert all(float(x) > 6.5 * len(words) for x, words in lines)


@pytest.mark.parametrize("path", committed.pages(), ids=lambda path: path.name)
def test_what_is_made_of_results_is_committed_as_it_is_made(path: Path) -> None:
    """If not: python docs/committed.py."""
    assert path.read_text("utf-8") == committed.pages()[path]


def test_no_chart_is_left_over() -> None:
    assert set(committed.CHARTS.glob("*.svg")) <= set(committed.pages())


def test_a_picture_belongs_to_the_longest_name(results: Path) -> None:
    (results / "notes_more.md").write_text("# More\n", "utf-8")
    (results / "notes_more_a.png").write_bytes(b"")
    names = {
        name: [path.name for path in committed.pictures_of(results / f"{name}.md")]
        for name in ("notes", "notes_more")
    }
    assert names == {"notes": ["notes.png"], "notes_more": ["notes_more_a.png"]}


def test_a_chart_of_perplexities_has_no_percents() -> None:
    chart = str(committed.chart("perplexity", {"CE": committed.Spread(90.0, 1.0)}))
    assert ">91<" in chart
    assert "%" not in chart


def test_a_chart_of_equal_whole_numbers_has_a_width() -> None:
    equal = {"a": committed.Spread(90.0, 0.0), "b": committed.Spread(90.0, 0.0)}
    chart = str(committed.chart("%", equal))
    assert "90 %" in chart
    assert "91 %" in chart


def test_pictures_that_the_text_does_not_show_are_added(results: Path) -> None:
    page = results / "notes.md"
    assert "![notes.png](notes.png)" in committed.further_pictures(page, "# Notes")
    assert committed.further_pictures(page, "![curves](notes.png)") == ""
    assert committed.further_pictures(results / "speed.md", "# Speed") == ""
