"""TensorFlow's script: a resume has the same bits, replicas and machines are one, files."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import keras
import keras_networks
import numpy as np
import pytest
import tensorflow as tf
import tf_imagenet
from data import Pictures, decode
from PIL import Image

from tests import processes
from tests.examples.conftest import EXAMPLES
from tests.examples.picture_data import picture, write_folders
from tests.examples.stopping import assert_said_in_one_line, stop_after

# warnings are Keras' and NumPy's own
pytestmark = [pytest.mark.usefixtures("no_export"), pytest.mark.filterwarnings("ignore")]
NET = "tests.examples.test_tf_imagenet:net"
SMALL = ["--dataset", "digits", "--train-size", "64", "--batch-size", "16", "--epochs", "3",
         "--student", NET, "--teacher", NET]  # fmt: skip
PICTURES = ["--image-size", "16", "--batch-size", "8", "--method", "ce", "--lr", "0.05"]


def net(image_shape: Any, classes: int) -> keras.Model:
    """Return a network of the reader's own, without batch norm: a replica has its own."""
    images = keras.Input(image_shape)
    x = keras.layers.Dense(16, "relu")(keras.layers.Flatten()(images))
    return keras.Model(images, keras.layers.Dense(classes)(x))


def run(*words: str, out: Path) -> int:
    return tf_imagenet.main([*SMALL, *words, "--out", str(out)])


def weights(out: Path) -> list[np.ndarray]:
    model = net((8, 8, 1), 10)
    model.load_weights(out / keras_networks.WEIGHTS)
    return model.get_weights()


ALONE = f"""
import os, sys
sys.path[:0] = [{str(EXAMPLES)!r}]
devices, still, steps, number = map(int, sys.argv[1:5])
import pytest, common, keras_networks, tf_imagenet, tensorflow as tf
from tests.examples.stopping import stop_after
common.finish = lambda *rest: None
if devices > 1:
    found = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], found)
if still:
    keras_networks.Views.call = lambda self, inputs: (inputs[0] / 255, inputs[1])
if steps:
    stop_after(pytest.MonkeyPatch(), steps, number)
sys.exit(tf_imagenet.main(sys.argv[5:]))
"""


def alone(
    out: Path, *words: str, devices: int = 1, still: bool = False, stop: tuple[int, int] = (0, 0),
    **environment: str,
) -> processes.Started:  # fmt: skip
    """Start it in a process of its own, where TensorFlow has not begun."""
    first = ["-c", ALONE, devices, int(still), *map(int, stop), *SMALL, *words, "--out", out]
    return processes.start(*first, MCLD_TEST_BACKENDS="numpy", **environment)


