"""The pictures of the TensorFlow recipe: which are read, in which order, cut how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from recipes import tf_input, tf_pictures
from recipes.readers import DataError

from tests.examples.picture_files import class_folders, shards


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


@pytest.mark.parametrize("part", ["validation", "test"])
def test_pictures_to_evaluate_on_that_do_not_decode_are_left_out(tmp_path: Path, part: str) -> None:
    root = class_folders(tmp_path / "pictures")
    data = load(root, validation_size=9)
    split = getattr(data, part)
    damaged = Path(split.paths[2])
    damaged.write_bytes(damaged.read_bytes()[:100])
    readable, skipped = tf_input.readable(split, data)
    assert (len(readable), skipped) == (len(split) - 1, 1)
    assert str(damaged) not in readable.paths


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
