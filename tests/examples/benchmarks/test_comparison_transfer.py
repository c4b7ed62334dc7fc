"""The linear probe: its features, its solver, and the table of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes.checkpoints import load_torch
from recipes.models.torch import build

from benchmarks.comparison import __main__, transfer
from tests.examples.official_files import write_fashion


@pytest.mark.parametrize("name", ["mlp-8", "conv-4", "resnet20"])
def test_features_are_what_the_last_layer_sees(name: str) -> None:
    model = build(name, (8, 8, 1), 5).eval()
    images = torch.randn(3, 1, 8, 8)
    features = transfer.Features(model)(images)
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    torch.testing.assert_close(last(features), model(images))


def test_the_probe_is_a_stationary_point_of_its_objective() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator)
    labels = torch.randint(0, 3, (60,), generator=generator)
    weight, bias = transfer.fit(x, labels, 3, 1e-2)
    weight.requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight + bias, labels)
    (loss + 1e-2 * weight.square().sum()).backward()
    assert weight.grad is not None
    assert float(weight.grad.abs().max()) < 1e-4
    assert float(weight.detach().abs().max()) > 0.01


def test_students_of_another_data_set_are_probed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with the weights of its own last epoch."""
    probe, probed = transfer.probe, []

    def noted(model: torch.nn.Module, *rest: Any) -> float:
        probed.append({name: value.clone() for name, value in model.state_dict().items()})
        return probe(model, *rest)

    monkeypatch.setattr(transfer, "probe", noted)
    monkeypatch.setattr(__main__, "write_report", lambda *_: None)
    write_fashion(tmp_path, rows=40)
    arguments = ["--teacher", "conv-4", "--teacher-epochs", "2", "--student", "mlp-32"]
    arguments += ["--dataset", "fashion_mnist", "--data-dir", str(tmp_path), "--epochs", "1"]
    arguments += ["--validation-size", "0", "--results", str(tmp_path / "run"), "--no-onnx"]
    arguments += ["--methods", "ce", "kd", "mcld", "--transfer", "digits", "--seeds", "0"]
    assert __main__.main(arguments) == 0
    scores = json.loads((tmp_path / "run" / "transfer_digits.json").read_text())
    assert list(scores) == ["untrained", "ce", "kd", "mcld"]
    assert len({score for (score,) in scores.values()}) > 1
    for method, weights in zip(("ce", "kd", "mcld"), probed[1:], strict=True):
        saved = load_torch(tmp_path / "run" / "seed0" / method / "last.pt")["model"]
        for name, value in weights.items():
            assert torch.equal(value, saved[name]), name
            assert not torch.equal(value, probed[0][name]), name
    assert scores["untrained"][0] > 0.8  # 32 random features of digits tell them apart
    assert "| student of fashion_mnist | test % on digits |" in capsys.readouterr().out
