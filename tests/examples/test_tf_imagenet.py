"""The TensorFlow recipe: its quick command, exact resumption, two replicas."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tf_imagenet
from recipes import array_loop, tf_models, tf_teacher

from tests.examples.conftest import EXAMPLES, QUICK
from tests.examples.picture_files import class_folders, shards

SMALL = ["--teacher", "mlp-16", "--teacher-epochs", "1", "--student", "mlp-8", "--epochs", "2"]


@pytest.fixture(autouse=True)
def quick_end(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test looks at pictures and export; they take longer than the training of the others."""
    if "report" not in request.node.name:
        monkeypatch.setattr("recipes.comparison.write_report", lambda *arguments: None)
        monkeypatch.setattr("recipes.plots.png", lambda figure: b"")
        monkeypatch.setattr("recipes.tf_onnx.export_student", lambda *_: None)


def run(out: Path, *arguments: str) -> int:
    return tf_imagenet.main([*SMALL, *arguments, "--out", str(out)])


def weights(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "last.npz") as archive:
        return {name: archive[name] for name in archive if name != "notes"}


def assert_equal_weights(one: Path, other: Path, tolerance: float = 0.0) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert first
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=0, atol=tolerance, err_msg=name)


def test_all_methods_train_and_leave_files_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ["ce", "kd", "kd-ls", "dkd", "mcld", "mcld-ce"]
    arguments = ["--methods", *methods, "--bank-size", "100", "--teacher", "conv-2"]
    assert run(tmp_path, *arguments, "--epochs", "1") == 0
    printed = capsys.readouterr().out
    for method in ["teacher", *methods]:
        assert f"| {method} |" in printed
        assert (tmp_path / "seed0" / method / "last.npz").exists()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["teacher"] == "conv-2"


