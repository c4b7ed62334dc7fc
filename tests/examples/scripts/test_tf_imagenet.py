"""The TensorFlow example beyond what every script does: replicas, pictures, float16."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_imagenet
from recipes.data import pictures
from recipes.models import keras as networks
from recipes.models.keras_files import load_model

from mcld_core import export_onnx
from tests.examples.conftest import EXAMPLES
from tests.examples.picture_files import class_folders, shards
from tests.examples.scripts.test_training_scripts import assert_equal_weights, history, weights

SMALL = ["--teacher-epochs", "1", "--student", "mlp-8", "--epochs", "2", "--no-onnx"]
TEACHER = ["--teacher", "mlp-16"]
PICTURES = ["--dataset", "imagenet", "--image-size", "16", "--batch-size", "8", "--lr", "0.05"]
PICTURES += ["--student", "conv-2", "--teacher-lr", "0.05"]
pytestmark = pytest.mark.filterwarnings(  # of NumPy, on how Keras reads its own variables
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Each test is a process of its own in its precision and in what it says once."""
    pictures.say_once.cache_clear()
    yield
    keras.config.set_dtype_policy("float32")


def run(out: Path, *arguments: str) -> int:
    teacher = [] if "--teacher" in arguments else TEACHER
    return tf_imagenet.main([*SMALL, *teacher, *arguments, "--out", str(out)])


def run_alone(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own, where TensorFlow has not started."""
    teacher = [] if "--teacher" in arguments else TEACHER
    script = [sys.executable, str(EXAMPLES / "tf_imagenet.py"), *SMALL, *teacher, *arguments]
    return subprocess.run([*script, "--out", str(out)], capture_output=True, text=True, check=False)


def assert_close(one: Path, other: Path, tolerance: float) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert first
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=0, atol=tolerance, err_msg=name)


def test_two_replicas_equal_one(tmp_path: Path) -> None:
    """Without batch norm, whose statistics are each replica's own."""
    arguments = ["--bank-size", "100"]
    done = run_alone(tmp_path / "two", *arguments, "--replicas", "2")
    assert done.returncode == 0, done.stderr
    assert "2 replicas" in done.stdout
    assert run(tmp_path / "one", *arguments) == 0
    assert_close(tmp_path / "one", tmp_path / "two", 1e-4)


def test_two_replicas_read_image_folders(tmp_path: Path) -> None:
    """The devices are set before TensorFlow looks at a picture; and nothing is traced anew."""
    root = class_folders(tmp_path / "pictures")
    arguments = [*PICTURES, "--teacher", "conv-4", "--data-dir", str(root), "--replicas", "2"]
    arguments += ["--epochs", "6"]
    done = run_alone(tmp_path / "run", *arguments)
    assert done.returncode == 0, done.stderr
    assert "2 replicas" in done.stdout
    assert (tmp_path / "run" / "last.keras").exists()
    assert "retracing" not in done.stderr


def test_more_replicas_than_tensorflow_has_started_with_are_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tf.config.list_logical_devices()
    assert run(tmp_path, "--replicas", "2") == 2
    assert "error: --replicas 2: start a new process for them" in capsys.readouterr().err


@pytest.mark.parametrize("make", [class_folders, shards])
def test_folders_and_records_are_learned(tmp_path: Path, make: Any) -> None:
    root = make(tmp_path / "pictures")
    arguments = [*PICTURES, "--data-dir", str(root), "--epochs", "4", "--teacher-epochs", "4"]
    arguments += ["--teacher", "conv-4"]
    arguments += ["--amp", "bf16", "--validation-size", "4", "--train-size", "32"]
    assert run(tmp_path / "run", *arguments) == 0
    assert history(tmp_path / "run" / "teacher")[-1]["test_accuracy"] > 0.6  # chance is 1/3
    rows = history(tmp_path / "run")
    assert len(rows) == 4
    assert {"validation_accuracy", "term_instance"} < rows[0].keys()
    assert (tmp_path / "run" / "best.keras").exists()


def test_float16_scales_the_loss(tmp_path: Path) -> None:
    assert run(tmp_path, "--amp", "fp16") == 0
    assert history(tmp_path)[-1]["test_accuracy"] > 0.2  # chance is 0.1


def test_pictures_that_do_not_decode_are_left_out_and_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = class_folders(tmp_path / "pictures")
    damaged = [root / "val" / "red" / "0.JPEG", *(root / "train" / "blue").glob("[0-4].JPEG")]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:100])
    arguments = [*PICTURES, "--data-dir", str(root), "--batch-size", "4", "--method", "ce"]
    assert run(tmp_path / "run", *arguments) == 0
    printed = capsys.readouterr().out
    assert f"skipped 1 test pictures that do not decode, such as {damaged[0]}" in printed
    said = "left out 5 training pictures that do not decode, such as "
    assert printed.count(said) == 1
    assert any(f"{said}{path}" in printed for path in damaged[1:])


