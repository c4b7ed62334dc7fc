"""Teacher logits of a whole data set on disk: `TeacherCache`, for offline teachers."""

from __future__ import annotations

import hashlib
import os
import tokenize
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mcld_core.arguments import Checks, to_numpy
from mcld_core.files import replacement
from mcld_core.typing import Array, Float, Int

DTYPES = ("float16", "float32")


class TeacherCache:
    """The teacher's logits of every sample, memory-mapped, read by sample index.

    A teacher that does not change answers the same in every epoch: run it once, `write` the
    answers, and train any number of students from them. The file is a ``.npy`` array of shape
    (count, classes), which ``numpy.load`` reads too, with the fingerprint after its last row. It
    appears under its name only when every sample is in it.

    The rows belong to the sample indices of one data set as the teacher saw it: with random
    augmentation, cache the logits of the images without it, or of each view as its own sample.

    Example:
        >>> import tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "teacher.npy")
        >>> mark = fingerprint("resnet56, epoch 240", np.array([0, 1]))
        >>> batches = [(np.array([1]), np.array([[0.0, 2.0]])), (np.array([0]), np.eye(2)[:1])]
        >>> cache = TeacherCache.write(path, batches, count=2, classes=2, fingerprint=mark)
        >>> TeacherCache.open(path, fingerprint=mark)[np.array([0, 1])]
        array([[1., 0.],
               [0., 2.]], dtype=float32)

        As keys, all samples at once::

            bank = TeacherBank.from_logits(cache[:], labels, like=student_logits)
            keys = bank.keys(cache[index], labels[index], index=index)
    """

    def __init__(self, path: Path, logits: NDArray[Any], fingerprint: str) -> None:
        self.path = path.absolute()  # a pickle may be opened in another folder
        self.logits = logits
        self.fingerprint = fingerprint

    @classmethod
    def write(
        cls,
        path: str | os.PathLike[str],
        batches: Iterable[tuple[Int[Array, " batch"], Float[Array, "batch classes"]]],
        count: int,
        classes: int,
        *,
        fingerprint: str,
        dtype: str = "float32",
    ) -> TeacherCache:
        """Write the logits of all samples and open the file.

        Several writers, of one process too, do not disturb each other: each writes a file of its
        own, and the last one to end has its file under the name.

        Args:
            path: the file; replaced if it exists, once the new one is complete.
            batches: pairs of sample indices (batch,) in 0 … count − 1 and logits (batch, classes),
                in any order, as arrays or tensors of any framework. An index may come twice (a
                sampler that pads does that); the last row stays.
            count: the number of samples.
            classes: the width of a row.
            fingerprint: a text that tells the data's order and the teacher, see `fingerprint`.
            dtype: ``"float32"``, or ``"float16"`` for half the space (about 3 digits).

        Raises:
            ValueError: an index or a width that does not fit, a NaN, a logit too large for
                float16, samples that no batch has, or a path that is a folder.
            TypeError: a fingerprint that is not a text.
            OSError: the disk is full, or the folder takes no files. No error leaves a file.
        """
        checks = Checks("TeacherCache.write")
        checks.choice("dtype", dtype, DTYPES)
        count = checks.integer("count", count, minimum=1)
        classes = checks.integer("classes", classes, minimum=1)
        if not isinstance(fingerprint, str):
            cure = "mcld_core.cache.fingerprint makes one of texts, numbers and arrays"
            raise checks.wrong_type("fingerprint needs a text", type(fingerprint).__name__, cure)
        with replacement(path) as file:
            header = {"descr": np.dtype(dtype).str, "fortran_order": False}
            np.lib.format.write_array_header_1_0(file, header | {"shape": (count, classes)})
            start, end = file.tell(), file.tell() + count * classes * np.dtype(dtype).itemsize
            _write_rows(file, start, batches, count, classes, dtype)
            file.seek(end)
            file.write(fingerprint.encode())
        return cls.open(path, fingerprint=fingerprint)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, fingerprint: str | None) -> TeacherCache:
        """Open a complete cache of this data and this teacher.

        Args:
            path: the file that `write` made.
            fingerprint: what the file must carry; None takes any float16 or float32 array.

        Raises:
            FileNotFoundError, IsADirectoryError: no such file.
            ValueError: the file is cut off or of another kind, or carries another fingerprint.
        """
        path, wrong = Path(path), Checks("TeacherCache.open").wrong
        try:
            logits = np.lib.format.open_memmap(path, mode="r")
        except (ValueError, OverflowError, tokenize.TokenError) as error:  # of a file cut off, too
            came = f"{path}, which is cut off, damaged or another kind of file ({str(error)[:200]})"
            needs = "path needs a complete teacher cache"
            raise wrong(needs, came, "Write it again") from error
        if logits.dtype not in map(np.dtype, DTYPES) or logits.ndim != 2:
            came = f"{path} of {logits.dtype} {logits.shape}"
            raise wrong(f"path needs rows of {' or '.join(DTYPES)}", came)
        with open(path, "rb") as file:
            file.seek(logits.offset + logits.nbytes)
            found = file.read().decode(errors="replace")
        if fingerprint not in (None, found):
            needs = f"the fingerprint of {path} needs to be {fingerprint!r}"
            why = "it was made from other data, in another order, or by another teacher"
            raise wrong(needs, f"{found!r}: {why}", "Write it again")
        return cls(path, logits, found)

    @property
    def classes(self) -> int:
        """The width of a row."""
        return int(self.logits.shape[1])

    def __len__(self) -> int:
        return int(self.logits.shape[0])

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Return the rows of sample indices (an int, an int array or a slice), read from disk.

        Raises:
            IndexError: an index outside of 0 … count − 1.
        """
        if not isinstance(index, slice):
            index = to_numpy(index)
            index = index if index.size else index.astype("int64")  # of no samples: a list is float
            check_range("TeacherCache: index", index, len(self), IndexError)
        return np.array(self.logits[index])  # a copy: the file stays unmapped from the result

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path, not the rows: a worker of a data loader maps the file itself."""
        return partial(TeacherCache.open, fingerprint=self.fingerprint), (self.path,)


