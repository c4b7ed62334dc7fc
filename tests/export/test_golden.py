"""The golden of an exported student: it needs onnxruntime, which the other suites do not have."""

from __future__ import annotations

import numpy as np
import pytest

from tests.frameworks import Framework, only
from tests.goldens.cases import FILE
from tests.goldens.test_goldens import assert_golden


@pytest.mark.parametrize("backend", only("torch"), indirect=True)
def test_golden_of_an_exported_student(backend: Framework) -> None:
    assert_golden("exported-0", backend, dict(np.load(FILE)))
