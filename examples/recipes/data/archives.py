"""The data sets whose publishers give official files: IDX, the binary archives of CIFAR and STL-10.

NumPy only; nothing is unpickled. A file is checked before it is read for the first time: by its
published MD5 (remembered beside it), and where it is another file of the same format, by the
checksum that gzip ends with.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files import DataError, read_json, write_json
from . import Images, Labels, Split

AGAIN = "delete it and fetch it again (--download does)"
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_STL = "http://ai.stanford.edu/~acoates/stl10/"

#: data set → file name → (address of its folder, MD5 as published beside the file)
OFFICIAL: dict[str, dict[str, tuple[str, str]]] = {
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": (_FASHION, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        "train-labels-idx1-ubyte.gz": (_FASHION, "25c81989df183df01b3e8a0aad5dffbe"),
        "t10k-images-idx3-ubyte.gz": (_FASHION, "bef4ecab320f06d8554ea6380940ec79"),
        "t10k-labels-idx1-ubyte.gz": (_FASHION, "bb300cfdad3c16e7a12a480ee83cd310"),
    },
    "cifar10": {"cifar-10-binary.tar.gz": (_CIFAR, "c32a1d4ab5d03f1284b67883e8d87530")},
    "cifar100": {"cifar-100-binary.tar.gz": (_CIFAR, "03b5dce01913d631647c71ecec9e9cb8")},
    "stl10": {"stl10_binary.tar.gz": (_STL, "91f7769df0f17e558f3565bffb0c7dfb")},
}
FASHION_NAMES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker",
                 "bag", "ankle boot")  # fmt: skip
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
                 "truck")  # fmt: skip
STL10_NAMES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship",
               "truck")  # fmt: skip

Read = tuple[Split, Split, list[str]]
"""Training split, test split, names of the classes."""


# ---- the data sets ----


def fashion_mnist(folder: Path, size: int | None) -> Read:
    """Read Fashion-MNIST's four files, or those of Debian's package."""
    name = "train-images-idx3-ubyte.gz"
    if not (folder / name).is_file() and (DEBIAN_FASHION / name).is_file():
        folder = DEBIAN_FASHION
    splits = [
        Split(
            *read_idx_pair(
                folder / f"{part}-images-idx3-ubyte.gz", folder / f"{part}-labels-idx1-ubyte.gz", 10
            )
        )
        for part in ("train", "t10k")
    ]
    return splits[0], splits[1], list(FASHION_NAMES)


def cifar10(folder: Path, size: int | None) -> Read:
    """Read CIFAR-10's binary archive, or the folder that it unpacks to."""
    batches = [f"data_batch_{number}.bin" for number in range(1, 6)]
    path = folder / "cifar-10-binary.tar.gz"
    train = Split(*read_cifar(path, "cifar-10-batches-bin", batches, 1, 10))
    test = Split(*read_cifar(path, "cifar-10-batches-bin", ["test_batch.bin"], 1, 10))
    return train, test, list(CIFAR10_NAMES)


def cifar100(folder: Path, size: int | None) -> Read:
    """Read CIFAR-100's binary archive, or the folder that it unpacks to."""
    path, members = folder / "cifar-100-binary.tar.gz", "cifar-100-binary"
    train = Split(*read_cifar(path, members, ["train.bin"], 2, 100))
    test = Split(*read_cifar(path, members, ["test.bin"], 2, 100))
    try:
        (names,) = read_members(path, members, ["fine_label_names.txt"]).values()
    except DataError:  # an archive of the same format that names no classes
        return train, test, [str(number) for number in range(100)]
    return train, test, names.decode().split()


def stl10(folder: Path, size: int | None) -> Read:
    """Read STL-10's binary archive, without its images that have no label."""
    path = folder / "stl10_binary.tar.gz"
    train, test = (Split(*read_stl10(path, part)) for part in ("train", "test"))
    return train, test, list(STL10_NAMES)


# ---- the files ----


