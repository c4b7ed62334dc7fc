"""The trainer of the tables: resumes with the same bits, seeds, devices, files."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import record
from benchmarks.fit import InMemory, Rows, device, fit
from benchmarks.losses import loss_of

CPU = torch.device("cpu")


def rows(count: int = 64) -> Rows:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 4, generator=generator)
    return Rows(x, (x[:, 0] > 0).long(), torch.randn(count, 2, generator=generator))


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))


def train(checkpoint: Path | None = None, stop: int = -1, **options: object) -> dict[str, object]:
    """Train for six epochs; with ``stop`` leave in the middle of that step, as a kill does."""
    plain, seen = loss_of("mcld-ce"), []

    def loss(*given: object) -> torch.Tensor:
        seen.append(given)
        if len(seen) == stop:
            raise KeyboardInterrupt
        return plain(*given)

    settings = {"epochs": 6, "lr": 0.1, "seed": 3, "every": 2, "where": CPU} | options
    return fit(build, InMemory(rows(), 16), loss, checkpoint=checkpoint, **settings).state_dict()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_training_ends_with_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    whole, path = train(optimizer=optimizer), tmp_path / "run.pt"
    for stop in (11, 7):  # in epoch 3; then, from the end of epoch 2, in epoch 4
        with pytest.raises(KeyboardInterrupt):
            train(path, stop, optimizer=optimizer)
    assert torch.load(path, weights_only=True)["epoch"] == 2
    torch.testing.assert_close(train(path, optimizer=optimizer), whole, rtol=0, atol=0)
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_a_seed_has_the_same_first_weights_and_batches_for_any_loss() -> None:
    seen: dict[str, list[torch.Tensor]] = {"ce": [], "kd": []}
    first = []
    for name, batches in seen.items():
        plain = loss_of(name)

        def loss(s: torch.Tensor, t: torch.Tensor, y: torch.Tensor, progress: float) -> object:
            batches.append(t)  # noqa: B023
            return plain(s, t, y, progress)  # noqa: B023

        def made() -> nn.Module:
            first.append(build())
            return first[-1]

        fit(made, InMemory(rows(), 16), loss, epochs=2, lr=0.0, seed=1, where=CPU)
    torch.testing.assert_close(seen["ce"], seen["kd"])
    torch.testing.assert_close(first[0][0].state_dict(), first[1][0].state_dict())
    assert not torch.equal(seen["ce"][0], seen["ce"][4])  # another order in each epoch


def test_a_torch_that_claims_an_accelerator_and_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def current(check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert device() == CPU


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    record.write_json(path, {"a": 1})
    with pytest.raises(OSError, match="full"), record.replaced(path) as new:
        fill(new)
    assert record.read_json(path) == {"a": 1}
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is not a file"):
        record.write_json(tmp_path / "pipe", {})


def fill(path: Path) -> None:
    path.write_text("half")
    raise OSError("the disk is full")


def add(path: Path, name: str) -> None:
    for number in range(20):
        record.Record(path).add(f"{name}{number}", {"x": number})


def test_two_processes_lose_no_run_of_each_other(tmp_path: Path) -> None:
    path, context = tmp_path / "runs.json", multiprocessing.get_context("fork")
    both = [context.Process(target=add, args=(path, name)) for name in "ab"]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(record.Record(path).runs()) == 40
    assert len(path.read_text().splitlines()) == 42  # a run a line
    assert json.loads(path.read_text())["b7"] == {"x": 7}
