"""The pictures' numbers, the result table, and the report in a real browser."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from recipes.run import Row

from benchmarks.comparison import pictures, report, tables
from tests.docs.browser import chromium


def history(test: list[float], validation: list[float] | None = None) -> list[Row]:
    rows = []
    for number, value in enumerate(test):
        row = {"epoch": number + 1, "lr": 0.1, "loss": 1.0 / (number + 1), "term_instance": 0.5,
               "term_category": 0.5, "test_accuracy": value, "seconds": 2.0}  # fmt: skip
        if validation is not None:
            row["validation_accuracy"] = validation[number]
        rows.append(row)
    return rows


def result(rows: list[Row]) -> Any:
    return SimpleNamespace(rows=rows, parameters=10)


def record(method: str, seed: int, value: float) -> tables.Record:
    return tables.Record(method, seed, 0.1, value, None, None, 1234, 1.0)


def test_the_best_epoch_is_chosen_by_validation_never_by_test() -> None:
    rows = history([0.5, 0.9, 0.7], validation=[0.6, 0.5, 0.6])
    found = tables.summarise("kd", 0, result(rows))
    assert (found.test_last, found.test_best, found.best_epoch) == (0.7, 0.5, 1)
    assert (found.seconds, found.lr) == (6.0, 0.1)
    unvalidated = tables.summarise("kd", 0, result(history([0.5, 0.9])))
    assert (unvalidated.test_last, unvalidated.test_best) == (0.9, None)


def test_the_table_gives_mean_and_sample_deviation_and_a_loaded_teacher() -> None:
    records = [record("ce", seed, value) for seed, value in enumerate((0.5, 0.7))]
    text = tables.table(records, {"mymodels:large": 0.9})
    assert "| ce | 0.1 | 1,234 | 60.00 ± 14.14 | – |" in text
    assert "| teacher mymodels:large | – | – | 90.00 | – |" in text


def test_what_is_trained_for_balance_is_ranked_by_balanced_accuracy() -> None:
    rows = history([0.5, 0.9], validation=[0.4, 0.3])
    for row, test, validation in zip(rows, (0.25, 0.75), (0.1, 0.2), strict=True):
        row |= {"test_balanced_accuracy": test, "validation_balanced_accuracy": validation}
    found = tables.summarise("mcld", 0, result(rows), balanced=True)
    assert (found.test_last, found.test_best, found.best_epoch) == (0.75, 0.75, 2)
    assert found.plain == 0.9
    ce = replace(found, method="ce", test_last=0.5, plain=0.95)
    text = tables.table([found, ce], {"own": 0.8})
    assert "| balanced test % (last epoch) | balanced test % (best validation epoch) |" in text
    assert "| teacher own | – | – | – | – | 80.00 |" in text
    assert "| mcld | 0.1 | 10 | 75.00 | 75.00 | 90.00 |" in text
    assert tables.conclusion([ce, found]).startswith(
        "Best: mcld, 75.00 % balanced on the test split"
    )
    gaps = tables.differences([ce, found], 100)
    assert gaps.startswith("| minus ce | points of balanced accuracy (95 %")
    assert gaps.endswith("| mcld | +25.00 |")


def test_the_conclusion_pairs_the_seeds() -> None:
    """One seed is harder than the other for both: the difference says more than the means."""
    values = {"ce": (0.50, 0.70, 0.60), "mcld": (0.52, 0.72, 0.63), "teacher": (0.9, 0.9, 0.9)}
    records = [
        record(method, seed, value)
        for method, found in values.items()
        for seed, value in enumerate(found)
    ]
    text = tables.conclusion(records)
    assert text == (
        "Best: mcld, 62.33 % on the test split, 2.33 points above ce: more than twice the "
        "standard error of the paired difference over 3 seeds, 0.33."
    )
    values["mcld"] = (0.45, 0.72, 0.66)
    close = [
        record(method, seed, value)
        for method in ("ce", "mcld")
        for seed, value in enumerate(values[method])
    ]
    assert "1.00 points above ce: that may be chance" in tables.conclusion(close)
    one = tables.conclusion([entry for entry in records if entry.seed == 0])
    assert one.endswith("One seed: this says little about which method is better.")
    alone = tables.conclusion([record("mcld", 0, 0.5)])
    assert alone == "mcld reaches 50.00 % on the test split (1 seed)."


def test_differences_are_to_the_best_baseline_and_have_an_interval() -> None:
    values = {"ce": (0.50, 0.70, 0.60), "kd": (0.48, 0.68, 0.58), "mcld": (0.52, 0.72, 0.63)}
    records = [
        record(method, seed, value)
        for method, found in values.items()
        for seed, value in enumerate(found)
    ]
    text = tables.differences(records, 100)
    half = 4.303 / 3  # the standard error of 2, 2 and 3 points is a third
    assert f"| mcld | +2.33 ({7 / 3 - half:+.2f} to {7 / 3 + half:+.2f}) |" in text
    assert "| kd | -2.00 (-2.00 to -2.00) |" in text
    assert "| minus ce |" in text
    assert "100 test rows alone give an accuracy a standard error of 4.85 points" in text


def test_logit_correlations_are_numpy_s() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    correlations = pictures.logit_correlations(logits)
    np.testing.assert_allclose(correlations, np.corrcoef(logits.T), atol=1e-6)
    logits[:, 1] = 3.0
    assert np.isfinite(pictures.logit_correlations(logits)).all()


def test_the_similarity_shows_all_classes_of_a_test_set_in_their_order() -> None:
    """ImageNet's folders are read one class after the other."""
    labels = np.repeat(np.arange(5), 100)
    rng = np.random.default_rng(0)
    logits = (5 * np.eye(5)[labels] + rng.normal(size=(500, 5))).astype(np.float32)
    figure = pictures.similarity_matrices(logits, {"student": logits}, labels, "abcde")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == list("abcde")
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape == (96, 96)
    again = pictures.similarity_matrices(logits, {"student": logits}, labels, "abcde")
    np.testing.assert_array_equal(shown, again.axes[0].images[0].get_array())
    few = pictures.similarity_matrices(
        logits[::20], {"student": logits[::20]}, labels[::20], "abcde"
    )
    assert np.asarray(few.axes[0].images[0].get_array()).shape == (25, 25)


