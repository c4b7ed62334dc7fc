"""The pictures of the TensorFlow recipe: which are read, in which order, cut how."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from recipes.data import pictures, tf_input, tf_pictures
from recipes.data.records import Records
from recipes.files import DataError

from tests.examples.picture_files import COLOURS, class_folders, colour, shards


@pytest.fixture(autouse=True)
def nothing_said_before() -> None:
    """Each test is a process of its own in what it says once."""
    pictures.say_once.cache_clear()


def load(root: Path, **options: Any) -> pictures.PictureSet:
    name = options.pop("name", "imagenet")
    return pictures.load_pictures(name, root, image_size=16, **options)


def training_input(data: pictures.PictureSet, **changes: Any) -> tf_input.TrainingInput:
    options = {"seed": 0, "crop": 0, "flip": True, "resized_crop": True} | changes
    return tf_input.TrainingInput(data, 4, **options)


def rows(
    data: pictures.PictureSet, epoch: int = 0, start: int = 0, **changes: Any
) -> list[np.ndarray]:
    batches = training_input(data, **changes).epoch(epoch, start)
    return [images.numpy() for images, _, _ in batches]


def contents(split: pictures.Pictures, data: pictures.PictureSet) -> set[bytes]:
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


def shares(data: pictures.PictureSet, start: int = 0) -> list[list[Any]]:
    """Return the batches of each of two workers."""
    contexts = [tf.distribute.InputContext(2, number, 2) for number in range(2)]
    return [list(training_input(data).epoch(1, start, context)) for context in contexts]


def test_two_workers_read_the_halves_of_each_batch(tmp_path: Path) -> None:
    data = load(class_folders(tmp_path / "pictures"))
    halves, rest = shares(data), shares(data, start=4)
    whole = list(training_input(data).epoch(1))
    assert [len(half) for half in (*halves, *rest)] == [9, 9, 5, 5]
    for batch, *parts in zip(whole, *halves, strict=True):
        for rows, *own in zip(batch, *parts, strict=True):
            np.testing.assert_array_equal(rows, np.concatenate(own))
    np.testing.assert_array_equal(rest[1][0][2], halves[1][4][2])


def test_two_workers_read_shards_of_their_own_and_make_as_many_batches(tmp_path: Path) -> None:
    data = load(shards(tmp_path / "pictures"))
    halves = shares(data)
    assert [len(half) for half in halves] == [9, 9]
    one, two = ({images.numpy().tobytes() for images, _, _ in half} for half in halves)
    assert not one & two
    damaged = load(class_folders(tmp_path / "damaged"))
    path = Path(damaged.train.paths[0])
    path.write_bytes(path.read_bytes()[:100])
    assert [len(half) for half in shares(damaged)] == [9, 9]
    with pytest.raises(DataError, match="3 workers need as many training shards at least"):
        training_input(data).epoch(1, 0, tf.distribute.InputContext(3, 2, 1))


@pytest.mark.parametrize("start", [0, 5])
def test_each_picture_that_does_not_decode_is_counted_once_and_named(
    tmp_path: Path, start: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though no batch is missing: 38 of 39 make as many; and before the start of a resumed run."""
    root = class_folders(tmp_path / "pictures", pictures=13)
    damaged = root / "train" / "blue" / "3.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:100])
    batches = training_input(load(root))
    for epoch in range(2):
        assert len(list(batches.epoch(epoch, start))) == 39 // 4 - start
        batches.report()
    said = f"left out 1 training pictures that do not decode, such as {damaged}"
    assert capsys.readouterr().out.count(said) == 1


@pytest.mark.parametrize("part", ["validation", "test"])
def test_pictures_to_evaluate_on_that_do_not_decode_are_left_out_and_named(
    tmp_path: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = class_folders(tmp_path / "pictures")
    data = load(root, validation_size=9)
    split = getattr(data, part)
    damaged = Path(split.paths[2])
    damaged.write_bytes(damaged.read_bytes()[:100])
    readable = tf_pictures.readable(split, data, part)
    assert len(readable) == len(split) - 1
    assert str(damaged) not in readable.paths
    said = f"skipped 1 {part} pictures that do not decode, such as {damaged}"
    assert said in capsys.readouterr().out


def test_tiny_imagenet_s_own_layout_is_read(tmp_path: Path) -> None:
    """Its validation pictures lie in one folder, their classes in a list beside it."""
    root, rng = tmp_path / "tiny-imagenet-200", np.random.default_rng(0)
    names = [*reversed(COLOURS)]
    lines = []
    for name in names:
        (root / "train" / name / "images").mkdir(parents=True)
        for number in range(4):
            colour(name, rng).save(root / "train" / name / "images" / f"{name}_{number}.JPEG")
        (root / "val" / "images").mkdir(parents=True, exist_ok=True)
        colour(name, rng).save(root / "val" / "images" / f"val_{name}.JPEG")
        lines.append(f"val_{name}.JPEG\t{name}\t0\t0\t10\t10")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (root / "wnids.txt").write_text("\n".join(names) + "\n")
    data = load(tmp_path, name="tinyimagenet")
    assert data.class_names == tuple(names)
    assert (len(data.train), data.test.labels.tolist()) == (12, [0, 1, 2])
    for image, label in zip(
        *next(iter(tf_input.evaluation_input(data.test, data, 3))), strict=True
    ):
        brightest = int(np.argmax(image.numpy().mean((0, 1)) * data.std + data.mean))
        assert brightest == ("red", "green", "blue").index(names[int(label)])


def test_gif_and_webp_are_read_and_hidden_folders_and_other_files_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = class_folders(tmp_path / "pictures")
    rng = np.random.default_rng(0)
    for suffix in ("gif", "webp"):
        colour("red", rng).save(root / "train" / "red" / f"other.{suffix}")
    for part in ("train", "val"):
        (root / part / ".thumbnails").mkdir()
        colour("red", rng).save(root / part / ".thumbnails" / "0.JPEG")
    other = root / "train" / "blue" / "notes.pdf"
    other.write_text("no picture")
    data = load(root)
    assert data.class_names == tuple(sorted(COLOURS))
    assert len(data.train) == 38
    assert len(contents(data.train, data)) == 38
    assert f"that are no pictures, such as {other}" in capsys.readouterr().out


def test_missing_classes_and_damaged_shards_are_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "pictures")
    (root / "val" / "red").rename(root / "val" / "zebra")
    with pytest.raises(DataError, match=r"val has the class zebra, which .*train does not have"):
        load(root)
    (root / "val" / "zebra").rename(root / "val" / "red")
    for path in (root / "train" / "green").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="green holds no picture"):
        load(root)
    with pytest.raises(DataError, match=r"--data-dir: .*nowhere does not exist"):
        load(tmp_path / "nowhere")
    root = shards(tmp_path / "records")
    data = load(root, first_label=0)
    records = Records(data.test.shards, 0)
    with pytest.raises(DataError, match=r"labels from 1 to 3"):
        tf_pictures.readable(records, replace(data, class_names=("a", "b", "c")), "test")
    path = root / "train-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="00001-of-00002 ends within record 18"):
        load(root)


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
