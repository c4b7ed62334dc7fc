"""Tiny archives in the official formats, written by the tests."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def idx_bytes(values: np.ndarray) -> bytes:
    """Return the content of an IDX file of unsigned bytes."""
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


def write_fashion(folder: Path, rows: int = 6) -> dict[str, np.ndarray]:
    """Write the four files of Fashion-MNIST; return the arrays in them."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part in ("train", "t10k"):
        images = rng.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        labels = (np.arange(rows) % 10).astype(np.uint8)
        arrays |= {f"{part}-images-idx3-ubyte.gz": images, f"{part}-labels-idx1-ubyte.gz": labels}
    for name, values in arrays.items():
        (folder / name).write_bytes(gzip.compress(idx_bytes(values)))
    return arrays


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """Write a .tar.gz with these members in a folder, as the official archives have them."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(f"{path.name.removesuffix('.tar.gz')}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def cifar_bytes(images: np.ndarray, *labels: np.ndarray) -> bytes:
    """Return CIFAR's binary records of (rows, 32, 32, 3) images: labels, then colour planes."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)
    columns = [column.astype(np.uint8)[:, None] for column in labels]
    return np.concatenate([*columns, planes], axis=1).tobytes()


def write_cifar100(folder: Path, rows: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Write a CIFAR-100 archive; return the training images and fine labels in it."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
    fine, coarse = np.arange(rows) * 10 % 100, np.arange(rows) % 20
    content = cifar_bytes(images, coarse, fine)
    write_tar(folder / "cifar-100-binary.tar.gz", {"train.bin": content, "test.bin": content})
    return images, fine


def write_cifar10(folder: Path, rows: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Write a CIFAR-10 archive; return the images and labels of all training batches."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (5 * rows, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(5 * rows) % 10
    members = {
        f"data_batch_{batch + 1}.bin": cifar_bytes(
            images[batch * rows : (batch + 1) * rows], labels[batch * rows : (batch + 1) * rows]
        )
        for batch in range(5)
    }
    write_tar(
        folder / "cifar-10-binary.tar.gz", members | {"test_batch.bin": members["data_batch_1.bin"]}
    )
    return images, labels


def write_tinyimagenet(folder: Path, classes: int = 3, rows: int = 4) -> Path:
    """Write Tiny-ImageNet's folders: one grey level a class, bright to dark; return its root."""
    root = folder / "tiny-imagenet-200"
    names = [f"n{10_000_000 + 7 * number}" for number in range(classes)][::-1]
    annotations = []
    (root / "val" / "images").mkdir(parents=True)
    for label, name in enumerate(names):
        (root / "train" / name / "images").mkdir(parents=True)
        colour = (40 + 50 * label,) * 3
        for row in range(rows):
            mode, fill = ("L", colour[0]) if row == 0 else ("RGB", colour)
            image = Image.new(mode, (64, 64), fill)
            image.save(root / "train" / name / "images" / f"{name}_{row}.JPEG")
            if row < 2:
                file = f"val_{row * classes + label}.JPEG"
                image.save(root / "val" / "images" / file)
                annotations.append(f"{file}\t{name}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(annotations))
    (root / "wnids.txt").write_text("".join(f"{name}\n" for name in names))
    return root
