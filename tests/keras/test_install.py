"""What Keras' names say where Keras, or the framework that it computes on, is not installed."""

from __future__ import annotations

import keras
import pytest

from mcld_core.__main__ import about
from tests.frameworks import run_without

BACKEND = keras.backend.backend()


@pytest.mark.parametrize(
    ("missing", "extras"), [("keras", "keras,jax"), (BACKEND, f"keras,{BACKEND}")]
)
def test_what_is_missing_is_named(missing: str, extras: str) -> None:
    said = run_without(missing, "from mcld_core.keras import MCLDLoss")
    assert f"mcld_core.keras needs {missing}, which is not installed" in said
    assert f"pip install '.[{extras}]'" in said
    assert "KERAS_BACKEND names" in said
    other = "torch" if missing == "jax" else "jax"
    assert f'import os; os.environ.setdefault("KERAS_BACKEND", "{other}")' in said


def test_the_report_names_the_framework_of_keras() -> None:
    assert about("keras").split(maxsplit=1)[1] == f"on {BACKEND} (KERAS_BACKEND)"
    call = "from mcld_core.__main__ import about; print(about('keras'))"
    assert f"needs {BACKEND}, which is not installed" in run_without(BACKEND, call)