def fingerprint(*parts: Any) -> str:
    """Return a hash of what a cache depends on: texts, numbers and arrays, in this order.

    Args:
        parts: for the data its labels or file names in order; for the teacher its name, epoch or
            weights, such as ``*(w.numpy() for w in teacher.state_dict().values())``.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: a part that is not a text, a number or an array.

    Example:
        >>> fingerprint("teacher", np.arange(3)) == fingerprint("teacher", np.arange(3))
        True
        >>> fingerprint("teacher", np.arange(3)) == fingerprint("teacher", np.array([0, 2, 1]))
        False
    """
    digest = hashlib.sha256()
    for part in parts:
        try:
            array = np.asarray(part) if isinstance(part, (str, bytes)) else to_numpy(part)
            if array.dtype.hasobject:
                raise ValueError
        except ValueError:  # NumPy's own for lists in which the lengths differ
            needs, came = "parts need to be texts, numbers or arrays", type(part).__name__
            raise Checks("fingerprint").wrong_type(needs, came) from None
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _write_rows(
    file: BinaryIO, start: int, batches: Any, count: int, classes: int, dtype: str
) -> None:
    """Write each row to its place in the file, by writes that can fail: no memory map can."""
    checks, written = Checks("TeacherCache.write"), np.zeros(count, "bool")
    for index, logits in batches:
        index, logits = to_numpy(index), to_numpy(logits)
        is_index = index.ndim == 1 and index.dtype.kind in "iu"
        if not is_index or logits.shape != (len(index), classes):
            needs = f"batches need int indices (batch,) and logits (batch, {classes})"
            raise checks.wrong(needs, f"{index.dtype} {index.shape} and {logits.shape}")
        check_range("TeacherCache.write: index", index, count, ValueError)
        stored = _stored(checks, index, logits, dtype)
        for i, row in zip(index, stored, strict=True):  # of one that comes twice the last stays
            file.seek(start + int(i) * row.nbytes)
            file.write(row.tobytes())
        written[index] = True
    if not written.all():
        came = f"{written.sum()}, sample {np.argmin(written)} is the first that is missing"
        raise checks.wrong(f"batches need all {count} samples", came, "No file was written")


def _stored(checks: Checks, index: NDArray[Any], logits: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return the logits in the dtype of the file; raise for NaN and for what it cannot hold."""
    with np.errstate(over="ignore"):
        stored = logits.astype(dtype)
    bad = np.isnan(stored) | (np.isinf(stored) & ~np.isinf(logits))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        came = f"{logits[row, column]} for sample {index[row]}, class {column}"
        narrow = dtype == "float16" and np.isinf(stored[row, column])
        cure = "Mend the teacher, or write float32" if narrow else "Mend the teacher"
        raise checks.wrong(f"logits need numbers that {dtype} can hold", came, cure)
    return stored


def check_range(argument: str, index: NDArray[Any], count: int, error: type[Exception]) -> None:
    bad = (index < 0) | (index >= count)
    if bad.any():
        raise error(
            f"{argument} needs sample indices in 0 … {count - 1}; got {index[bad].flat[0]}. "
            "Use the indices of the data set that the cache was written from"
        )
