"""Options: what overrides what, configuration files and their mistakes, rates, a run's folder."""

from __future__ import annotations

import argparse
import importlib
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from recipes.configs import parse_options
from recipes.data.load import READERS
from recipes.exits import command_to_resume
from recipes.files import DataError
from recipes.folder import begin, resolved
from recipes.methods import METHODS, settings
from recipes.options import (
    TABLES,
    build_parser,
    mcld_config,
)
from recipes.run import Run
from recipes.teachers import teacher_options

from mcld_core import MCLDConfig

SCRIPTS = ("keras_cifar100", "tf_imagenet")
OPTION = re.compile(r"--[a-z][\w-]*")


def parse(*argv: str) -> argparse.Namespace:
    return parse_options(build_parser("test"), argv)


TOML = 'dataset = "fashion_mnist"\nepochs = 7\nflip = true\nlr = 1e-2\nloss = ["beta=0.5"]\n'
JSON = json.dumps({"dataset": "fashion_mnist", "epochs": 7, "flip": True, "lr": 1e-2,
                   "loss": ["beta=0.5"], "teacher-cache": None})  # fmt: skip
YAML = "dataset: fashion_mnist\nepochs: 7\nflip: true\nlr: 0.01\nloss:\n  - beta=0.5\n"


@pytest.mark.parametrize(("suffix", "text"), [("toml", TOML), ("json", JSON), ("yaml", YAML)])
def test_command_line_over_file_over_data_set_over_option(
    tmp_path: Path, suffix: str, text: str
) -> None:
    path = tmp_path / f"run.{suffix}"
    path.write_text(text)
    options = parse("--config", str(path), "--epochs", "9")
    assert options.dataset == "fashion_mnist"
    assert options.epochs == 9
    assert options.flip is True
    assert options.lr == 0.01
    assert mcld_config(options) == MCLDConfig(beta=0.5)
    assert options.schedule == "cosine"
    assert options.momentum == 0.9
    assert options.out == Path("runs/fashion_mnist/mcld")


def test_the_resolved_options_are_a_configuration_file(tmp_path: Path) -> None:
    first = parse(
        *("--dataset", "cifar100", "--lr", "0.02", "--loss", "target_mask=False", "--seed", "4"),
        *("--teacher", "vgg13", "--teacher", "wrn_40_2", "--teacher-mean", "-0.5", "0.5", "1"),
    )
    path = tmp_path / "config.json"
    path.write_text(json.dumps(resolved(first)))
    second = parse("--config", str(path))
    assert resolved(first) == resolved(second)
    assert second.teacher == ["vgg13", "wrn_40_2"]
    assert second.teacher_mean == [-0.5, 0.5, 1.0]
    assert mcld_config(second) == MCLDConfig(target_mask=False)
    # what the command line names takes the place of the file's
    assert parse("--config", str(path), "--teacher", "resnet56").teacher == ["resnet56"]


def test_the_published_recipe_is_the_default_on_cifar100() -> None:
    options = parse("--dataset", "cifar100")
    assert (options.epochs, options.batch_size, options.crop, options.flip) == (240, 64, 4, True)
    assert (options.momentum, options.weight_decay, options.schedule) == (0.9, 5e-4, "step")
    assert (options.lr, options.optimizer, options.warmup) == (0.05, "sgd", 0)


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
@pytest.mark.parametrize("student", ["mobilenet_v2", "shufflenet_v1", "shufflenet_v2"])
def test_light_students_of_cifar_have_the_published_smaller_rate(
    dataset: str, student: str, tmp_path: Path
) -> None:
    options = parse("--dataset", dataset, "--student", student)
    assert (options.lr, options.teacher_lr) == (0.01, 0.05)
    assert parse("--dataset", dataset, "--student", student, "--lr", "0.02").lr == 0.02
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"dataset": dataset, "student": student}))
    assert parse("--config", str(path)).lr == 0.01
    assert parse("--student", student).lr == 0.1  # of digits


def test_every_data_set_has_its_defaults() -> None:
    (action,) = (item for item in build_parser("")._actions if item.dest == "dataset")
    assert set(action.choices) == set(TABLES) == set(READERS)
    for name in TABLES:
        assert parse("--dataset", name).epochs > 0


def test_the_help_says_how_to_train_on_all_images_of_cifar() -> None:
    text = " ".join(build_parser("test").format_help().split())
    assert "CIFAR holds out 5,000; 0 trains on the published 50,000" in text


