"""What DistillKit captured is read as its own decoder reads it: files that its own code wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mcld_core.extensions.nlp import read_distillkit, teacher_columns

FOLDER = Path(__file__).parent / "distillkit"
SETTINGS = json.loads((FOLDER / "settings.json").read_text())
LENGTHS = (7, 5)


def rows(name: str) -> dict[str, Any]:
    return pq.read_table(FOLDER / f"{name}.parquet").to_pydict()


@pytest.mark.parametrize("name", SETTINGS)
def test_its_own_decoder_reads_the_same(name: str) -> None:
    decoded, found = np.load(FOLDER / "decoded.npz"), read_distillkit(rows(name), SETTINGS[name])
    assert found.values.shape == (2, 7, 24)
    for b, n in enumerate(LENGTHS):
        np.testing.assert_array_equal(found.indices[b, : n - 1], decoded[f"{name}_ids_{b}"])
        # a sum of six float32 terms, which another processor adds in another order
        wanted = decoded[f"{name}_values_{b}"]
        np.testing.assert_allclose(found.values[b, : n - 1], wanted, rtol=2e-6)
        mass = np.exp(found.values[b, : n - 1]).sum(-1) + np.exp(found.tail[b, : n - 1])
        np.testing.assert_allclose(mass, 1.0, atol=0.1)
        assert not found.values[b, n - 1 :].any()
    columns = teacher_columns(found, np.arange(7) < np.asarray(LENGTHS)[:, None])
    assert [len(x) for x in columns["teacher_ids"]] == [24 * n for n in LENGTHS]


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("recommended", {"exact_k": 5}, "bytes of ids and values a token"),
        ("recommended", {"d": 2000}, "bytes of ids and values a token"),
        ("recommended", {"d": 600}, "got ids up to .* of 600"),
    ],
)
def test_other_settings_are_an_error(name: str, change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"read_distillkit: settings need .*{text}"):
        read_distillkit(rows(name), SETTINGS[name] | change)


def test_other_columns_are_an_error() -> None:
    older = {"input_ids": [[1]], "packed_indices": [[1]]}
    with pytest.raises(ValueError, match=r"columns \['bytepacked.* got \['input_ids', 'packed_ind"):
        read_distillkit(older, SETTINGS["all"])
