"""A language model's answers to a whole data set on disk: `TokenCache`."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mcld_core.arguments import Checks
from mcld_core.cache import as_json, check_range, to_numpy
from mcld_core.extensions._stored import LEAST, TopKLogits, normalised
from mcld_core.extensions.nlp import shards
from mcld_core.typing import Array, Bool, Int


class TokenCache:
    """A teacher's k most probable tokens at each token of a data set, read by sample index.

    A folder of shards, files with the rows of some samples each: log-probabilities in float16, ids,
    and the probability of all other tokens in float32. A token takes ``4 k + 4`` bytes, beyond a
    vocabulary of 65,536 ``6 k + 4``, and a sample 8 more: 100 million tokens with k = 32 take 13
    or 20 GB. Of a shard only the rows are read that are asked for.

    The rows belong to the samples as the teacher saw them: the same tokens, in the same order. A
    masked language model needs masks that are drawn once, not in every epoch.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> def teacher(samples):  # two and three tokens of a vocabulary of 4
        ...     return np.zeros((len(samples), 3, 4)), np.arange(3) < samples[:, None] + 2
        >>> TokenCache.write(folder, teacher, 2, k=2, vocabulary=4, fingerprint="a teacher")
        >>> cache = TokenCache.open(folder, fingerprint="a teacher")
        >>> cache.lengths.tolist(), cache[[1, 0]].values.shape
        ([2, 3], (2, 3, 2))
    """

    def __init__(self, folder: Path, settings: list[dict[str, Any]]) -> None:
        self.folder = folder
        self._settings = settings

    @classmethod
    def write(
        cls,
        folder: str | os.PathLike[str],
        teacher: Callable[[Int[Array, " batch"]], tuple[Any, Bool[Array, "batch tokens"]]],
        count: int,
        *,
        k: int,
        vocabulary: int,
        fingerprint: Any,
        batch_size: int = 8,
        shard_size: int = 256,
        writer: int = 0,
        writers: int = 1,
    ) -> None:
        """Ask the teacher for what the folder lacks, and write it.

        Shards that are complete stay as they are, so a run that was stopped goes on where it was:
        call it again. Several processes may write into one folder: each takes every ``writers``-th
        shard. Nobody waits for another; `open` says whether anything is missing. A shard
        appears under its name when it is complete.

        Args:
            folder: made where it does not exist.
            teacher: a function of sample indices (batch,), which returns the logits of these
                samples, (batch, tokens, vocabulary) of any framework or `TopKLogits`, and a mask
                (batch, tokens), True or 1 where a token belongs to the sample and is not padding,
                which may be on either side. On a GPU return ``TopKLogits.from_logits(logits, k)``:
                it selects there.
            count: the number of samples.
            k: how many entries of a token to keep.
            vocabulary: the width of the logits, that of the student: where it differs, align what
                the function returns (`align_vocabulary`).
            fingerprint: of the data's order and the teacher, see `mcld_core.cache.fingerprint`.
            batch_size: how many samples the teacher is asked for at once.
            shard_size: samples a shard; they are in memory until it is written.
            writer: which of the writers this is, 0 … writers - 1.
            writers: how many there are.

        Raises:
            ValueError, TypeError: a number out of its range; shapes that do not fit; an answer
                that is not a distribution; a folder with the answers to other data, by another
                teacher, or with other settings.
            OSError: the disk is full, or the folder takes no files.
        """
        checks = Checks("TokenCache.write")
        numbers = {"count": count, "vocabulary": vocabulary}
        others = {"batch_size": batch_size, "shard_size": shard_size, "writers": writers}
        for name, value in (numbers | others).items():
            checks.integer(name, value, minimum=1)
        checks.integer("k", k, minimum=1, maximum=vocabulary)
        checks.integer("writer", writer, minimum=0, maximum=writers - 1)
        mark = json.loads(as_json("TokenCache.write", fingerprint))
        settings = {**numbers, "k": k, "shard_size": shard_size, "fingerprint": mark}
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(writer, -(-count // shard_size), writers):
            path = _path(folder, number)
            if path.exists():
                _check_settings("TokenCache.write", path, shards.read_settings(path), settings)
                continue
            first = number * shard_size
            samples = np.arange(first, min(first + shard_size, count))
            starts = range(0, len(samples), batch_size)
            parts = [_ask(teacher, samples[i : i + batch_size], settings) for i in starts]
            values, indices, tail, lengths = map(np.concatenate, zip(*parts, strict=True))
            rows = shards.Rows(values, indices, tail, lengths.cumsum().astype("<i8"))
            shards.write_shard(path, rows, settings | {"first": first})

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], *, fingerprint: Any, verify: bool = False
    ) -> TokenCache:
        """Open a complete folder of this data and this teacher.

        Args:
            folder: what `write` filled.
            fingerprint: what its shards must carry; None takes any.
            verify: read every byte and compare the checksums.

        Raises:
            FileNotFoundError: a shard is missing, or all are.
            ValueError: a shard is cut off or damaged, or carries another fingerprint.
        """
        folder = Path(folder)
        paths = [_path(folder, 0)]
        if not paths[0].exists():
            raise FileNotFoundError(f"TokenCache.open: {paths[0]} is missing. Write it first")
        settings = [shards.read_settings(paths[0])]
        expected = {name: settings[0][name] for name in _SHARED}
        if fingerprint is not None:
            expected["fingerprint"] = json.loads(as_json("TokenCache.open", fingerprint))
        paths = [_path(folder, i) for i in range(-(-expected["count"] // expected["shard_size"]))]
        missing = [path.name for path in paths if not path.exists()]
        if missing:
            raise FileNotFoundError(
                f"TokenCache.open: {len(missing)} of {len(paths)} shards of {folder} are missing, "
                f"{missing[0]} is the first. TokenCache.write writes what is missing"
            )
        settings += [shards.read_settings(path) for path in paths[1:]]
        for number, (path, one) in enumerate(zip(paths, settings, strict=True)):
            _check_settings("TokenCache.open", path, one, expected)
            first = number * expected["shard_size"]
            size = min(expected["shard_size"], expected["count"] - first)
            if (one.get("first"), one["samples"]) != (first, size):
                raise ValueError(
                    f"TokenCache.open: {path} needs samples {first} … {first + size - 1}; got "
                    f"{one['samples']} from {one.get('first')} on: the file was renamed"
                )
            if verify:
                shards.check_shard(path, one)
        return cls(folder, settings)

    @property
    def fingerprint(self) -> Any:
        """What the shards carry."""
        return self._settings[0]["fingerprint"]

    @property
    def k(self) -> int:
        """How many entries of a token there are."""
        return int(self._settings[0]["k"])

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return int(self._settings[0]["vocabulary"])

    @functools.cached_property
    def lengths(self) -> Int[Array, " count"]:
        """How many tokens each sample has."""
        return np.concatenate([np.diff(ends, prepend=0) for ends in self._ends])

    def __len__(self) -> int:
        return int(self._settings[0]["count"])

    def __getitem__(self, samples: Int[Array, " batch"]) -> TopKLogits:
        """Return the rows of samples, padded on the right to the longest; see `batch`."""
        return self.batch(samples)

    def batch(
        self, samples: Int[Array, " batch"], mask: Bool[Array, "rows tokens"] | None = None
    ) -> TopKLogits:
        """Return the rows of samples, at the places where a batch has their tokens.

        Args:
            samples: (batch,) int, in any order, each as often as you like.
            mask: (rows, tokens), True or 1 where the batch has a token: the attention mask. The
                samples' tokens stand there one after the other, row by row. So padding may be on
                the left or on the right, and a row may hold several samples. None: a row a sample,
                padded on the right.

        Returns:
            `TopKLogits` (rows, tokens, k) in NumPy: float16, int32 and float32; zeros elsewhere.

        Raises:
            IndexError: a sample outside of 0 … count - 1, or no ints.
            ValueError: a mask with another number of tokens than the samples have.
        """
        index = np.atleast_1d(to_numpy(samples))
        if index.ndim != 1 or index.dtype.kind not in "iu":
            raise IndexError(
                f"TokenCache: samples need ints (batch,); got {index.dtype} {index.shape}"
            )
        check_range("TokenCache: samples", index, len(self), IndexError)
        found = [self._rows(int(i)) for i in index]
        lengths = np.asarray([len(tail) for _, _, tail in found], "int64")
        if mask is None:
            mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
        where = to_numpy(mask).astype(bool)
        if where.ndim != 2 or where.sum() != lengths.sum():
            raise ValueError(
                f"TokenCache: mask needs (rows, tokens) with the {lengths.sum()} tokens of the "
                f"samples; got {where.sum()} of shape {where.shape}. Were the samples cut, or "
                "tokens added, after the teacher saw them?"
            )
        values = np.zeros((*where.shape, self.k), "float16")
        indices, tail = np.zeros(values.shape, "int32"), np.zeros(where.shape, "float32")
        if found:
            for array, parts in zip((values, indices, tail), zip(*found, strict=True), strict=True):
                array[where] = np.concatenate(parts)
        return TopKLogits(values, indices, tail)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path alone: a worker of a data loader opens the folder itself."""
        return functools.partial(TokenCache.open, fingerprint=self.fingerprint), (self.folder,)

    @functools.cached_property
    def _ends(self) -> list[Int[Array, " samples"]]:
        """Of each shard, where the tokens of each sample end."""
        found = []
        for number, settings in enumerate(self._settings):
            found += shards.read(_path(self.folder, number), settings, ["ends"])
        return found

    def _rows(self, sample: int) -> list[np.ndarray[Any, Any]]:
        """Return values, indices and tail of one sample's tokens."""
        number, place = divmod(sample, self._settings[0]["shard_size"])
        ends = self._ends[number]
        span = int(ends[place - 1]) if place else 0, int(ends[place])
        names = shards.Rows._fields[:3]
        return shards.read(_path(self.folder, number), self._settings[number], names, *span)


