"""Readers of the official files: IDX, CIFAR's binary archives. NumPy only; nothing is unpickled.

Every reader returns ``uint8`` images in (rows, height, width, channels) and ``int64`` labels, and
raises `DataError` with the file's name and what to do when a file is missing or damaged.
"""

from __future__ import annotations

import gzip
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

AGAIN = "delete it and fetch it again (--download does)"


class DataError(RuntimeError):
    """A data file is missing or damaged; the message says which and what to do."""


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one gzipped IDX file of unsigned bytes, the format of MNIST and Fashion-MNIST.

    The header is two zero bytes, the type (8: unsigned byte), the number of axes, and one
    big-endian 32-bit length an axis; then the values, last axis fastest.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; pass --data-dir FOLDER or --download")
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is no complete gzip file ({error}); {AGAIN}") from error
    axes = content[3] if len(content) >= 4 else 0
    if content[:3] != b"\0\0\x08" or not 1 <= axes <= 4 or len(content) < 4 + 4 * axes:
        raise DataError(f"{path} is no IDX file of unsigned bytes; {AGAIN}")
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    if values.size != np.prod(shape, dtype=np.int64):
        raise DataError(f"{path} announces shape {shape} but holds {values.size} bytes; {AGAIN}")
    return values.reshape(shape).copy()  # writable, as torch.from_numpy wants it


def read_idx_pair(images_path: Path, labels_path: Path, classes: int) -> tuple[Images, Labels]:
    """Read the images and labels of one split and check them against each other."""
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{images_path} has shape {images.shape} and {labels_path} {labels.shape}; expected "
            f"(rows, height, width) and (rows,); {AGAIN}"
        )
    check_labels(labels, classes, labels_path)
    return images[..., None], labels.astype(np.int64)


def read_cifar(
    path: Path, members: list[str], label_bytes: int, classes: int
) -> tuple[Images, Labels]:
    """Read batches of a CIFAR binary archive (.tar.gz).

    A record is ``label_bytes`` labels (CIFAR-10: one; CIFAR-100: coarse, then fine, and the last
    one counts) and 3,072 bytes: the red, green and blue planes of 32×32 pixels.
    """
    record = label_bytes + 3072
    parts = []
    for member, content in read_tar_members(path, members).items():
        if not content or len(content) % record:
            raise DataError(
                f"{path}: {member} holds {len(content)} bytes, no multiple of the record of "
                f"{record}; {AGAIN}. The *binary* version of the archive is needed"
            )
        parts.append(np.frombuffer(content, np.uint8).reshape(-1, record))
    rows = np.concatenate(parts)
    labels = rows[:, label_bytes - 1].astype(np.int64)
    check_labels(labels, classes, path)
    planes = rows[:, label_bytes:].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def read_stl10(path: Path, part: str) -> tuple[Images, Labels]:
    """Read ``part`` ("train" or "test") of STL-10's binary archive.

    Images are 3 planes of 96×96 bytes, each column by column; labels are bytes from 1 to 10.
    """
    members = read_tar_members(path, [f"{part}_X.bin", f"{part}_y.bin"])
    pixels, marks = (np.frombuffer(content, np.uint8) for content in members.values())
    if pixels.size != marks.size * 3 * 96 * 96:
        raise DataError(
            f"{path}: {part}_X.bin holds {pixels.size} bytes for {marks.size} labels; {AGAIN}"
        )
    labels = marks.astype(np.int64) - 1
    check_labels(labels, 10, path)
    return np.ascontiguousarray(pixels.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)), labels


def read_tar_members(path: Path, members: list[str]) -> dict[str, bytes]:
    """Return the content of the named members (by base name), read in memory in one pass."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; pass --data-dir FOLDER or --download")
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for entry in archive:
                name = Path(entry.name).name
                file = archive.extractfile(entry) if name in members and entry.isfile() else None
                if file is not None:
                    found[name] = file.read()
                    if len(found[name]) != entry.size:
                        raise DataError(f"{path}: {name} is cut short; {AGAIN}")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is no complete tar archive ({error}); {AGAIN}") from error
    missing = [name for name in members if name not in found]
    if missing:
        raise DataError(f"{path} has no {', '.join(missing)}; {AGAIN}")
    return {name: found[name] for name in members}


def check_labels(labels: NDArray[np.integer], classes: int, path: Path) -> None:
    """Raise where a label is outside 0 … classes−1."""
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise DataError(
            f"{path} has labels from {labels.min()} to {labels.max()}, expected 0 to "
            f"{classes - 1}; {AGAIN}"
        )