def fetch(dataset: str, folder: Path) -> None:
    """Download the files of ``dataset`` that ``folder`` lacks; pooch checks each and renames last.

    Raises:
        DataError: no connection, pooch is not installed, or a checksum that differs (the file is
            then not kept).
    """
    if dataset not in OFFICIAL:
        return
    try:
        import pooch
    except ImportError as error:
        raise DataError("--download needs the package pooch: pip install pooch") from error
    folder.mkdir(parents=True, exist_ok=True)
    for name, (base, md5) in OFFICIAL[dataset].items():
        try:
            pooch.retrieve(base + name, f"md5:{md5}", fname=name, path=folder, progressbar=True)
        except (OSError, ValueError) as error:
            raise DataError(
                f"could not fetch {base + name}: {error}. Fetch it by other means, put it into "
                f"{folder} and leave --download out"
            ) from error


def verify(path: Path) -> None:
    """Check a whole file before its first reading; remember the result in ``.FILE.verified``.

    A file with the published MD5 is whole. Another one (a smaller archive of the same format) has
    to unpack to the end, where gzip keeps a checksum of the content.

    Raises:
        DataError: the file is missing or damaged.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; pass --data-dir FOLDER or --download")
    state = {"size": path.stat().st_size, "changed": path.stat().st_mtime_ns}
    note = path.with_name(f".{path.name}.verified")
    with contextlib.suppress(DataError):  # a damaged note: check again
        if read_json(note) == state:
            return
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    published = {name: md5 for files in OFFICIAL.values() for name, (_, md5) in files.items()}
    if digest != published.get(path.name):
        try:
            with gzip.open(path) as unpacked:
                while unpacked.read(1 << 20):
                    pass
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is not a complete gzip file ({error}); {AGAIN}") from error
    with contextlib.suppress(OSError):  # a folder that is read only: it is checked again
        write_json(note, state)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one gzipped IDX file of unsigned bytes, the format of MNIST and Fashion-MNIST.

    The header is two zero bytes, the type (8: unsigned byte), the number of axes, and one
    big-endian 32-bit length an axis; then the values, last axis fastest.
    """
    verify(path)
    with gzip.open(path) as file:
        content = file.read()
    axes = content[3] if len(content) >= 4 else 0
    if content[:3] != b"\0\0\x08" or not 1 <= axes <= 4 or len(content) < 4 + 4 * axes:
        raise DataError(f"{path} is not an IDX file of unsigned bytes; {AGAIN}")
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
    path: Path, folder: str, members: list[str], label_bytes: int, classes: int
) -> tuple[Images, Labels]:
    """Read batches of a CIFAR binary archive (.tar.gz) or of the folder that it unpacks to.

    A record is ``label_bytes`` labels (CIFAR-10: one; CIFAR-100: coarse, then fine, and the last
    one counts) and 3,072 bytes: the red, green and blue planes of 32×32 pixels.
    """
    record = label_bytes + 3072
    parts = []
    for member, content in read_members(path, folder, members).items():
        if not content or len(content) % record:
            raise DataError(
                f"{path}: {member} holds {len(content)} bytes, not a multiple of the record of "
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
    members = read_members(path, "stl10_binary", [f"{part}_X.bin", f"{part}_y.bin"])
    pixels, marks = (np.frombuffer(content, np.uint8) for content in members.values())
    if pixels.size != marks.size * 3 * 96 * 96:
        raise DataError(
            f"{path}: {part}_X.bin holds {pixels.size} bytes for {marks.size} labels; {AGAIN}"
        )
    labels = marks.astype(np.int64) - 1
    check_labels(labels, 10, path)
    return np.ascontiguousarray(pixels.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)), labels


def read_members(path: Path, folder: str, members: list[str]) -> dict[str, bytes]:
    """Return the content of the named members of an archive, read in memory in one pass.

    They are read from ``folder`` instead, beside the archive, where that is there and the archive
    is not; ``path`` may be that folder's parent or the folder itself.
    """
    beside = [path.parent / folder, path.parent]
    for place in beside if not path.is_file() else []:
        if all((place / name).is_file() for name in members):
            return {name: (place / name).read_bytes() for name in members}
    verify(path)
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
        raise DataError(f"{path} is not a complete tar archive ({error}); {AGAIN}") from error
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
