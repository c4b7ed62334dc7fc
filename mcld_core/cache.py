"""Teacher logits of a whole data set on disk: `TeacherCache`, for offline teachers."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mcld_core.config import plain_number
from mcld_core.typing import Array, Float, Int

DTYPES = ("float16", "float32")
_END = b"MCLDEND1"
"""The last bytes of a complete file, after the settings as JSON."""


class TeacherCache:
    """The teacher's logits of every sample, memory-mapped, read by sample index.

    A teacher that does not change answers the same in every epoch: run it once, `write` the
    answers, and train any number of students from them. The file is a ``.npy`` array of shape
    (count, classes), which ``numpy.load`` reads too, with the fingerprint and a mark of
    completeness after its last row. It appears under its name only when every sample is in it.

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

    def __init__(self, path: Path, logits: np.ndarray[Any, Any], fingerprint: str) -> None:
        self.path = path
        self.logits = logits
        self.fingerprint = fingerprint

    @classmethod
    def write(
        cls,
        path: str | os.PathLike[str],
        batches: Iterable[tuple[Int[Array, "batch"], Float[Array, "batch classes"]]],  # noqa: F821
        count: int,
        classes: int,
        *,
        fingerprint: str,
        dtype: str = "float32",
    ) -> TeacherCache:
        """Write the logits of all samples and open the file.

        Args:
            path: the file; replaced if it exists, once the new one is complete.
            batches: pairs of sample indices (batch,) in 0 … count − 1 and logits (batch, classes),
                in any order, as arrays or tensors of any framework. An index may come twice (a
                sampler that pads does that); the last row stays.
            count: the number of samples.
            classes: the width of a row.
            fingerprint: of the data's order and the teacher, see `fingerprint`.
            dtype: ``"float32"``, or ``"float16"`` for half the space (about 3 digits).

        Raises:
            ValueError: an index or a width that does not fit, a NaN, a logit too large for
                float16, or samples that no batch has.
        """
        if dtype not in DTYPES:
            raise ValueError(
                f"TeacherCache.write: dtype needs one of {', '.join(DTYPES)}; got {dtype!r}"
            )
        count, classes = plain_number(count), plain_number(classes)
        for name, size in (("count", count), ("classes", classes)):
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"TeacherCache.write: {name} needs an int > 0; got {size!r}")
        path = Path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            _write_rows(partial, batches, count, classes, dtype)
            settings = {"shape": [count, classes], "fingerprint": fingerprint}
            with open(partial, "ab") as file:
                file.write(json.dumps(settings).encode() + _END)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return cls.open(path, fingerprint=fingerprint)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, fingerprint: str | None) -> TeacherCache:
        """Open a complete cache of this data and this teacher.

        Args:
            path: the file that `write` made.
            fingerprint: what the file must carry; None takes any.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is incomplete, or carries another fingerprint.
        """
        path = Path(path)
        logits, found = _open(path)
        if fingerprint is not None and found != fingerprint:
            raise ValueError(
                f"TeacherCache.open: the fingerprint of {path} needs to be {fingerprint!r}; got "
                f"{found!r}: it was made from other data, in another order, or by another "
                "teacher. Write it again"
            )
        return cls(path, logits, found)

    @property
    def classes(self) -> int:
        """The width of a row."""
        return int(self.logits.shape[1])

    def __len__(self) -> int:
        return int(self.logits.shape[0])

    def __getitem__(self, index: Any) -> np.ndarray[Any, Any]:
        """Return the rows of sample indices (an int, an int array or a slice), read from disk.

        Raises:
            IndexError: an index outside of 0 … count − 1.
        """
        if not isinstance(index, slice):
            index = _to_numpy(index)
            if index.dtype.kind not in "iu":
                raise IndexError(
                    f"TeacherCache: index needs an integer dtype or a slice; got {index.dtype}"
                )
            _check_range("TeacherCache: index", index, len(self), IndexError)
        return np.array(self.logits[index])  # a copy: the file stays unmapped from the result

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path, not the rows: a worker of a data loader maps the file itself."""
        return _reopen, (self.path, self.fingerprint)


def fingerprint(*parts: Any) -> str:
    """Return a hash of what a cache depends on: texts, numbers and arrays, in this order.

    Args:
        parts: for the data its labels or file names in order; for the teacher its name, epoch or
            weights, such as ``*(w.numpy() for w in teacher.state_dict().values())``.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: a part that is no text, number or array.

    Example:
        >>> fingerprint("teacher", np.arange(3)) == fingerprint("teacher", np.arange(3))
        True
        >>> fingerprint("teacher", np.arange(3)) == fingerprint("teacher", np.array([0, 2, 1]))
        False
    """
    digest = hashlib.sha256()
    for part in parts:
        array = np.asarray(part) if isinstance(part, (str, bytes)) else _to_numpy(part)
        if array.dtype.kind not in "biufcSU":
            raise TypeError(
                f"fingerprint: parts need to be texts, numbers or arrays; got {type(part).__name__}"
            )
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _write_rows(name: Path, batches: Any, count: int, classes: int, dtype: str) -> None:
    rows = np.lib.format.open_memmap(name, mode="w+", dtype=dtype, shape=(count, classes))
    written = np.zeros(count, "bool")
    for index, logits in batches:
        index, logits = _to_numpy(index), _to_numpy(logits)
        if index.ndim != 1 or index.dtype.kind not in "iu" or logits.shape != (len(index), classes):
            raise ValueError(
                "TeacherCache.write: batches need int indices (batch,) and logits "
                f"(batch, {classes}); got {index.dtype} {index.shape} and {logits.shape}"
            )
        _check_range("TeacherCache.write: index", index, count, ValueError)
        with np.errstate(over="ignore"):
            stored = logits.astype(dtype)
        bad = np.isnan(stored) | (np.isinf(stored) & ~np.isinf(logits))
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"TeacherCache.write: logits need numbers that {dtype} can hold; got "
                f"{logits[row, column]} for sample {index[row]}, class {column}. "
                "Mend the teacher, or write float32"
            )
        rows[index] = stored
        written[index] = True
    if not written.all():
        raise ValueError(
            f"TeacherCache.write: batches need all {count} samples; got {int(written.sum())}, "
            f"sample {int(np.argmin(written))} is the first that is missing. No file was written"
        )
    rows.flush()


def _open(path: Path) -> tuple[np.ndarray[Any, Any], str]:
    """Return rows and fingerprint; raise where the file is not what `TeacherCache.write` leaves."""
    try:
        rows = np.load(path, mmap_mode="r")
        with open(path, "rb") as file:
            file.seek(rows.offset + rows.nbytes)
            tail = file.read()
        if not tail.endswith(_END):
            raise ValueError("no mark of completeness")
        settings = json.loads(tail.removesuffix(_END))
        if tuple(settings["shape"]) != rows.shape:
            raise ValueError("another shape")
    except (ValueError, EOFError, AttributeError, KeyError) as error:
        raise ValueError(
            f"TeacherCache.open: path needs a complete teacher cache; got {path}, which is "
            f"cut off or another kind of file ({error}). Write it again"
        ) from error
    return rows, settings["fingerprint"]


def _check_range(
    argument: str, index: np.ndarray[Any, Any], count: int, error: type[Exception]
) -> None:
    bad = (index < 0) | (index >= count)
    if bad.any():
        raise error(
            f"{argument} needs sample indices in 0 … {count - 1}; got {index[bad].flat[0]}. "
            "Use the indices of the data set that the cache was written from"
        )


def _to_numpy(x: Any) -> np.ndarray[Any, Any]:
    """Convert an array or tensor of any framework, from an accelerator too."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.float() if str(x.dtype) == "torch.bfloat16" else x
    return np.asarray(x)


def _reopen(path: Path, mark: str) -> TeacherCache:
    return TeacherCache.open(path, fingerprint=mark)
