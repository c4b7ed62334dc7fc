"""The Keras code on the site's other pages, as printed, runs."""

from __future__ import annotations

import pytest

from tests.docs.test_docs import blocks_for, run


def test_there_are_blocks() -> None:
    assert len(blocks_for("keras")) == 3


@pytest.mark.parametrize(("place", "code"), blocks_for("keras"))
def test_keras_block_runs(place: str, code: str) -> None:
    run(place, code)
