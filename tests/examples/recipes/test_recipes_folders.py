"""Pictures in folders: Tiny-ImageNet as it is published, class folders, and damaged ones."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.ipc
import pytest
from PIL import Image
from pyarrow import parquet
from recipes.data import folders
from recipes.data.load import load_dataset
from recipes.files import DataError

from tests.examples.official_files import write_tinyimagenet


def test_it_is_read_as_written_in_the_order_of_wnids(tmp_path: Path) -> None:
    root = write_tinyimagenet(tmp_path)
    for folder in (tmp_path, root):  # the folder around it, or itself
        read = load_dataset("tinyimagenet", folder, validation_size=2)
        assert read.classes == 3
        assert read.image_shape == (64, 64, 3)
        assert (len(read.train), len(read.validation), len(read.test)) == (10, 2, 6)
        for split in (read.train, read.validation, read.test):
            levels = split.images.mean((1, 2, 3))
            np.testing.assert_allclose(levels, 40 + 50 * split.labels, atol=1)


def test_images_that_do_not_decode_are_counted_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_tinyimagenet(tmp_path)
    name = (root / "wnids.txt").read_text().split()[1]
    cut, text = ((root / "train" / name / "images" / f"{name}_{row}.JPEG") for row in (1, 2))
    cut.write_bytes(cut.read_bytes()[:200])
    text.write_text("404")
    (root / "val" / "images" / "val_0.JPEG").unlink()
    read = load_dataset("tinyimagenet", tmp_path)
    assert (len(read.train), len(read.test)) == (10, 5)
    np.testing.assert_array_equal(np.bincount(read.train.labels), [4, 2, 4])
    np.testing.assert_allclose(read.train.images.mean((1, 2, 3)), 40 + 50 * read.train.labels)
    printed = capsys.readouterr().out
    assert f"skipped 2 images of {root / 'train'} that do not decode, such as {cut}" in printed
    assert f"skipped 1 images of {root / 'val'} that do not decode" in printed


def damage_class(root: Path, name: str) -> None:
    shutil.rmtree(root / "train" / name)


def damage_images(root: Path, name: str) -> None:
    for path in (root / "train" / name / "images").iterdir():
        path.unlink()


def damage_annotations(root: Path, name: str) -> None:
    with open(root / "val" / "val_annotations.txt", "a") as file:
        file.write("val_99.JPEG\tn00000000\t0\t0\t1\t1\n")


def damage_line(root: Path, name: str) -> None:
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\n")


def damage_size(root: Path, name: str) -> None:
    Image.new("RGB", (32, 16)).save(root / "train" / name / "images" / "other.JPEG")


def damage_wnids(root: Path, name: str) -> None:
    (root / "wnids.txt").unlink()


def damage_val(root: Path, name: str) -> None:
    (root / "val" / "val_annotations.txt").write_text("\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_class, "1 of the 3 classes in .*wnids.txt have no folder, such as .*/n10000007/"),
        (damage_images, "train holds no readable image of 1 classes, such as n10000007"),
        (damage_annotations, "'val_99.*' names no class of .*wnids.txt"),
        (damage_line, "'val_0.JPEG' names no class of .*wnids.txt"),
        (damage_size, "other.JPEG is 32×16, expected 64×64"),
        (damage_wnids, "wnids.txt cannot be read .*unpack http.*as --data-dir"),
        (damage_val, "val_annotations.txt is empty"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: object, message: str) -> None:
    root = write_tinyimagenet(tmp_path)
    assert callable(damage)
    damage(root, "n10000007")
    with pytest.raises(DataError, match=message):
        load_dataset("tinyimagenet", tmp_path)


# ---- class folders ----


def class_folders(root: Path, parts: tuple[str, ...] = ("train", "val")) -> Path:
    """Write pictures of many kinds, of one grey level a class."""
    for part in parts:
        for label, name in enumerate(("ash", "birch")):
            folder = root / part / name / "images"
            folder.mkdir(parents=True)
            for number, suffix in enumerate((".JPEG", ".png", ".gif", ".webp", ".bmp")):
                grey = Image.new("RGB", (20 + 8 * number, 16), (60 + 100 * label,) * 3)
                grey.save(folder / f"{number}{suffix}", lossless=True)
    return root


def test_class_folders_of_every_kind_of_picture(tmp_path: Path) -> None:
    read = load_dataset("folder", class_folders(tmp_path), image_size=12)
    assert read.image_shape == (12, 12, 3)
    assert list(read.class_names) == ["ash", "birch"]
    assert (len(read.train), len(read.test)) == (10, 10)
    for split in (read.train, read.test):
        levels = split.images.mean((1, 2, 3))
        np.testing.assert_allclose(levels, 60 + 100 * split.labels, atol=2)


def test_dot_folders_are_ignored_and_other_files_counted_once_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = class_folders(tmp_path)
    (root / "train" / ".cache").mkdir()
    (root / "train" / "ash" / ".DS_Store").write_text("")
    (root / "train" / "ash" / "notes.txt").write_text("")
    (root / "train" / "birch" / "other.csv").write_text("")
    (root / "train" / "ash" / "cut.png").write_bytes(b"\x89PNG")
    read = load_dataset("folder", root)
    assert list(read.class_names) == ["ash", "birch"]
    printed = capsys.readouterr().out.splitlines()
    named = root / "train" / "ash" / "notes.txt"
    wanted = f"skipped 2 files of {root / 'train'} that are no pictures, such as {named}"
    assert printed.count(wanted) == 1
    assert sum("skipped 1 images" in line and "cut.png" in line for line in printed) == 1
    assert len(printed) == 2


def test_transparent_pictures_lie_on_white(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    clear.save(root / "val" / "ash" / "images" / "clear.png")
    read = load_dataset("folder", root)
    assert (read.test.images.mean((1, 2, 3)) == 255).sum() == 1


def test_enormous_pictures_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(folders, "MAX_PIXELS", 20 * 16)
    read = load_dataset("folder", class_folders(tmp_path))
    assert len(read.train) == 2
    assert "skipped 8 images" in capsys.readouterr().out


def test_without_train_every_fifth_picture_is_for_the_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = class_folders(tmp_path, parts=(".",))
    read = load_dataset("folder", root)
    assert (len(read.train), len(read.test)) == (8, 2)
    np.testing.assert_array_equal(np.sort(read.test.labels), [0, 1])
    assert "every fifth picture of a class is for the test" in capsys.readouterr().out


def test_tiny_imagenet_is_known_by_its_annotations(tmp_path: Path) -> None:
    root = write_tinyimagenet(tmp_path)
    for place in (root, tmp_path):
        read = load_dataset("folder", place)
        assert (len(read.train), len(read.test), read.classes) == (12, 6, 3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: shutil.rmtree(root / "val"), "has train and none of val, validation, test"),
        (lambda root: (root / "val" / "cedar").mkdir(), "has the class cedar, which .*train does"),
        (lambda root: (root / "train" / "cedar").mkdir(), "train/cedar holds no picture"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_damaged_class_folders_are_named(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    root = class_folders(tmp_path / "data")
    damage(root)
    with pytest.raises(DataError, match=message):
        load_dataset("folder", root)


# ---- data sets of Hugging Face ----


def hugging_face(folder: Path, kind: str) -> Path:
    """Write a data set as the package `datasets` does: the schema says what the columns are."""
    features = {
        "picture": {"_type": "Image"},
        "kind": {"names": ["ash", "birch"], "_type": "ClassLabel"},
    }
    notes = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    for part, rows in (("train", 6), ("test", 4)):
        pictures = []
        for row in range(rows):
            content = io.BytesIO()
            Image.new("RGB", (24, 20), (60 + 100 * (row % 2),) * 3).save(content, "PNG")
            pictures.append({"bytes": content.getvalue(), "path": None})
        columns = {"picture": pictures, "kind": [row % 2 for row in range(rows)]}
        table = pyarrow.table(columns).replace_schema_metadata(notes)
        if kind == "parquet":
            parquet.write_table(table, folder / f"{part}-00000-of-00001.parquet")
        else:
            (folder / part).mkdir()
            path = folder / part / "data-00000-of-00001.arrow"
            with pyarrow.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table)
    return folder


@pytest.mark.parametrize("kind", ["parquet", "save_to_disk"])
def test_data_sets_of_hugging_face(tmp_path: Path, kind: str) -> None:
    read = load_dataset("huggingface", hugging_face(tmp_path, kind), image_size=12)
    assert list(read.class_names) == ["ash", "birch"]
    assert (len(read.train), len(read.test), read.image_shape) == (6, 4, (12, 12, 3))
    for split in (read.train, read.test):
        np.testing.assert_allclose(split.images.mean((1, 2, 3)), 60 + 100 * split.labels)


def test_damaged_data_sets_of_hugging_face_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"needs train\*.parquet and test\*.parquet.*found neither"):
        load_dataset("huggingface", tmp_path)
    hugging_face(tmp_path, "parquet")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(DataError, match="needs: pip install pyarrow"):
            load_dataset("huggingface", tmp_path)
    path = tmp_path / "train-00000-of-00001.parquet"
    parquet.write_table(pyarrow.table({"x": [1]}), path)
    with pytest.raises(DataError, match="has no column of pictures and of class numbers"):
        load_dataset("huggingface", tmp_path)
    path.write_bytes(b"cut")
    with pytest.raises(DataError, match=r"train-00000.*ArrowInvalid"):
        load_dataset("huggingface", tmp_path)
