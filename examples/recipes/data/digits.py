"""Scikit-learn's digits: no download, and no file of this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from . import Split


def digits(folder: Path, size: int | None) -> tuple[Split, Split, list[str]]:
    """Return 1,797 images 8×8 of 17 grey levels, 449 of them for the test, and their names."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) * (255 / 16)).round().astype(np.uint8)
    order = np.random.default_rng(1).permutation(len(labels))
    everything = Split(images, labels.astype(np.int64))
    names = [str(number) for number in range(10)]
    return everything.take(order[449:]), everything.take(order[:449]), names