def test_confusions_have_the_names_of_the_classes() -> None:
    logits = np.eye(3, dtype=np.float32)
    names = ["cat", "dog", "frog"]
    axes = pictures.confusion(logits, np.arange(3), names, "mcld").axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == names


def test_each_loss_has_a_panel_of_its_own() -> None:
    figure = pictures.curves({"ce": history([0.4, 0.5]), "kd:temperature=1": history([0.4, 0.6])})
    accuracies, *losses = figure.axes
    assert len(accuracies.lines) == 2
    assert [axes.get_title() for axes in losses] == ["ce", "kd:temperature=1"]
    assert all(len(axes.lines) == 1 for axes in losses)


def test_nothing_of_the_similarity_is_cut_off() -> None:
    """Titles and labels lie within the picture."""
    labels = np.repeat(np.arange(4), 30)
    logits = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
    both = {"before training": logits, "mcld, after": logits}
    names = ["a long name", "another one", "c", "d"]
    figure = pictures.similarity_matrices(logits, both, labels, names)
    figure.draw_without_rendering()
    whole = figure.bbox
    for axes in figure.axes[:2]:
        box = axes.get_tightbbox()
        assert whole.y0 <= box.y0
        assert box.y1 <= whole.y1


def write(path: Path, classes: int = 4) -> None:
    rng = np.random.default_rng(0)
    teacher, untrained, student = rng.normal(size=(3, 60, classes)).astype(np.float32)
    names = [f"class {number}" for number in range(classes)]
    labels = rng.integers(0, classes, 60)
    students = {"ce": student, "mcld": teacher}
    predictions = report.Predictions(labels, names, teacher, untrained, students)
    records = [record("<b>", 0, 0.5)]
    table = tables.table(records, {})
    histories = {"ce": history([0.4, 0.5]), "mcld": history([0.4, 0.6], [0.4, 0.5])}
    for row in histories["ce"]:
        del row["term_instance"], row["term_category"]
    options = {"mcld": {"lr": 0.1}}
    report.write_report(path, "A & B", "<Best>", table, records, histories, predictions, options)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write(path)
    return path


