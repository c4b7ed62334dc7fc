"""The comparison: what it trains and with what, tuning, what it leaves, and how it goes on."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recipes.checkpoints import load_torch
from recipes.comparing import tuning
from recipes.configs import parse_options
from recipes.options import build_parser
from recipes.watching import Progress

from benchmarks.comparison import __main__
from benchmarks.comparison.line import Line
from benchmarks.comparison.trainings import PRESETS, Variant, variant
from tests.examples.scripts.test_training_scripts import weights

SMALL = ["--dataset", "digits", "--teacher", "mlp-8", "--teacher-epochs", "2", "--student",
         "mlp-8", "--epochs", "2", "--train-size", "512", "--no-onnx"]  # fmt: skip

ROOT = Path(__main__.__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_lines_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, a line is printed once, at its end."""
    monkeypatch.setattr(Line.__init__, "__defaults__", (float("inf"),))


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the report, whose pictures outlast the trainings."""
    monkeypatch.setattr(__main__, "write_report", lambda *_: None)


def run(*arguments: str, out: Path) -> int:
    return __main__.main([*SMALL, "--seeds", "0", *arguments, "--results", str(out)])


def test_every_method_and_seed_with_one_teacher_a_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ["ce", "kd:temperature=1", "mcld"]
    assert run("--methods", *methods, "--seeds", "0", "1", out=tmp_path) == 0
    printed = capsys.readouterr().out
    for method in ["teacher", *methods]:
        assert f"| {method} |" in printed
    records = json.loads((tmp_path / "results.json").read_text())
    assert {(record["method"], record["seed"]) for record in records} == {
        (method, seed) for method in ["teacher", *methods] for seed in (0, 1)
    }
    assert all(0.0 < record["test_last"] < 1.0 for record in records)
    kd = json.loads((tmp_path / "seed1" / "kd_temperature=1" / "config.json").read_text())
    assert kd["loss"] == ["temperature=1"]
    assert kd["teacher_weights"] == [str(tmp_path / "seed1" / "teacher" / "last.pt")]
    text = (tmp_path / "results.md").read_text()
    assert text.startswith("`python -m benchmarks.comparison --dataset digits")
    assert "Best: " in text
    assert "standard error of the paired difference over 2 seeds" in text
    assert "points (95 % interval over the seeds) |" in text
    assert "449 test rows alone give an accuracy a standard error of " in text
    page = re.sub('base64,[^"]*', "", (tmp_path / "report.html").read_text())
    assert "Best: " in page
    assert "kd:temperature=1 = " in page  # its settings, and none of methods that did not run
    assert "dkd" not in page
    assert re.search(r"8 trainings; files: ", printed)
    lines = printed.rstrip().splitlines()
    assert lines[-1] == f"Report: {tmp_path / 'report.html'}"
    told = lines[: lines.index("")]  # what comes before the table: a line a method
    assert [line.split()[0] for line in told[2:]] == ["teacher", *methods]
    found = {line.split()[0]: line.split("  ", 1)[1].strip() for line in told[2:]}
    scores = [100 * record["test_last"] for record in records if record["method"] == "ce"]
    text = rf"{np.mean(scores):.2f} ± {np.std(scores, ddof=1):.2f} % of the test split, 2 seeds"
    assert re.fullmatch(rf"{text}  \(\d+s left\)", found["ce"])
    assert found["mcld"].endswith("2 seeds")


def test_the_rates_are_those_of_the_committed_results() -> None:
    page = (ROOT / "benchmarks" / "results" / "accuracy_digits.md").read_text("utf-8")
    rows = {
        "ce": "CE",
        "kd": "KD, T = 2",
        "dkd": "DKD, β = 2",
        "mcld": "MCLD",
        "mcld-ce": "MCLD + CE",
    }
    for method, name in rows.items():
        rate = re.search(rf"^\| {re.escape(name)} \| ([\d.]+) \|", page, re.MULTILINE)
        options = parse_options(build_parser(""), ["--dataset", "digits", "--method", method])
        assert rate is not None
        assert options.lr == float(rate[1]), method


def test_by_default_there_are_five_seeds() -> None:
    assert __main__.parse([])[0].seeds == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("no_report")
def test_each_method_gets_as_many_trials_and_the_best_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--methods", "ce", "kd", "--trials", "4", "--tune-seeds", "5", "--span", "100"]
    assert run(*words, out=tmp_path) == 0
    record = json.loads((tmp_path / "tuning.json").read_text())["methods"]
    for method in ("ce", "kd"):
        trials = record[method]["trials"]
        assert len(trials) == 4
        best = max(trials, key=lambda trial: trial[1])
        assert record[method]["best"] == best[0]
        assert best[1] > min(score for _, score in trials)
    results = json.loads((tmp_path / "results.json").read_text())
    rates = {entry["method"]: entry["lr"] for entry in results}
    assert rates["kd"] == pytest.approx(record["kd"]["best"]["lr"])
    best = record["kd"]["best"]["lr"]
    assert f"| kd | lr {best:.3g} |" in (tmp_path / "results.md").read_text("utf-8")
    # stopped and repeated, it asks for the same trials, which are done
    trained: list[Any] = []
    original = Progress.step
    monkeypatch.setattr(
        Progress, "step", lambda self, *rest: trained.append(1) or original(self, *rest)
    )
    assert run(*words, "--resume", out=tmp_path) == 0
    assert not trained
    assert json.loads((tmp_path / "tuning.json").read_text())["methods"] == record
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told if " chosen: lr " in line] == 2 * ["ce", "kd"]


def test_the_search_is_seeded_and_finds_a_peak() -> None:
    def score(values: dict[str, float]) -> float:
        return -abs(np.log(values["lr"] / 0.03)) if values["lr"] > 1e-3 else float("nan")

    space, first = {"lr": (1e-4, 1.0)}, {"lr": 5.0}
    one, two = (tuning.tune(score, space, 12, first=first) for _ in range(2))
    assert one == two
    assert one.trials[0][0] == {"lr": 1.0}  # brought into the range
    assert 0.01 < one.best["lr"] < 0.1
    assert one.score == max(value for _, value in one.trials)
    assert tuning.tune(score, space, 12, first=first, seed=1).trials != one.trials


@pytest.mark.usefixtures("no_report")
def test_trials_choose_each_method_s_own_constant_too(tmp_path: Path) -> None:
    """Not one that the variant sets; the cross-entropy has none and gets as many trials."""
    fixed = "mcld:weight_sample=0.5"
    words = ["--methods", "ce", "dkd", fixed, "--trials", "3", "--tune-seeds", "5", "--constants"]
    assert run(*words, out=tmp_path) == 0
    record = json.loads((tmp_path / "tuning.json").read_text())["methods"]
    names = {method: set(found["best"]) for method, found in record.items()}
    assert names == {"ce": {"lr"}, "dkd": {"lr", "beta"}, fixed: {"lr"}}
    assert [len(found["trials"]) for found in record.values()] == [3, 3, 3]
    assert record["dkd"]["trials"][0][0]["beta"] == 2.0  # the data set's value comes first
    config = json.loads((tmp_path / "seed0" / "dkd" / "config.json").read_text())
    assert config["loss"][-1] == f"beta={record['dkd']['best']['beta']!r}"


@pytest.mark.usefixtures("no_report")
def test_a_diverged_trial_is_the_worst(tmp_path: Path) -> None:
    words = ["--methods", "ce", "--trials", "3", "--span", "1e17", "--tune-seeds", "5"]
    assert run(*words, "--lr", "1", out=tmp_path) == 0
    trials = json.loads((tmp_path / "tuning.json").read_text())["methods"]["ce"]["trials"]
    assert min(score for _, score in trials) == 0.0


@pytest.mark.usefixtures("no_report")
def test_ctrl_c_says_how_to_go_on_and_a_resumed_comparison_ends_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--methods", "ce", "mcld"]
    original, seen = Progress.step, 0

    def step(self: Progress, *rest: Any) -> None:
        nonlocal seen
        seen += "mcld" in self.name
        if seen == 5 and "mcld" in self.name:
            os.kill(os.getpid(), signal.SIGINT)
        original(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "step", step)
        assert run(*words, out=tmp_path / "stopped") == 130
    error = capsys.readouterr().err
    assert f"the state is saved in {tmp_path / 'stopped' / 'seed0' / 'mcld'}" in error
    assert "Go on with: python -m benchmarks.comparison --dataset digits" in error
    assert error.rstrip().endswith("--resume")
    assert run(*words, "--resume", out=tmp_path / "stopped") == 0
    assert run(*words, out=tmp_path / "whole") == 0
    for folder in ("ce", "mcld"):
        one, other = (weights(tmp_path / run / "seed0" / folder) for run in ("stopped", "whole"))
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert run(*words, out=tmp_path / "whole") == 2
    assert "has a run already; --resume goes on with it" in capsys.readouterr().err


@pytest.mark.usefixtures("no_report")
def test_a_loaded_teacher_stands_in_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--methods", "kd", out=tmp_path / "one") == 0
    path = tmp_path / "one" / "seed0" / "teacher" / "last.pt"
    accuracy = load_torch(path)["accuracy"]
    capsys.readouterr()
    assert run("--methods", "kd", "--teacher-weights", str(path), out=tmp_path / "two") == 0
    assert f"| teacher mlp-8 | – | – | {100 * accuracy:.2f} | – |" in capsys.readouterr().out
    one, other = (weights(tmp_path / name / "seed0" / "kd") for name in ("one", "two"))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_a_dry_run_checks_every_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--dry-run", "--trials", "2", "--seeds", "0", "1", out=tmp_path / "a") == 0
    assert "dry run: 19 trainings" in capsys.readouterr().out
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "3"], "--seed: the comparison sets it"),
        (["--out=x"], "--out: the comparison sets it"),
        (["--trials", "2", "--validation-size", "0"], "--trials chooses on the validation split"),
        (["--student", "resnet19"], "unknown model 'resnet19'"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(*arguments, out=tmp_path) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "kdd"], "unknown method"),
        (["--methods", "kd:colour=3"], "--loss colour=3: kd has the settings"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
    ],
)
def test_options_are_checked_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(*arguments, out=tmp_path)
    assert message in capsys.readouterr().err


def test_variants_are_words_of_the_script(tmp_path: Path) -> None:
    assert Variant("mcld:bank_size=all,beta=2").words() == [
        "--method", "mcld", "--bank-size", "all", "--loss", "beta=2"
    ]  # fmt: skip
    for preset in PRESETS.values():
        for name in preset:
            assert variant(name).words()
    for preset in PRESETS:
        assert run("--dry-run", "--preset", preset, "--epochs", "1", out=tmp_path / preset) == 0
