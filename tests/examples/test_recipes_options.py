"""Options: what overrides what, configuration files and their mistakes, learning rates."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from recipes.methods import mcld_config
from recipes.options import MAY_CHANGE, build_parser, check_resumed, parse_options, resolved
from recipes.readers import DataError

from mcld_core import MCLDConfig
from tests.examples.conftest import EXAMPLES

SCRIPTS = ("torch_cifar100", "jax_cifar100", "keras_cifar100", "tf_imagenet")
OPTION = re.compile(r"--[a-z][\w-]*")


def parse(*argv: str) -> object:
    return parse_options(build_parser("test"), argv)


def test_command_line_over_file_over_data_set_over_option(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('dataset = "fashion_mnist"\nepochs = 7\nkd-temperature = 3\nflip = true\n')
    options = parse("--config", str(path), "--epochs", "9")
    assert options.dataset == "fashion_mnist"
    assert options.epochs == 9
    assert options.kd_temperature == 3.0
    assert options.flip is True
    assert options.schedule == "cosine"
    assert options.momentum == 0.9
    assert options.out == Path("runs/fashion_mnist")


def test_the_resolved_options_are_a_configuration_file(tmp_path: Path) -> None:
    first = parse(
        "--dataset", "cifar100", "--lr", "mcld=0.02", "--no-mcld-target-mask", "--seeds", "4", "5"
    )
    path = tmp_path / "config.json"
    path.write_text(json.dumps(resolved(first)))
    second = parse("--config", str(path))
    assert resolved(first) == resolved(second)
    assert second.learning_rates["mcld"] == 0.02
    assert second.mcld_target_mask is False


def test_the_published_recipe_is_the_default_on_cifar100() -> None:
    options = parse("--dataset", "cifar100")
    assert (options.epochs, options.batch_size, options.crop, options.flip) == (240, 64, 4, True)
    assert (options.momentum, options.weight_decay, options.schedule) == (0.9, 5e-4, "step")
    assert set(options.learning_rates.values()) == {0.05}


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
@pytest.mark.parametrize("student", ["mobilenet_v2", "shufflenet_v1", "shufflenet_v2"])
def test_light_students_of_cifar_have_the_published_smaller_rate(
    dataset: str, student: str, tmp_path: Path
) -> None:
    options = parse("--dataset", dataset, "--student", student, "--lr", "kd=0.02")
    assert options.learning_rates.pop("kd") == 0.02
    assert set(options.learning_rates.values()) == {0.01}
    assert options.teacher_lr == 0.05
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"dataset": dataset, "student": student}))
    assert set(parse("--config", str(path)).learning_rates.values()) == {0.01}
    assert set(parse("--student", student).learning_rates.values()) == {0.03, 0.1}  # of digits


def test_the_help_says_how_to_train_on_all_images_of_cifar() -> None:
    text = " ".join(build_parser("test").format_help().split())
    assert "CIFAR holds out 5,000; 0 trains on the published 50,000" in text


def test_rates_a_method_override_the_one_for_all() -> None:
    options = parse("--lr", "mcld=0.5", "0.2")
    assert options.learning_rates["mcld"] == 0.5
    assert options.learning_rates["ce"] == 0.2


def test_every_field_of_the_configuration_is_an_option() -> None:
    assert mcld_config(parse()) == MCLDConfig()
    options = parse(
        *("--mcld-similarity", "pearson", "--mcld-temperature", "0.2", "--mcld-block-size", "none"),
        *("--mcld-category-contrast", "columns", "--no-mcld-sample-target-mask"),
    )
    expected = MCLDConfig(
        similarity="pearson",
        temperature=0.2,
        block_size=None,
        category_contrast="columns",
        sample_target_mask=False,
    )
    assert mcld_config(options) == expected
    assert mcld_config(options, "mcld-ce").weight_ce == 1.0
    for field in fields(MCLDConfig):
        assert hasattr(options, f"mcld_{field.name}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"epoch": 3}', "unknown option 'epoch'"),
        ('{"epochs": "many"}', "epochs: invalid literal"),
        ('{"epochs": [3]}', "epochs is one value"),
        ('{"seeds": 3}', "seeds is a list"),
        ('{"flip": 1}', "flip is true or false"),
        ('{"schedule": "linear"}', "'linear' is none of step, cosine"),
        ('{"lr": ["kdd=0.1"]}', "unknown method"),
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
    error = capsys.readouterr().err
    assert message in error
    assert str(path) in error


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lr", "kd=-1"], "expected a rate > 0"),
        (["--epochs", "0"], "--epochs: expected at least 1"),
        (["--tune-lr", "--validation-size", "0"], "--tune-lr chooses on the validation split"),
        (["--mcld-sample-temperature", "0"], "sample_temperature"),
    ],
)
def test_mistakes_on_the_command_line_are_named(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(*argv)
    assert message in capsys.readouterr().err


def test_a_resumed_run_may_change_what_its_trainings_do_not_depend_on(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path))
    check_resumed(parse(*out))  # nothing to compare with
    path = tmp_path / "config.json"
    path.write_text(json.dumps(resolved(parse(*out))))
    check_resumed(parse(*out, "--methods", "kd", "--seeds", "3", "--data-dir", "other"))
    with pytest.raises(DataError, match=r"batch_size was 64 and is 32, mcld_beta was 1.0 and is 2"):
        check_resumed(parse(*out, "--batch-size", "32", "--mcld-beta", "2"))
    with pytest.raises(DataError, match=r"Resume with --config .*config.json, or choose another"):
        check_resumed(parse(*out, "--crop", "1"))
    path.write_text("{")
    with pytest.raises(DataError, match=r"config.json is damaged"):
        check_resumed(parse(*out))


def test_what_may_change_are_options() -> None:
    known = vars(parse()).keys() | {"device", "replicas", "transfer", "transfer_size"}
    assert known | {"transfer_validation_size"} >= MAY_CHANGE


def options_of(script: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(script).main(["--help"])
    return set(re.findall(r"^  (?:-h, )?(--[a-z][\w-]*)", capsys.readouterr().out, re.MULTILINE))


def documented() -> list[tuple[set[str], dict[str, bool]]]:
    """Return the rows of the page: options, and which scripts have them."""
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text("utf-8")
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| `--")]
    return [
        (
            set(OPTION.findall(name)),
            dict(zip(SCRIPTS, (cell.strip() != "no" for cell in cells), strict=True)),
        )
        for name, *cells in rows
    ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_page_says_which_script_has_an_option(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """All have the shared ones; what only some have is in the page's table."""
    shared = set(OPTION.findall(" ".join(build_parser("test")._option_string_actions)))
    found = options_of(script, capsys)
    assert found >= {name for name in shared if not name.startswith("--no-")}
    rows = documented()
    for names, has in rows:
        assert names <= found if has[script] else not names & found, names
    assert found - shared <= set().union(*(names for names, _ in rows)) | {"--teacher-checkpoint"}


@pytest.mark.parametrize("script", SCRIPTS[1:])
def test_probing_on_another_data_set_is_refused_where_there_is_none(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(script).main(["--transfer", "stl10"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("error: unrecognized arguments: --transfer stl10")
