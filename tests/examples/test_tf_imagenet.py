"""The TensorFlow recipe: its readers, its quick command, exact resumption, two replicas."""

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
import tensorflow as tf
import tf_imagenet
from PIL import Image
from recipes import array_loop, tf_input, tf_models, tf_pictures, tf_teacher
from recipes.readers import DataError

from tests.examples.conftest import EXAMPLES, QUICK

SMALL = ["--teacher", "mlp-16", "--teacher-epochs", "1", "--student", "mlp-8", "--epochs", "2"]
COLOURS = {"blue": (20, 20, 230), "green": (20, 230, 20), "red": (230, 20, 20)}


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


def colour(name: str, rng: np.random.Generator) -> Image.Image:
    pixels = np.clip(np.array(COLOURS[name]) + rng.integers(-20, 20, (24, 36, 3)), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def class_folders(root: Path, pictures: int = 12) -> Path:
    """Write a small ImageNet: JPEGs of one colour a class."""
    rng = np.random.default_rng(0)
    for part, count in (("train", pictures), ("val", pictures // 2)):
        for name in COLOURS:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                colour(name, rng).save(root / part / name / f"{number}.JPEG")
    return root


def shards(root: Path) -> Path:
    """Write the same as TFRecords with the usual keys, labels from 1 on."""
    rng = np.random.default_rng(0)
    root.mkdir()
    for part, count in (("train", 12), ("validation", 6)):
        for shard in range(2):
            path = str(root / f"{part}-{shard:05d}-of-00002")
            with tf.io.TFRecordWriter(path) as writer:
                for _ in range(count // 2):
                    for label, name in enumerate(COLOURS, 1):
                        writer.write(record(colour(name, rng), label))
    return root


def record(image: Image.Image, label: int) -> bytes:
    content = tf.io.encode_jpeg(np.asarray(image)).numpy()
    features = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return bytes(example.SerializeToString())


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


def load(root: Path, **options: Any) -> tf_pictures.PictureSet:
    name = options.pop("name", "imagenet")
    return tf_pictures.load_pictures(name, root, image_size=16, **options)


def rows(
    data: tf_pictures.PictureSet, epoch: int = 0, start: int = 0, **changes: Any
) -> list[np.ndarray]:
    options = {"seed": 0, "crop": 0, "flip": True, "resized_crop": True} | changes
    options.setdefault("decoded", tf.Variable(0, dtype=tf.int64))
    batches = tf_input.training_input(data, 4, epoch=epoch, start=start, **options)
    return [images.numpy() for images, _, _ in batches]


def contents(split: tf_pictures.Pictures, data: tf_pictures.PictureSet) -> set[bytes]:
    """Return the pictures of a split; no two of the fixtures' are equal."""
    batches = tf_input.evaluation_input(split, data, 4)
    return {image.tobytes() for images, _ in batches for image in images.numpy()}


@pytest.mark.parametrize("make", [class_folders, shards])
def test_an_epoch_is_the_same_again_and_from_its_middle(tmp_path: Path, make: Any) -> None:
    data = load(make(tmp_path / "pictures"))
    assert len(data.train) == 36
    first, again, other = rows(data), rows(data), rows(data, epoch=1)
    assert len(first) == 9
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[5:], rows(data, start=5))
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("make", [class_folders, shards])
def test_validation_and_training_parts_are_cut_from_the_training_pictures(
    tmp_path: Path, make: Any
) -> None:
    root = make(tmp_path / "pictures")
    everything = load(root)
    data, again = load(root, validation_size=7), load(root, validation_size=7, train_size=20)
    assert (len(data.train), len(data.validation), len(again.train)) == (29, 7, 20)
    train, validation, few = (
        contents(split, data) for split in (data.train, data.validation, again.train)
    )
    assert (len(train), len(validation), len(few)) == (29, 7, 20)
    assert not train & validation
    assert train | validation == contents(everything.train, everything)
    assert few < train
    assert validation == contents(again.validation, again)
    assert len(rows(again)) == 5
    labels = np.concatenate([y for _, y in tf_input.evaluation_input(data.validation, data, 4)])
    assert set(labels) == {0, 1, 2}
    message = "36 training pictures; got --train-size 30 and --validation-size 7"
    with pytest.raises(DataError, match=message):
        load(root, validation_size=7, train_size=30)


def test_whole_pictures_are_shifted_by_the_crop(tmp_path: Path) -> None:
    data = load(class_folders(tmp_path / "pictures"))
    whole = {"flip": False, "resized_crop": False}
    middle, shifted = (np.concatenate(rows(data, crop=crop, **whole)) for crop in (0, 3))
    black = -np.array(data.mean) / np.array(data.std)
    assert not np.isclose(middle, black).all(-1).any()
    borders = np.isclose(shifted, black).all(-1).sum((1, 2))  # pixels a picture
    assert borders.max() > 0
    assert borders.max() <= 16 * 16 - 13 * 13
    assert len(set(borders.tolist())) > 3


@pytest.mark.parametrize("start", [0, 5])
def test_each_picture_that_does_not_decode_is_counted(tmp_path: Path, start: int) -> None:
    """Though no batch is missing: 38 of 39 make as many; and before the start of a resumed run."""
    root = class_folders(tmp_path / "pictures", pictures=13)
    damaged = root / "train" / "blue" / "3.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:100])
    data = load(root)
    decoded = tf.Variable(0, dtype=tf.int64)
    assert len(rows(data, start=start, decoded=decoded)) == 39 // 4 - start
    assert int(decoded) == 38


def test_pictures_that_do_not_decode_are_left_out_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = class_folders(tmp_path / "pictures")
    for path in (root / "val" / "red" / "0.JPEG", *(root / "train" / "blue").glob("[0-4].JPEG")):
        path.write_bytes(path.read_bytes()[:100])
    data = load(root)
    test, skipped = tf_input.readable(data.test, data)
    assert (len(test), skipped) == (17, 1)
    assert len(rows(data)) == (36 - 5) // 4
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


def test_missing_classes_and_damaged_shards_are_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "pictures")
    (root / "val" / "red").rename(root / "val" / "zebra")
    with pytest.raises(DataError, match=r"val has no folder for 1 classes .* such as 'red'"):
        load(root)
    (root / "val" / "zebra").rename(root / "val" / "red")
    for path in (root / "train" / "green").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="green holds no picture"):
        load(root)
    with pytest.raises(DataError, match=r"train does not exist; --data-dir needs train/CLASS"):
        load(tmp_path / "nowhere")
    root = shards(tmp_path / "records")
    data = load(root, first_label=0)
    with pytest.raises(DataError, match=r"labels from 1 to 3"):
        tf_input.readable(tf_pictures.Records(data.test.shards, 0), replace_classes(data, 3))
    path = root / "train-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="00001-of-00002 ends within record 18"):
        load(root)


def replace_classes(data: tf_pictures.PictureSet, classes: int) -> tf_pictures.PictureSet:
    from dataclasses import replace

    return replace(data, classes=classes)


def test_transparent_pictures_lie_on_white_and_huge_ones_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The layout of Open Clip Art: two levels, some classes dropped."""
    for name, count in (("animals/birds", 25), ("shapes/stars", 30), ("food/fruit", 21)):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(folder / f"{number}.png")
    (folder / "link.png").symlink_to(folder / "0.png")
    huge = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(huge[:16] + b"\0\1\0\0\0\1\0\0" + huge[24:])
    data = load(tmp_path, name="openclipart", validation_size=5)
    assert (data.classes, len(data.train), len(data.validation), len(data.test)) == (2, 31, 5, 9)
    assert "skipped 1 PNG files" in capsys.readouterr().out
    images, _ = next(iter(tf_input.evaluation_input(data.test, data, 4)))
    white = (1 - np.array(data.mean)) / np.array(data.std)
    np.testing.assert_allclose(images[0, 8, 8], white, atol=1e-5)


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