def test_a_teacher_of_arrays_answers_once_through_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it would in each step; a second run reads the answers."""
    one, two, steps = tmp_path / "one", tmp_path / "two", tmp_path / "steps"
    cached = ["--teacher-cache", str(tmp_path / "cache"), "--bank-size", "100"]
    assert run(one, *cached) == 0
    (file,) = (tmp_path / "cache").glob("digits-*.npy")
    teacher = ["--teacher-weights", str(one / "teacher" / "last.keras")]
    with monkeypatch.context() as patch:
        patch.setattr("recipes.teachers.cache.TeacherCache.write", None)
        assert run(two, *cached, *teacher) == 0
    with monkeypatch.context() as patch:
        patch.setattr("recipes.data.tf_input._crop", lambda image, *_: image)
        assert run(steps, "--bank-size", "100", *teacher, "--crop", "1") == 0
    assert_equal_weights(one, two)
    assert_close(one, steps, 1e-5)
    file.write_bytes(file.read_bytes()[:1000])
    assert run(two, *cached, *teacher, "--overwrite") == 2


def test_the_answers_of_picture_files_belong_to_their_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the cache as in each step, with a bank of all; one picture that does not decode."""
    root = class_folders(tmp_path / "pictures")
    damaged = root / "train" / "blue" / "3.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:100])
    words = [*PICTURES, "--no-random-resized-crop", "--no-flip", "--teacher", "conv-4"]
    words += ["--bank-size", "all", "--epochs", "1", "--data-dir"]
    assert run(tmp_path / "steps", *words, str(root), "--batch-size", "5") == 0
    cached = [*words, str(root), "--batch-size", "5", "--teacher-cache", str(tmp_path / "cache")]
    cached += ["--teacher-weights", str(tmp_path / "steps" / "teacher" / "last.keras")]
    assert run(tmp_path / "cached", *cached) == 0
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert_close(tmp_path / "cached", tmp_path / "steps", 1e-5)
    assert f"skipped 1 train pictures that do not decode, such as {damaged}" in (
        capsys.readouterr().out
    )


def test_records_are_counted_for_the_prior_and_not_cached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(shards(tmp_path / "shards"))
    words = [*PICTURES, "--epochs", "1", "--data-dir", root]
    prior = ["--bank-size", "all", "--class-prior", "train", "--balanced"]
    assert run(tmp_path / "prior", *words, *prior) == 0
    assert "test_balanced_accuracy" in history(tmp_path / "prior")[-1]
    still = ["--no-random-resized-crop", "--no-flip", "--teacher-cache", "x"]
    assert run(tmp_path / "cached", *words, *still) == 2
    message = "--teacher-cache: TFRecords do not say which picture is which"
    assert message in capsys.readouterr().err


def test_an_onnx_file_teaches_as_its_model_does(tmp_path: Path) -> None:
    assert run(tmp_path / "model", "--crop", "1") == 0
    model, notes = load_model(tmp_path / "model" / "teacher" / "last.keras")
    file = tmp_path / "teacher.onnx"
    export_onnx(model, file, input_shape=(8, 8, 1), metadata=notes)
    assert run(tmp_path / "file", "--teacher", str(file), "--crop", "1") == 0
    assert_close(tmp_path / "model", tmp_path / "file", 1e-4)


def test_a_network_of_keras_applications_teaches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With random weights, hence the warning; its images are scaled to what it takes."""
    root = class_folders(tmp_path / "pictures")
    arguments = [*PICTURES, "--data-dir", str(root), "--image-size", "32", "--epochs", "1"]
    arguments += ["--teacher", "keras.applications:MobileNetV3Small"]
    assert run(tmp_path / "run", *arguments) == 0
    assert "teacher keras.applications:MobileNetV3Small: " in capsys.readouterr().out
    arguments[-1] = "keras.applications:NoSuchNet"
    assert run(tmp_path / "none", *arguments) == 2
    assert "keras.applications:NoSuchNet cannot be built" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "imagenet", "--download"], "ImageNet at image-net.org, and pass --data-dir"),
        (["--teacher-cache", "x", "--random-resized-crop"], "images that stay the same"),
        (["--dataset", "openclipart", "--crop", "4"], "pass --no-random-resized-crop as well"),
        (["--replicas", "3"], "--batch-size 64 does not divide by --replicas"),
    ],
)
def test_options_that_cannot_be_met_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path, *arguments)
    assert message in capsys.readouterr().err


def test_too_few_pictures_for_a_batch_are_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--batch-size", "2000") == 2
    assert "1078 training pictures make no batch" in capsys.readouterr().err


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
    model = networks.build(name, (224, 224, 3), 1000)
    assert networks.count_parameters(model) == published
    assert model.output_shape == (None, 1000)
