"""The code of docs/guides/torch.md runs, and its Lightning module resumes with equal losses."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import torchrun

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "guides" / "torch.md").read_text("utf-8")
CODE = re.findall(r"<!-- test: (torch|torchrun) -->\n```python\n(.*?)```", TEXT, re.DOTALL)
ALONE = [code for kind, code in CODE if kind == "torch"]
LOOP = next(code for code in ALONE if "def agreement" in code)
ON_RANKS = [code for kind, code in CODE if kind == "torchrun"]
LIGHTNING = next(code for code in ALONE if "import lightning" in code)


def test_every_block_is_tested() -> None:
    assert len(ALONE) + len(ON_RANKS) == TEXT.count("```python")
    assert len(ON_RANKS) == 1


@pytest.mark.parametrize("code", ALONE, ids=map(str, range(len(ALONE))))
def test_blocks_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Lightning says of few loader workers
        exec(code, {"__name__": "__main__"})


def test_the_student_of_the_loop_learns() -> None:
    guide: dict[str, Any] = {"__name__": "guide"}
    exec(LOOP, guide)
    assert guide["before"] < 0.3
    assert guide["agreement"]() > 0.8


def test_the_block_for_ranks_runs(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(ON_RANKS[0], "utf-8")
    finished = torchrun(2, "train.py", cwd=tmp_path, timeout=240)
    assert finished.returncode == 0, finished.stderr


def fit(folder: Path, *, stop_after: int, resume: str | None = None) -> tuple[str, list[float]]:
    """Train the guide's module for epochs; return its last checkpoint and its losses."""
    import lightning

    guide: dict[str, Any] = {"__name__": "guide"}
    exec(LIGHTNING, guide)
    losses: list[float] = []

    class Recorder(lightning.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, trainer, module, outputs, *_):  # type: ignore[no-untyped-def]
            losses.append(outputs["loss"].item())

        def on_train_epoch_end(self, trainer, module):  # type: ignore[no-untyped-def]
            trainer.should_stop = trainer.current_epoch + 1 == stop_after

    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(24, 20), torch.randint(10, (24,)))
    module = guide["Distillation"](torch.nn.Linear(20, 10), torch.nn.Linear(20, 10), classes=10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=4,
            accelerator="cpu",
            accumulate_grad_batches=2,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[Recorder()],
        )
        loader = torch.utils.data.DataLoader(data, batch_size=4)
        trainer.fit(module, loader, ckpt_path=resume)
    return trainer.checkpoint_callback.best_model_path, losses


def test_lightning_resumes_bit_equally(tmp_path: Path) -> None:
    _, whole = fit(tmp_path / "whole", stop_after=4)
    checkpoint, first = fit(tmp_path / "first", stop_after=2)
    _, rest = fit(tmp_path / "rest", stop_after=4, resume=checkpoint)
    assert (len(first), len(rest)) == (12, 12)
    assert first + rest == whole
