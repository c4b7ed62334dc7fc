"""Keras' script in one process on one of Keras' backends; `test_keras_cifar100` starts it."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

import data
import keras
import keras_cifar100
import keras_networks
import numpy as np
import pytest
from keras import layers, ops

from tests import processes
from tests.examples.stopping import assert_said_in_one_line, killed, stop_after

# warnings are Keras' and NumPy's own
pytestmark = [pytest.mark.usefixtures("no_export"), pytest.mark.filterwarnings("ignore")]
NET = "tests.examples.keras_suite:net"
SMALL = ["--dataset", "digits", "--train-size", "64", "--batch-size", "16", "--epochs", "3",
         "--student", NET, "--teacher", NET, "--bank-size", "24"]  # fmt: skip


def net(image_shape: Any, classes: int) -> keras.Model:
    """Return a network of the reader's own: what is quick to compile, with statistics."""
    images = keras.Input(image_shape)
    x = layers.BatchNormalization()(layers.Dense(16)(layers.Flatten()(images)))
    return keras.Model(images, layers.Dense(classes)(ops.relu(x)))


def run(*words: str, out: Path) -> int:
    return keras_cifar100.main([*SMALL, *words, "--out", str(out)])


def weights(out: Path) -> list[np.ndarray]:
    model = net((8, 8, 1), 10)
    model.load_weights(out / keras_networks.WEIGHTS)
    return model.get_weights()


def test_stopped_then_killed_and_resumed_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(out=tmp_path / "whole") == 0
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        stop_after(patched, 6, signal.SIGINT)
        assert run(out=out) == 130
    assert "stopped after 1 whole epochs" in capsys.readouterr().out
    words = ["-c", killed("keras_cifar100"), "6", *SMALL, "--resume", "--out", out]
    ((status, _, errors),) = processes.ends([processes.start(*words)], 900)
    assert status == -9, errors
    assert '"epoch": 2' in (out / "state" / "training_metadata.json").read_text()
    assert run("--resume", out=out) == 0
    for whole, resumed in zip(weights(tmp_path / "whole"), weights(out), strict=True):
        assert np.array_equal(whole, resumed)


def test_mixed_pictures_have_the_labels_of_their_parts_and_exports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures of one grey each, the value of their class: pixels' mean is the labels' mean."""
    views = keras_networks.Views("vit", mirrored=True)
    views.moving = []
    values, labels = np.arange(4) / 3, np.eye(4, dtype="float32")[np.arange(8) % 4]
    images = np.broadcast_to((labels @ values * 255)[:, None, None, None], (8, 16, 16, 1))
    shares = set()
    for number in range(6):
        place = np.tile(np.int32([0, number]), (8, 1))
        pixels, soft = (np.asarray(ops.convert_to_numpy(x)) for x in views((images, labels, place)))
        unsmoothed = (soft - 0.025) / 0.9
        # CutMix counts the area of a box by its sides, not by the pixels inside
        np.testing.assert_allclose(pixels.mean((1, 2, 3)), unsmoothed @ values, atol=0.12)
        np.testing.assert_allclose(soft.sum(1), 1, atol=1e-5)
        shares |= set(soft.max(1).round(3).tolist())
    assert len(shares) > 4
    words = ["--recipe", "vit", "--epochs", "1", "--validation-size", "16", "--workers", "2"]
    assert run(*words, "--student", "vit-8", out=tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert "vit-8 by mcld: test accuracy of the teacher" in said
    assert (tmp_path / "run" / "student.onnx").is_file()
    assert "val_accuracy" in (tmp_path / "run" / "log.csv").read_text()


@pytest.mark.parametrize("module", ["resnet", "mobilenet_v2", "densenet", "efficientnet"])
def test_a_network_of_keras_applications_gets_its_own_pictures(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Normalised and with the colours in the order of its ``preprocess_input``, scaled."""

    def tiny(weights: Path | None, classes: int, classifier_activation: None) -> keras.Model:
        images = keras.Input((16, 16, 3))
        model = keras.Model(images, layers.Dense(classes)(layers.Flatten()(images)))
        if weights is not None:
            model.load_weights(weights)
        return model

    tiny.__module__ = f"keras.src.applications.{module}"
    monkeypatch.setattr(keras.applications, "Tiny", tiny, raising=False)
    path, plain = tmp_path / "tiny.weights.h5", tiny(None, 4, None)
    plain.save_weights(path)
    found = data.Data([*"abcd"], (16, 16, 3), (0.5,) * 3, (0.2,) * 3, None, None, None)
    built = keras_networks.build(name := "keras.applications:Tiny", "--teacher", found, path)
    pixels = np.random.default_rng(0).random((2, 16, 16, 3), "float32")
    prepared = sys.modules[tiny.__module__].preprocess_input(255 * pixels)
    wanted = ops.convert_to_numpy(plain(prepared))
    made = ops.convert_to_numpy(keras_networks.from_pixels(*built, found)(pixels))
    np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-4 * abs(wanted).max())
    student = keras_networks.build(name, "--student", found)
    saved = keras_networks.save(student[0], argparse.Namespace(out=tmp_path, student=name), found)
    models = saved, keras_networks.from_pixels(*student, found)
    one, other = (ops.convert_to_numpy(model(pixels)) for model in models)
    assert (built[3], one.shape) == (16, (2, 4))
    assert np.array_equal(one, other)


def test_bad_input_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {
        "--batch-size=999": "--batch-size 999 is more than 64",
        "--teacher=keras.applications:NoSuchNet": "keras.applications:NoSuchNet cannot be built",
        "--teacher-weights=no.weights.h5": "no.weights.h5",
    }
    assert_said_in_one_line(run, wrong, tmp_path, capsys)