def test_every_field_of_the_configuration_is_a_setting() -> None:
    assert mcld_config(parse()) == MCLDConfig()
    options = parse(
        "--loss", "similarity=pearson", "temperature=0.2", "block_size=none",
        "category_contrast=columns", "sample_target_mask=false", "beta=2",
    )  # fmt: skip
    expected = MCLDConfig(
        similarity="pearson",
        temperature=0.2,
        block_size=None,
        category_contrast="columns",
        sample_target_mask=False,
        beta=2.0,
    )
    assert mcld_config(options) == expected
    assert mcld_config(parse("--method", "mcld-ce")) == MCLDConfig(weight_ce=1.0)
    assert set(settings(parse())) == {field.name for field in fields(MCLDConfig)}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_its_settings(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse("--method", method, "--loss", "colour=1")
    error = capsys.readouterr().err
    known = settings(parse("--method", method))
    assert f"--loss colour=1: {method} has the settings" in error
    assert all(name in error for name in known)


def test_few_classes_have_milder_settings() -> None:
    assert settings(parse("--method", "kd"))["temperature"] == 2.0
    assert settings(parse("--method", "kd", "--dataset", "cifar100"))["temperature"] == 4.0
    assert settings(parse("--method", "dkd", "--loss", "beta=3"))["beta"] == 3.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"epoch": 3}', "unknown option 'epoch'"),
        ('{"epochs": "many"}', "--epochs: invalid int value: 'many'"),
        ('{"epochs": [3]}', "epochs is one value"),
        ('{"epochs": true}', "epochs is one value"),
        ('{"flip": 1}', "flip is true or false"),
        ('{"schedule": "linear"}', "--schedule: invalid choice: 'linear'"),
        ('{"loss": ["betta=0.1"]}', "mcld has the settings"),
        ("[3]", "expected options with their values"),
        ("{", "Expecting property name"),
    ],
)
def test_mistakes_in_a_file_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(SystemExit, match="2"):
        parse("--config", str(path))
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.ini", "epochs=3", "expected a file .json, .toml, .yaml or .yml"),
        ("run.yaml", "a: [", "while parsing"),
        ("run.toml", "epochs =", "Invalid value"),
    ],
)
def test_a_configuration_of_another_format_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit, match="2"):
        parse("--config", str(tmp_path / name))
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"--config {tmp_path / name}: " in error
    assert message in error


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lr", "-1"], "--lr: expected a rate > 0"),
        (["--teacher-lr", "inf"], "--teacher-lr: expected a rate > 0"),
        (["--epochs", "-1"], "--epochs: expected at least 0"),
        (["--eval-every", "0"], "--eval-every: expected at least 1"),
        (["--loss", "sample_temperature=0"], "sample_temperature"),
        (["--loss", "beta=high"], "--loss beta=high: expected a float"),
        (["--loss", "target_mask=1"], "--loss target_mask=1: expected a bool"),
        (["--bank-size", "-3"], "expected a number of rows ≥ 0, or all"),
        (["--resume", "--overwrite"], "--resume and --overwrite exclude each other"),
        (["--teacher-cache", "x", "--crop", "1"], "--teacher-cache needs images that stay"),
        (["--balanced"], "--balanced needs the counts of the labels: --class-prior train"),
    ],
)
def test_mistakes_on_the_command_line_are_named(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(*argv)
    assert message in capsys.readouterr().err


def test_a_resumed_run_may_change_what_it_does_not_depend_on(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path))
    begin(parse(*out))  # nothing to compare with
    begin(parse(*out, "--batch-size", "32"))  # nothing was trained yet
    begin(parse(*out))
    (tmp_path / "checkpoint.pt").write_text("of a training")
    with pytest.raises(DataError, match=r"has a run already; --resume goes on with it"):
        begin(parse(*out))
    resume = (*out, "--resume")
    begin(parse(*resume, "--data-dir", "other", "--tensorboard", "--log-seconds", "3"))
    with pytest.raises(DataError, match=r"batch_size was 64 and is 32"):
        begin(parse(*resume, "--batch-size", "32"))
    with pytest.raises(DataError, match=r"Resume with --config .*config.json, or choose another"):
        begin(parse(*resume, "--crop", "1"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config.json is damaged"):
        begin(parse(*resume))
    begin(parse(*out, "--overwrite"))
    assert not (tmp_path / "checkpoint.pt").exists()


def test_teachers_that_are_trained_have_folders_and_seeds_of_their_own() -> None:
    options = parse("--teacher", "mlp-8", "--out", "run", "--seed", "3", "--bank-size", "7")
    one = teacher_options(options, 0)
    assert (one.student, one.method, one.out, one.seed) == ("mlp-8", "ce", Path("run/teacher"), 3)
    assert (one.epochs, one.lr, one.bank_size) == (options.teacher_epochs, options.teacher_lr, 0)
    options.teacher = ["mlp-8", "mlp-8"]
    two = teacher_options(options, 1)
    assert (two.out, two.seed) == (Path("run/teacher1"), 1003)


def rates(*argv: str) -> list[float]:
    options = parse("--lr", "0.2", *argv)
    run, found = Run(options, None, None, 0, 8), []
    for run.epoch in range(options.epochs):
        found.append(run.begin_epoch())
    return found


def test_steps_are_at_the_published_epochs() -> None:
    found = rates("--dataset", "cifar100")
    falls = [epoch for epoch in range(1, 240) if found[epoch] < found[epoch - 1]]
    assert falls == [150, 180, 210]
    assert [found[epoch] for epoch in (0, 150, 180, 210)] == pytest.approx([0.2, 2e-2, 2e-3, 2e-4])


def test_the_cosine_falls_to_zero_after_a_warm_up() -> None:
    found = rates("--schedule", "cosine", "--epochs", "4")
    assert found == pytest.approx([0.2, 0.1 * (1 + 0.5**0.5), 0.1, 0.1 * (1 - 0.5**0.5)])
    warm = rates("--schedule", "cosine", "--epochs", "4", "--warmup", "2")
    assert warm == pytest.approx([0.2 / 3, 0.4 / 3, *found[2:]])


def test_on_several_machines_the_command_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command_to_resume("a.py", ["--resume"]) == "python a.py --resume"
    assert command_to_resume("a.py", ["--overwrite"]) == "python a.py --resume"
    known = {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    wanted = "torchrun --nnodes 2 --nproc-per-node 4 a.py --out 'b c' --resume"
    assert command_to_resume("a.py", ["--out", "b c"]) == wanted


def options_of(script: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(script).main(["--help"])
    return set(re.findall(r"^  (?:-h, )?(--[a-z][\w-]*)", capsys.readouterr().out, re.MULTILINE))


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_has_the_shared_options(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = set(OPTION.findall(" ".join(build_parser("test")._option_string_actions)))
    found = options_of(script, capsys)
    assert found >= {name for name in shared if not name.startswith("--no-")}