_SHARED = ("count", "k", "vocabulary", "shard_size", "fingerprint")
"""What all shards of a folder have in common."""


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.tokens"


def _ask(
    teacher: Callable[..., Any], samples: np.ndarray[Any, Any], settings: dict[str, Any]
) -> tuple[np.ndarray[Any, Any], ...]:
    """Return values, indices and tail as a shard holds them, and the samples' lengths."""
    answer, mask = teacher(samples)
    k, vocabulary = settings["k"], settings["vocabulary"]
    if not isinstance(answer, TopKLogits):
        if len(answer.shape) != 3 or answer.shape[2] != vocabulary:
            raise ValueError(
                "TokenCache.write: teacher needs to return logits (batch, tokens, "
                f"{vocabulary}); got shape {tuple(answer.shape)}. Other vocabularies: "
                "align_vocabulary"
            )
        answer = TopKLogits.from_logits(answer, k)
    where = to_numpy(mask).astype(bool)
    shape = tuple(answer.values.shape)
    if where.shape != shape[:2] or len(where) != len(samples) or shape[2] < k:
        raise ValueError(
            f"TokenCache.write: teacher needs to return {len(samples)} samples with at least k = "
            f"{k} entries a token, and a mask (batch, tokens); got {shape} and {where.shape}"
        )
    values, indices, tail = normalised("TokenCache.write", answer, where, vocabulary)
    order = np.argsort(-values, axis=-1, kind="stable")
    values, indices = (np.take_along_axis(x, order, -1) for x in (values, indices))
    tail = tail + np.exp(values[:, k:]).sum(-1)
    return (
        np.maximum(values[:, :k], LEAST).astype("<f2"),
        indices[:, :k].astype(shards.index_dtype(vocabulary)),
        np.minimum(tail, 1.0).astype("<f4"),
        where.sum(1),
    )


def _check_settings(
    function: str, path: Path, found: dict[str, Any], expected: dict[str, Any]
) -> None:
    for name in _SHARED:
        if json.dumps(found.get(name)) != json.dumps(expected[name]):
            raise ValueError(
                f"{function}: {name} of {path} needs to be {expected[name]!r}; got "
                f"{found.get(name)!r}: it was made from other data, by another teacher, or with "
                "other settings. Take another folder, or remove this one"
            )
