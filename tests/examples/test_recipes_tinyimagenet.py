"""Tiny-ImageNet: read as written in the official folders, and what is said of damaged ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch_cifar100
from PIL import Image
from recipes import data, readers

from tests.examples.official_files import write_tinyimagenet


def test_it_is_read_as_written_in_the_order_of_wnids(tmp_path: Path) -> None:
    root = write_tinyimagenet(tmp_path)
    for folder in (tmp_path, root):  # the folder around it, or itself
        read = data.load_dataset("tinyimagenet", folder, validation_size=2)
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
    read = data.load_dataset("tinyimagenet", tmp_path)
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
    with pytest.raises(readers.DataError, match=message):
        data.load_dataset("tinyimagenet", tmp_path)


def test_students_are_probed_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quick_end: None
) -> None:
    write_tinyimagenet(tmp_path)
    arguments = ["--teacher", "mlp-4", "--teacher-epochs", "1", "--student", "mlp-8"]
    arguments += ["--epochs", "1", "--methods", "ce", "--data-dir", str(tmp_path)]
    arguments += ["--transfer", "tinyimagenet", "--transfer-validation-size", "3"]
    assert torch_cifar100.main([*arguments, "--out", str(tmp_path / "run")]) == 0
    scores = json.loads((tmp_path / "run" / "transfer_tinyimagenet.json").read_text())
    assert set(scores) == {"untrained", "ce"}
    assert "| student of digits | test % on tinyimagenet |" in capsys.readouterr().out
