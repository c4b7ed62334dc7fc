"""The pictures' numbers, the result table, and the report in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from recipes import logs, plots, report, results


def history(test: list[float], validation: list[float] | None = None) -> list[logs.Row]:
    rows = []
    for number, value in enumerate(test):
        row = {"epoch": number + 1, "lr": 0.1, "loss": 1.0 / (number + 1), "term_instance": 0.5,
               "term_ramp": 0.5, "test_accuracy": value, "seconds": 2.0}  # fmt: skip
        if validation is not None:
            row["validation_accuracy"] = validation[number]
        rows.append(row)
    return rows


def test_the_best_epoch_is_chosen_by_validation_never_by_test() -> None:
    rows = history([0.5, 0.9, 0.7], validation=[0.6, 0.5, 0.6])
    result = results.summarise("kd", 0, 0.1, 10, rows)
    assert (result.test_last, result.test_best, result.best_epoch) == (0.7, 0.5, 1)
    assert result.seconds == 6.0
    unvalidated = results.summarise("kd", 0, 0.1, 10, history([0.5, 0.9]))
    assert (unvalidated.test_last, unvalidated.test_best) == (0.9, None)


def test_the_table_gives_mean_and_sample_deviation() -> None:
    records = [
        results.Result("ce", seed, 0.1, value, None, None, 1234, 1.0)
        for seed, value in enumerate((0.5, 0.7))
    ]
    assert "| ce | 0.1 | 1,234 | 60.00 ± 14.14 | – |" in results.table(records)


def test_logit_correlations_are_numpy_s() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    correlations = plots.logit_correlations(logits)
    np.testing.assert_allclose(correlations, np.corrcoef(logits.T), atol=1e-6)
    logits[:, 1] = 3.0
    assert np.isfinite(plots.logit_correlations(logits)).all()


def write(path: Path, classes: int = 4) -> None:
    rng = np.random.default_rng(0)
    teacher, untrained, student = rng.normal(size=(3, 60, classes)).astype(np.float32)
    predictions = report.Predictions(
        rng.integers(0, classes, 60), teacher, untrained, {"ce": student, "mcld": teacher}
    )
    table = results.table([results.Result("<b>", 0, 0.1, 0.5, None, None, 9, 1.0)])
    histories = {"ce": history([0.4, 0.5]), "mcld": history([0.4, 0.6], [0.4, 0.5])}
    report.write_report(path, "A & B", table, histories, predictions, {"lr": ["mcld=0.1"]})


@pytest.mark.parametrize("classes", [4, 100])
def test_the_report_is_one_file_that_asks_for_nothing(tmp_path: Path, classes: int) -> None:
    path = tmp_path / "report.html"
    write(path, classes)
    text = path.read_text()
    assert "<td>&lt;b&gt;</td>" in text
    assert "A &amp; B" in text
    assert len(re.findall('src="data:image/png;base64,', text)) == 5
    assert not re.findall(r'(?:src|href)="(?!data:)', text)


def test_the_report_loads_in_a_browser_and_its_pictures_have_a_size(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.fail("this test needs a browser: install chromium (apt-get install chromium)")
    path = tmp_path / "report.html"
    write(path)
    probe = """<script>
    addEventListener("error", e => document.title = "failed " + e.message, true);
    addEventListener("load", () => {
      const sizes = [...document.images].map(i => i.naturalWidth * i.naturalHeight);
      document.title += " " + sizes.length + " " + sizes.every(s => s > 10000);
    });</script></head>"""
    path.write_text(path.read_text().replace("</head>", probe, 1))
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (title,) = re.findall("<title>(.*?)</title>", done.stdout)
    assert title == "A &amp; B 5 true"