def interrupt_after(steps: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a signal during the given step of a student's training."""
    original = array_loop.progress_bar
    seen = 0

    def bar(batches: Any, total: int, title: str, initial: int = 0) -> Iterator[Any]:
        nonlocal seen
        for batch in original(batches, total, title, initial):
            if "mcld" in title:
                seen += 1
                if seen == steps:
                    os.kill(os.getpid(), number)
            yield batch

    monkeypatch.setattr(array_loop, "progress_bar", bar)


KILLED = """
import os, signal, sys
import pytest, tf_imagenet
from tests.examples.test_tf_imagenet import interrupt_after
interrupt_after(22, signal.SIGKILL, pytest.MonkeyPatch())
tf_imagenet.main(sys.argv[1:])
"""


def test_killed_in_an_epoch_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """With a bank, whose rows and cursor have to come back too."""
    arguments = ["--student", "mlp-16", "--methods", "mcld", "--bank-size", "50", "--epochs", "10"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.run(
        [sys.executable, "-c", KILLED, *SMALL, *arguments, "--out", str(killed)],
        env=os.environ | {"PYTHONPATH": f"{EXAMPLES}:{EXAMPLES.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert (killed / "seed0" / "mcld" / "checkpoint.npz").exists()
    assert run(killed, *arguments, "--resume") == 0
    assert run(whole, *arguments) == 0
    record = json.loads((whole / "results.json").read_text())[1]
    assert record["test_last"] > 0.3  # chance is 0.1
    for name in ("teacher", "mcld"):
        assert_equal_weights(killed / "seed0" / name, whole / "seed0" / name)


def test_ctrl_c_saves_within_the_epoch_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(20, signal.SIGINT, patch)
        assert run(tmp_path / "stopped", "--methods", "mcld") == 130
    error = capsys.readouterr().err
    assert "stopped in epoch 2/2 after step 4" in error
    assert "and --resume" in error
    assert run(tmp_path / "stopped", "--methods", "mcld", "--resume") == 0
    assert run(tmp_path / "whole", "--methods", "mcld") == 0
    assert_equal_weights(*(tmp_path / name / "seed0" / "mcld" for name in ("stopped", "whole")))


@pytest.mark.parametrize("bank", [["100"], ["all", "--flip"]])
def test_two_replicas_equal_one(tmp_path: Path, bank: list[str]) -> None:
    """Without batch norm, whose statistics are each replica's own."""
    arguments = [*SMALL, "--methods", "mcld", "--replicas", "2", "--bank-size", *bank]
    source = QUICK.format(example="tf_imagenet", framework="tf")
    two = [sys.executable, "-c", source, *arguments, "--out", str(tmp_path / "two")]
    process = subprocess.run(two, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "2 replicas" in process.stdout
    assert run(tmp_path / "one", "--methods", "mcld", "--bank-size", *bank) == 0
    assert_equal_weights(*(tmp_path / name / "seed0" / "mcld" for name in ("one", "two")), 1e-4)


@pytest.mark.parametrize("make", [class_folders, shards])
def test_folders_and_records_are_learned(tmp_path: Path, make: Any) -> None:
    root = make(tmp_path / "pictures")
    arguments = ["--dataset", "imagenet", "--data-dir", str(root), "--image-size", "16"]
    arguments += ["--batch-size", "8", "--epochs", "4", "--teacher-epochs", "4", "--amp", "bf16"]
    arguments += ["--student", "conv-2", "--teacher", "conv-4", "--lr", "0.05"]
    arguments += ["--validation-size", "4", "--train-size", "32"]
    try:
        assert run(tmp_path / "run", *arguments, "--teacher-lr", "0.05", "--methods", "mcld") == 0
    finally:
        keras.mixed_precision.set_global_policy("float32")
    records = json.loads((tmp_path / "run" / "results.json").read_text())
    assert records[0]["test_last"] > 0.6  # chance is 1/3
    log = (tmp_path / "run" / "seed0" / "mcld" / "log.csv").read_text()
    assert len(log.splitlines()) == 5
    assert "validation_accuracy" in log
    assert (tmp_path / "run" / "seed0" / "mcld" / "best.npz").exists()


def test_float16_scales_the_loss(tmp_path: Path) -> None:
    try:
        assert run(tmp_path, "--methods", "mcld", "--amp", "fp16") == 0
    finally:
        keras.mixed_precision.set_global_policy("float32")
    record = json.loads((tmp_path / "results.json").read_text())[1]
    assert record["test_last"] > 0.2  # chance is 0.1


def test_pictures_that_do_not_decode_are_left_out_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = class_folders(tmp_path / "pictures")
    for path in (root / "val" / "red" / "0.JPEG", *(root / "train" / "blue").glob("[0-4].JPEG")):
        path.write_bytes(path.read_bytes()[:100])
    arguments = ["--dataset", "imagenet", "--data-dir", str(root), "--image-size", "16"]
    assert run(tmp_path / "run", *arguments, "--batch-size", "4", "--methods", "ce") == 0
    printed = capsys.readouterr().out
    assert "skipped 1 test pictures that do not decode" in printed
    assert printed.count("seed 0 ce: left out 5 training pictures that do not decode") == 1


def test_a_teacher_of_arrays_answers_once_through_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it would in each step; a second run reads the answers."""
    methods = ["--methods", "kd", "mcld", "--bank-size", "100"]
    one, two, steps = tmp_path / "one", tmp_path / "two", tmp_path / "steps"
    cached = [*methods, "--teacher-cache", str(tmp_path / "cache")]
    assert run(one, *cached) == 0
    (file,) = (tmp_path / "cache").glob("digits-*.npy")
    teacher = ["--teacher-checkpoint", str(one / "seed0" / "teacher" / "last.npz")]
    with monkeypatch.context() as patch:
        patch.setattr("recipes.cached_logits.TeacherCache.write", None)
        assert run(two, *cached, *teacher) == 0
    with monkeypatch.context() as patch:
        patch.setattr("recipes.tf_teacher.teach", lambda *_, **__: tf_teacher.Teaching())
        assert run(steps, *methods, *teacher) == 0
    for method in ("kd", "mcld"):
        folder = Path("seed0") / method
        assert_equal_weights(one / folder, two / folder)
        assert_equal_weights(one / folder, steps / folder, 1e-5)
    file.write_bytes(file.read_bytes()[:1000])
    assert run(two, *cached, *teacher) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "resnet19"], "unknown model 'resnet19'; known: mlp-WIDTH"),
        (["--dataset", "imagenet", "--data-dir", "nowhere"], "nowhere/train does not exist"),
        (["--teacher-checkpoint", "nowhere.npz"], "nowhere.npz does not exist"),
        (["--batch-size", "2000"], "1078 training pictures make no batch"),
        (["--methods", "ce", "--lr", "ce=1e18"], "seed 0 ce: the loss is"),
    ],
)
def test_mistakes_are_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "imagenet", "--download"], "ImageNet at image-net.org, and pass --data-dir"),
        (["--dataset", "openclipart", "--bank-size", "all"], "--bank-size all needs all training"),
        (
            ["--dataset", "imagenet", "--no-flip", "--teacher-cache", "x"],
            "needs all training images",
        ),
        (["--teacher-cache", "x", "--random-resized-crop"], "images that stay the same"),
        (["--dataset", "openclipart", "--crop", "4"], "pass --no-random-resized-crop as well"),
    ],
)
def test_options_that_cannot_be_met_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path, *arguments)
    assert message in capsys.readouterr().err


def test_digits_are_cut_to_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--train-size", "200", "--validation-size", "50", "--methods", "ce"]
    assert run(tmp_path, *arguments, "--download") == 0
    assert "digits: 200 training, 50 validation, 449 test pictures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("mobilenet_v1", 4_231_976),
    ],
)
def test_models_have_the_published_sizes(name: str, published: int) -> None:
    model = tf_models.build(name, (224, 224, 3), 1000)
    assert tf_models.count_parameters(model) == published
    assert model.output_shape == (None, 1000)
