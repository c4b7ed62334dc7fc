"""MCLDTrainer and TokenKDTrainer on two ranks equal one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.processes import torchrun
from tests.torch import test_huggingface, test_language_models
from tests.torch.tiny_language_model import make_data, weights


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    """Keys, items and the mean of the gradients are those of the joined batches.

    And so are perplexity and agreement, though the ranks see a sample twice, and a step of which
    the ranks share the parameters (FSDP2).
    """
    out = tmp_path / "found.pt"
    worker = torchrun(2, "-m", "tests.torch.trainers_worker", out, timeout=240)
    assert worker.returncode == 0, worker.stdout + worker.stderr
    found, model = torch.load(out), test_language_models.by_hand(6)
    expected = test_huggingface.by_hand(8, 1)
    torch.testing.assert_close(found["tiny_trainer"], expected, rtol=1e-5, atol=1e-6)
    expected = weights(model)
    torch.testing.assert_close(found["tiny_language_model"], expected, rtol=1e-4, atol=1e-5)
    expected = weights(test_language_models.by_hand(6, steps=1))
    for sharded in found["sharded"]:
        torch.testing.assert_close(sharded, expected, rtol=1e-4, atol=1e-5)
    for name, value in test_language_models.measured(model, make_data(7)).items():
        assert found["metrics"][f"eval_{name}"] == pytest.approx(value, rel=1e-4)