def test_stopped_then_killed_and_resumed_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With RandAugment, mixup and cutmix, in the middle of an epoch."""
    assert run("--recipe", "vit", out=tmp_path / "whole") == 0
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        stop_after(patched, 5, signal.SIGINT)  # the next step tells all replicas
        assert run("--recipe", "vit", out=out) == 130
    assert (out / "state" / "0" / "ckpt-6.index").is_file()
    killed = alone(out, "--recipe", "vit", "--resume", stop=(5, signal.SIGKILL))
    ((status, _, errors),) = processes.ends([killed], 900)
    assert status == -9, errors
    assert (out / "state" / "0" / "ckpt-8.index").is_file()
    assert run("--recipe", "vit", "--resume", out=out) == 0
    for whole, resumed in zip(weights(tmp_path / "whole"), weights(out), strict=True):
        assert np.array_equal(whole, resumed)


def test_two_replicas_and_two_machines_train_the_student_of_one(tmp_path: Path) -> None:
    """The machines are stopped by a signal to one of them, and both go on."""
    addresses = processes.addresses(4)

    def pair(number: int, **more: Any) -> list[processes.Started]:
        cluster = {"worker": addresses[2 * number :][:2]}
        tasks = [{"type": "worker", "index": rank} for rank in range(2)]
        places = [json.dumps({"cluster": cluster, "task": task}) for task in tasks]
        stops = [more.pop("stop", (0, 0)), (0, 0)]
        words = ["--resume"] if number else []
        return [
            alone(tmp_path / "machines", *words, still=True, stop=stop, TF_CONFIG=place)
            for stop, place in zip(stops, places, strict=True)
        ]

    found = processes.ends(pair(0, stop=(5, signal.SIGTERM)), 900)
    assert [end[0] for end in found] == [130, 130], found
    assert "step 6 of 12: the state is saved" in found[0][1]
    assert found[1][1] == ""  # one speaks
    replicas = alone(tmp_path / "replicas", still=True, devices=2)
    found = processes.ends([*pair(1), replicas, alone(tmp_path / "one", still=True)], 900)
    assert [end[0] for end in found] == [0, 0, 0, 0], found
    one = weights(tmp_path / "one")
    for other in ("replicas", "machines"):
        for ours, theirs in zip(weights(tmp_path / other), one, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5, err_msg=other)


def write_records(folder: Path) -> None:
    """Write TFRecords with the usual keys, labels from 1 on."""
    for part in ("train", "validation"):
        rng = np.random.default_rng(len(part))
        for shard in range(2):
            with tf.io.TFRecordWriter(str(folder / f"{part}-{shard:05d}-of-00002")) as writer:
                for row in range(16):
                    content = tf.io.encode_jpeg(np.asarray(picture(rng, row % 4, 32))).numpy()
                    features = {
                        "image/encoded": tf.train.Feature(
                            bytes_list=tf.train.BytesList(value=[content])
                        ),
                        "image/class/label": tf.train.Feature(
                            int64_list=tf.train.Int64List(value=[row % 4 + 1])
                        ),
                    }
                    example = tf.train.Example(features=tf.train.Features(feature=features))
                    writer.write(example.SerializeToString())


def test_folders_and_records_are_learned_and_exports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    still = lambda self, inputs: (inputs[0] / 255, inputs[1])  # noqa: E731 (a mirror moves corners)
    monkeypatch.setattr(keras_networks.Views, "call", still)
    write_folders(tmp_path / "folders", ("train", "val"), rows=32)
    (tmp_path / "records").mkdir()
    write_records(tmp_path / "records")
    words = {
        "folders": ["--dataset", "folder"],
        "records": ["--dataset", "tfrecords", "--train-size", "32", "--classes", "4"],
    }
    for kind, more in words.items():
        options = [*PICTURES, *more, "--data-dir", str(tmp_path / kind), "--epochs", "8"]
        assert run(*options, out=tmp_path / f"{kind}.run") == 0
        found = json.loads((tmp_path / f"{kind}.run" / "results.json").read_text())
        assert found["student"] > 0.7, found  # chance is 1/4
        assert (tmp_path / f"{kind}.run" / "student.onnx").is_file()
    assert "by ce: test accuracy of the student" in capsys.readouterr().out


def test_pictures_are_scaled_and_cut_as_for_the_other_frameworks(tmp_path: Path) -> None:
    """A smooth picture, wider than high; TensorFlow and Pillow scale alike, not equally."""
    rows, columns = np.meshgrid(np.linspace(0, 200, 40), np.linspace(0, 255, 60), indexing="ij")
    path = tmp_path / "picture.png"
    Image.fromarray(np.stack([rows, columns, rows], -1).astype("uint8")).save(path)
    wanted = decode({"path": str(path), "bytes": None}, (16, 16, 3))
    found = tf_imagenet.decode(tf.io.read_file(str(path)), (16, 16, 3)).numpy()
    np.testing.assert_allclose(found, wanted, atol=4)


def test_encoded_pictures_of_other_lengths_stay_what_they_are() -> None:
    encoded = [b"a long one", b"ends in NUL\0"]
    split = Pictures([{"bytes": x, "path": None} for x in encoded], np.zeros(2), np.arange(2))
    assert [x.numpy() for x, _ in tf_imagenet.rows_of(split, None, 0, 1)] == encoded


def test_bad_input_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {
        "--batch-size=999": "--batch-size 999 must be a multiple of 1 replicas, and at most 64",
        "--bank-size=8": "--bank-size is not TensorFlow's",
        "--dataset=tfrecords": "--dataset tfrecords needs --data-dir, --train-size and --classes",
        "--teacher-weights=no.weights.h5": "no.weights.h5",
    }
    assert_said_in_one_line(run, wrong, tmp_path, capsys)