def test_the_report_is_one_file_that_asks_for_nothing(written: Path) -> None:
    text = written.read_text()
    assert "<td>&lt;b&gt;</td>" in text
    assert "A &amp; B" in text
    assert text.index("&lt;Best&gt;") < text.index("<h2>Accuracy</h2>")
    assert len(re.findall('src="data:image/png;base64,', text)) == 6
    assert not re.findall(r'(?:src|href)="(?!data:)', text)


def test_a_report_on_many_classes_is_drawn(tmp_path: Path) -> None:
    write(tmp_path / "report.html", classes=100)
    assert (tmp_path / "report" / "confusion.png").exists()


def test_its_pictures_lie_beside_it(written: Path) -> None:
    names = ["confusion", "curves", "logit_correlation", "pairs", "similarity", "terms_of_mcld"]
    files = sorted(written.with_suffix("").iterdir())
    assert [file.name for file in files] == [f"{name}.png" for name in names]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


#: Collects errors of loading and of scripts, and writes them and the pictures' sizes to the title.
PROBE = """<script>
addEventListener("error", e => document.title += " failed: " + (e.message || e.target.src), true);
addEventListener("load", () => {
  const sizes = [...document.images].map(i => i.naturalWidth * i.naturalHeight * i.clientWidth);
  document.title += " " + sizes.length + " " + sizes.every(size => size > 1000000);
});</script></head>"""


def open_in_browser(path: Path, profile: Path) -> tuple[str, list[str]]:
    """Return the page's title after loading, and what went to its console."""
    command = [chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--enable-logging=stderr", f"--user-data-dir={profile}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    (title,) = re.findall("<title>(.*?)</title>", done.stdout)
    return title, re.findall(r":CONSOLE[:(].*", done.stderr)


def test_the_report_loads_in_a_browser_and_its_pictures_have_a_size(
    written: Path, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(written.read_text().replace("</head>", PROBE, 1))
    title, console = open_in_browser(path, tmp_path / "profile")
    assert title == "A &amp; B 6 true"
    assert console == []


def test_a_broken_picture_and_a_broken_script_are_seen(tmp_path: Path) -> None:
    """Else the test above could not fail."""
    path = tmp_path / "report.html"
    broken = '<img src="data:image/png;base64,AAAA"><script>nothing.there</script>'
    path.write_text(f"<title>A</title><head>{PROBE}<body>{broken}</body>")
    title, console = open_in_browser(path, tmp_path / "profile")
    assert "failed: data:image/png;base64,AAAA" in title
    assert title.endswith("1 false")
    assert len(console) == 1


@pytest.mark.parametrize(
    ("environment", "outcome"),
    [
        ({"CHROMIUM": "no-such-browser"}, pytest.fail.Exception),
        ({"MCLD_REQUIRE_CHROMIUM": "1"}, pytest.fail.Exception),
        ({"MCLD_REQUIRE_CHROMIUM": "0"}, pytest.skip.Exception),
        ({}, pytest.skip.Exception),
    ],
)
def test_a_missing_browser_is_skipped_where_none_is_required(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], outcome: type[BaseException]
) -> None:
    for name in ("CHROMIUM", "MCLD_REQUIRE_CHROMIUM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(outcome, match="apt-get install chromium"):
        chromium()
