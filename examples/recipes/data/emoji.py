"""Emoji as a task of many classes: drawing, name and short names → one of 58 subcategories.

From the npm packages ``emoji-datasource-google`` and ``-twitter``, which hold a drawing of each
emoji and its texts.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files import DataError

VENDORS = ("google", "twitter")
ARCHIVE = "emoji-datasource-{}-16.0.0.tgz"
NGRAMS, SIDE = 1024, 16


class Split(NamedTuple):
    """Drawings (rows, side, side, 3) uint8, their texts' n-gram counts, labels, emoji numbers."""

    images: np.ndarray
    texts: np.ndarray
    labels: np.ndarray
    emoji: np.ndarray


def read_emoji(folder: Path) -> tuple[dict[str, Split], list[str]]:
    """Read both packages and split by emoji: 60 % training, 15 % validation, 25 % test."""
    from PIL import Image

    drawings: dict[str, dict[str, np.ndarray]] = {}
    entries: list[dict[str, Any]] = []
    for vendor in VENDORS:
        path = folder / ARCHIVE.format(vendor)
        if not path.is_file():
            raise DataError(
                f"{path} is missing: run npm pack emoji-datasource-{vendor}@16.0.0 in {folder}, or "
                "name the folder by --data-dir"
            )
        drawings[vendor] = {}
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.name == "package/emoji.json":
                        entries = json.load(io.BytesIO(_content(archive, member)))
                    elif member.name.startswith(f"package/img/{vendor}/64/"):
                        picture = Image.open(io.BytesIO(_content(archive, member))).convert("RGBA")
                        white = Image.new("RGBA", picture.size, "white")
                        small = Image.alpha_composite(white, picture).convert("RGB")
                        pixels = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BOX))
                        drawings[vendor][Path(member.name).name] = pixels
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{path} is damaged ({error}): fetch it again") from error
    count = Counter(entry["subcategory"] for entry in entries)
    names = sorted(name for name, size in count.items() if size >= 10)
    chosen = [e for e in entries if e["subcategory"] in names]
    rng = np.random.default_rng(0)
    part = np.empty(len(chosen), "<U10")
    labels = np.array([names.index(entry["subcategory"]) for entry in chosen])
    for label in range(len(names)):  # stratified: every class on every side
        members = rng.permutation(np.flatnonzero(labels == label))
        first, second = round(0.6 * len(members)), round(0.75 * len(members))
        part[members[:first]] = "training"
        part[members[first:second]] = "validation"
        part[members[second:]] = "test"
    splits = {}
    for name in ("training", "validation", "test"):
        rows = [
            (drawings[vendor][entry["image"]], ngrams(entry), labels[number], number)
            for number, entry in enumerate(chosen)
            for vendor in VENDORS
            if part[number] == name and entry["image"] in drawings[vendor]
        ]
        splits[name] = Split(*(np.array(column) for column in zip(*rows, strict=True)))
    return splits, names


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        raise DataError(f"{member.name} is no file")
    return file.read()


def ngrams(entry: dict[str, Any]) -> np.ndarray:
    """Return hashed counts of words and of three letters in a row, at length 4 (as pixels vary)."""
    text = " ".join([entry["name"] or "", *entry["short_names"]]).lower()
    words = "".join(c if c.isalnum() else " " for c in text).split()
    grams = words + [f" {word} "[i : i + 3] for word in words for i in range(len(word))]
    row = np.zeros(NGRAMS, np.float32)
    for gram in grams:
        row[int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=4).digest()) % NGRAMS] += 1
    return 4.0 * row / max(float(np.linalg.norm(row)), 1.0)
