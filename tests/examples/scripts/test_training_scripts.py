"""What every training script does: exact resumption, whole files, one-line errors, exit codes."""

from __future__ import annotations

import csv
import errno
import importlib
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recipes.checkpoints import load_arrays, load_torch
from recipes.data import Dataset, training_batches
from recipes.data.load import load_dataset
from recipes.run import Run
from recipes.watching import Progress

from mcld_core import TeacherBank, mcld_loss
from tests.examples.conftest import EXAMPLES

pytestmark = pytest.mark.filterwarnings(  # of NumPy, on how Keras reads its own variables
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SCRIPTS = ("keras_cifar100", "tf_imagenet")

SMALL = ["--dataset", "digits", "--teacher", "mlp-8", "--teacher-epochs", "1", "--student",
         "mlp-16", "--epochs", "3", "--train-size", "512", "--no-onnx"]  # fmt: skip
STEPS = 8  # an epoch
PRIOR = ["--class-prior", "train"]
CONTRASTS = ["--loss", "weight_sample=0", "--teacher-epochs", "20"]
CHECKPOINTS = ("checkpoint.pt", "checkpoint.npz", "checkpoint.keras")


@pytest.fixture(params=SCRIPTS)
def script(request: pytest.FixtureRequest, plain_jax: None) -> Any:
    """A training script, imported as when it runs."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    return importlib.import_module(request.param)


def weights(folder: Path, name: str = "last") -> dict[str, np.ndarray]:
    """Return the arrays of a finished training, whichever framework wrote them."""
    (path,) = folder.glob(f"{name}.*")
    if path.suffix == ".pt":
        state = load_torch(path)["model"]
        return {key: value.numpy() for key, value in state.items()}
    if path.suffix == ".npz":
        return load_arrays(path)[0]
    import keras

    model = keras.models.load_model(path, compile=False)
    return {str(number): value for number, value in enumerate(model.get_weights())}


def assert_equal_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def checkpoint(folder: Path) -> Path:
    return next(folder / name for name in CHECKPOINTS if (folder / name).exists())


def history(folder: Path) -> list[dict[str, float]]:
    """Return log.csv without its times."""
    with open(folder / "log.csv") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    for row in rows:
        del row["seconds"]
    return rows


def signal_after(steps: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a signal during the given step of the student's training."""
    original = Progress.step
    seen = 0

    def step(self: Progress, *rest: Any) -> None:
        nonlocal seen
        if "mcld" in self.name:
            seen += 1
            if seen == steps:
                os.kill(os.getpid(), number)
        original(self, *rest)

    monkeypatch.setattr(Progress, "step", step)


def uneven(rows: int = 128) -> Dataset:
    """Digits of which those after 2 are rare; the test split is the training split."""
    data = load_dataset("digits", Path("data"), validation_size=270)
    rare = data.train.labels > 2
    chosen = np.concatenate([np.flatnonzero(rare)[:20], np.flatnonzero(~rare)[: rows - 20]])
    train = data.train.take(chosen)
    return replace(data, train=train, test=train, validation=train.take(np.arange(0)))


def train(script: Any, out: Path, *arguments: str) -> Run:
    """Train on the uneven digits."""
    words = [*SMALL, "--train-size", "128", "--validation-size", "0", "--epochs", "1"]
    return script.train(script.parse([*words, *arguments, "--out", str(out)]), uneven())


def test_balanced_adjusts_the_logits_by_the_counts_of_the_training_labels(
    script: Any, tmp_path: Path
) -> None:
    """The first epoch's loss against its definition, at a rate that moves nothing."""
    logits = train(script, tmp_path / "0", "--method", "ce", "--epochs", "0").test_logits()
    labels = uneven().train.labels
    total = 0.0
    for row, label in zip(logits.astype("float64"), labels, strict=True):
        adjusted = [z + math.log((labels == c).sum()) for c, z in enumerate(row)]
        total += math.log(sum(map(math.exp, adjusted))) - adjusted[label]
    still = ["--method", "ce", "--lr", "1e-9"]
    (row,) = train(script, tmp_path / "ce", *still, *PRIOR, "--balanced").rows
    assert row["loss"] == pytest.approx(total / len(labels), rel=1e-4)
    right = logits.argmax(1) == labels
    of_classes = [right[labels == c].mean() for c in set(labels.tolist())]
    assert row["test_balanced_accuracy"] == pytest.approx(np.mean(of_classes))
    (plain,) = train(script, tmp_path / "plain", *still).rows
    assert plain["loss"] != pytest.approx(row["loss"], rel=0.01)


def test_the_prior_and_the_adjustment_cancel_in_the_contrasts(script: Any, tmp_path: Path) -> None:
    """They see s + log π − log π; and the prior alone is another loss."""
    losses = []
    for name, words in (("none", []), ("prior", PRIOR), ("both", [*PRIOR, "--balanced"])):
        found = train(script, tmp_path / name, *words, *CONTRASTS)
        losses.append(found.rows[-1]["loss"])
    none, prior, both = losses
    assert both == pytest.approx(none, rel=1e-5)
    assert prior != pytest.approx(none, rel=1e-3)


@pytest.mark.parametrize("moving", [[], ["--flip"]], ids=["same", "moving"])
def test_a_bank_of_all_holds_every_training_image_from_the_first_step_to_the_last(
    script: Any, tmp_path: Path, moving: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs' losses against two steps with the whole bank, at a rate that moves nothing."""
    monkeypatch.setattr("recipes.data.augment", lambda images, *_: images)
    if moving and script.__name__ == "tf_imagenet":
        flip = "tensorflow.image.stateless_random_flip_left_right"
        monkeypatch.setattr(flip, lambda image, seed: image)
    words = ["--bank-size", "all", "--epochs", "2", "--lr", "1e-9", *moving]
    found = train(script, tmp_path, *words)
    student, teacher = found.test_logits(), found.teacher_logits()
    split = uneven().train
    bank = TeacherBank.from_logits(teacher, split.labels)
    knows_rows = script.__name__ in ("torch_cifar100", "jax_cifar100")  # tells own rows by index
    for epoch in range(2):
        total = 0.0
        for number, (_, labels, index) in enumerate(
            training_batches(split, 64, seed=0, epoch=epoch)
        ):
            ids = {"index": index} if knows_rows else {}
            keys = bank.keys(teacher[index], labels, **ids)
            progress = (2 * epoch + number) / 4
            value = mcld_loss(student[index], teacher[index], labels, keys=keys, progress=progress)
            total += float(value) / 2
        assert found.rows[epoch]["loss"] == pytest.approx(total, rel=1e-4)


KILLED = """
import importlib, signal, sys
import pytest
from tests.examples.scripts.test_training_scripts import signal_after
signal_after(2 * 8 + 3, signal.SIGKILL, pytest.MonkeyPatch())
importlib.import_module(sys.argv[1]).main(sys.argv[2:])
"""


def test_killed_in_an_epoch_and_resumed_equals_uninterrupted(script: Any, tmp_path: Path) -> None:
    """With a bank, whose rows and cursor have to come back too."""
    arguments = [*SMALL, "--crop", "1", "--bank-size", "50"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.run(
        [sys.executable, "-c", KILLED, script.__name__, *arguments, "--out", str(killed)],
        env=os.environ | {"PYTHONPATH": f"{EXAMPLES}:{EXAMPLES.parent}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert len(history(killed)) == 2
    assert not list(killed.glob("last.*"))
    assert script.main([*arguments, "--out", str(killed), "--resume"]) == 0
    assert script.main([*arguments, "--out", str(whole)]) == 0
    for name in (".", "teacher"):
        assert_equal_weights(killed / name, whole / name)


def test_ctrl_c_saves_within_the_epoch_and_says_how_to_go_on(
    script: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = [*SMALL, "--crop", "1", "--bank-size", "100"]
    stopped = [*arguments, "--out", str(tmp_path / "stopped")]
    with monkeypatch.context() as patch:
        signal_after(STEPS + 5, signal.SIGINT, patch)
        assert script.main(stopped) == 130
    error = capsys.readouterr().err
    assert "stopped in epoch 2/3 after step 5; the state is saved in" in error
    assert "Go on with: python" in error
    assert error.rstrip().endswith("--resume")
    assert script.main([*stopped, "--resume"]) == 0
    assert script.main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    assert_equal_weights(tmp_path / "stopped", tmp_path / "whole")
    for ours, theirs in zip(
        history(tmp_path / "stopped"), history(tmp_path / "whole"), strict=True
    ):
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_a_signal_while_an_epoch_ends_is_heard(
    script: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = Run.write_rows

    def write(self: Run) -> None:
        original(self)
        if "mcld" in str(self.folder) and len(self.rows) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    out = tmp_path / "mcld"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "write_rows", write)
        assert script.main([*SMALL, "--teacher-epochs", "1", "--out", str(out)]) == 130
    assert "stopped after epoch 3/3; the state is saved" in capsys.readouterr().err
    assert list(out.glob("last.*"))


def test_the_saved_configuration_repeats_the_run(script: Any, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = [*SMALL, "--loss", "weight_sample=0.5", "--lr", "0.02", "--epochs", "1"]
    assert script.main([*arguments, "--out", str(one)]) == 0
    assert script.main(["--config", str(one / "config.json"), "--out", str(two)]) == 0
    assert_equal_weights(one, two)
    first, second = (json.loads((run / "config.json").read_text()) for run in (one, two))
    assert {**first, "out": None} == {**second, "out": None}


def test_a_finished_run_is_not_overwritten_unless_told(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SMALL, "--method", "ce", "--epochs", "1", "--out", str(tmp_path)]
    assert script.main(arguments) == 0
    before = weights(tmp_path)
    assert script.main(arguments) == 2
    error = capsys.readouterr().err
    assert f"error: {tmp_path} has a run already; --resume goes on with it, --overwrite" in error
    for name, value in weights(tmp_path).items():
        np.testing.assert_array_equal(value, before[name])
    assert script.main([*arguments, "--resume", "--batch-size", "32"]) == 2
    assert "batch_size was 64 and is 32" in capsys.readouterr().err
    assert script.main([*arguments, "--resume"]) == 0
    assert script.main([*arguments, "--overwrite", "--seed", "1"]) == 0
    assert any((value != before[name]).any() for name, value in weights(tmp_path).items())


def test_a_dry_run_checks_and_writes_nothing(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert script.main([*SMALL, "--out", str(out), "--dry-run"]) == 0
    assert "dry run" in capsys.readouterr().out
    assert not out.exists()
    assert script.main([*SMALL, "--student", "resnet19", "--out", str(out), "--dry-run"]) == 2
    assert not out.exists()


@pytest.mark.parametrize("size", [0, 100])
def test_a_best_epoch_is_kept_where_a_validation_split_chooses_it(
    script: Any, size: int, tmp_path: Path
) -> None:
    arguments = [*SMALL, "--method", "ce", "--epochs", "2", "--validation-size", str(size)]
    assert script.main([*arguments, "--out", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("best.*"))) == bool(size)
    assert len(list(tmp_path.glob("last.*"))) == 1


def test_evaluated_epochs_are_those_asked_for_and_the_last(script: Any, tmp_path: Path) -> None:
    arguments = [*SMALL, "--method", "ce", "--eval-every", "2", "--out", str(tmp_path)]
    assert script.main(arguments) == 0
    assert [row["epoch"] for row in history(tmp_path)] == [2, 3]


def test_a_damaged_checkpoint_is_named(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SMALL, "--method", "ce", "--epochs", "1", "--out", str(tmp_path)]
    assert script.main(arguments) == 0
    path = checkpoint(tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    assert script.main([*arguments, "--resume"]) == 2
    error = capsys.readouterr().err
    assert f"{path} is not a readable checkpoint" in error
    assert error.count("\n") == 1


def test_a_loss_that_is_not_finite_stops(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SMALL, "--method", "ce", "--lr", "1e18", "--out", str(tmp_path)]
    assert script.main(arguments) == 2
    error = capsys.readouterr().err
    assert "the loss is nan in epoch 1" in error
    assert "Try a smaller rate: --lr 3.3e+17" in error
    assert not any((tmp_path / name).exists() for name in CHECKPOINTS)


def test_a_full_disk_stops_the_run_and_a_freed_one_resumes_it(
    script: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = [*SMALL, "--method", "ce"]
    out = tmp_path / "full"
    before: list[bytes] = []
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if any((out / name).exists() for name in CHECKPOINTS):  # from the second epoch on
            before.append(checkpoint(out).read_bytes())
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert script.main([*arguments, "--out", str(out)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert checkpoint(out).read_bytes() == before[0]
    assert not list(tmp_path.rglob("*.tmp"))
    assert script.main([*arguments, "--out", str(out), "--resume"]) == 0
    assert script.main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    assert_equal_weights(out, tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--student", "resnet19"], "unknown model 'resnet19'; known: mlp-WIDTH"),
        (["--student", "no_such_module:make"], "No module named 'no_such_module'"),
        (["--dataset", "cifar100", "--data-dir", "nowhere"], "does not exist; pass --data-dir"),
        (["--dataset", "folder", "--data-dir", "nowhere"], "nowhere does not exist"),
        (["--teacher", "nowhere.onnx"], "nowhere.onnx does not exist"),
        (["--teacher-weights", "nowhere.pt"], "nowhere.pt does not exist"),
        (["--teacher-weights", "a.pt", "b.pt"], "--teacher-weights: expected a file for each"),
        (["--track", "mlflow"], "need: pip install mlflow"),
    ],
)
def test_mistakes_are_one_clear_line_before_a_teacher_is_trained(
    script: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert script.main([*SMALL, *arguments, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert "epoch" not in printed.out


def test_warm_up_adamw_and_the_summary(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SMALL, "--optimizer", "adamw", "--lr", "0.01", "--warmup", "1", "--method", "kd"]
    assert script.main([*arguments, "--out", str(tmp_path)]) == 0
    rates = [row["lr"] for row in history(tmp_path)]
    assert rates[0] == pytest.approx(0.005)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "digits: 512 training, 270 validation, 449 test images, 10 classes"
    assert any(line.startswith("teacher mlp-8: validation ") for line in printed)
    assert printed[-1].startswith("mlp-16 by kd: test ")
    assert printed[-1].endswith(f"Files: {tmp_path}")
    assert history(tmp_path)[-1]["test_accuracy"] > 0.15  # the teacher had one epoch
