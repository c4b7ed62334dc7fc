"""PyTorch's script: a resume has the same bits, two processes are one, teachers, bad input."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import common
import numpy as np
import pytest
import torch
import torch_cifar100
import torch_networks
from safetensors.torch import load_file

from tests import processes
from tests.examples.conftest import EXAMPLES
from tests.examples.picture_data import write_parquet
from tests.examples.stopping import killed, stop_after

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # accelerate's and torch's own
]
SMALL = ["--dataset", "digits", "--train-size", "96", "--batch-size", "16", "--epochs", "3",
         "--student", "resnet8w4", "--teacher", "resnet8w4", "--teacher-epochs", "1",
         "--cpu"]  # fmt: skip


@pytest.fixture(autouse=True)
def new_accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has processes and precision of its own, and exports nothing unless it asks."""
    from accelerate.state import AcceleratorState, PartialState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


def run(*words: str, out: Path) -> int:
    return torch_cifar100.main([*SMALL, *words, "--out", str(out)])


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize("workers", ["0", "2"])
def test_stopped_then_killed_and_resumed_ends_with_the_same_bits(
    workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe with random numbers everywhere; Ctrl-C saves in an epoch, kill -9 loses it."""
    words = ["--recipe", "vit", "--student", "vit-16", "--workers", workers]
    words += ["--bank-size", "24"]
    assert run(*words, out=tmp_path / "whole") == 0

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        stop_after(patched, 8, signal.SIGINT)
        assert run(*words, out=out) == 130
    assert [path.name for path in torch_cifar100.states(out)] == ["state-1-2"]

    (out / "state-9-9.tmp").mkdir()  # as a kill in the middle of saving leaves behind
    first = [sys.executable, "-c", killed("torch_cifar100"), "6"]
    command = [*first, *SMALL, *words, "--resume", "--out", str(out)]
    same_threads = os.environ | processes.QUIET
    ended = subprocess.run(
        command, cwd=processes.ROOT, env=same_threads, capture_output=True, text=True
    )
    assert ended.returncode == -9, ended.stderr
    assert [path.name for path in torch_cifar100.states(out)] == ["state-2-0"]
    assert not list(out.glob("*.tmp"))

    assert run(*words, "--resume", out=out) == 0
    whole, resumed = weights(tmp_path / "whole"), weights(out)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.usefixtures("no_export")
def test_two_processes_train_the_student_of_one(tmp_path: Path) -> None:
    words = [*SMALL, "--student", "vit-16", "--teacher", "vit-16", "--batch-size=24", "--epochs=2"]
    assert torch_cifar100.main([*words, "--out", str(tmp_path / "one")]) == 0
    script = EXAMPLES / "torch_cifar100.py"
    environment = {"PYTHONPATH": str(processes.ROOT), "ACCELERATE_USE_CPU": "true"}
    words += ["--out", tmp_path / "two"]
    done = processes.torchrun(2, script, *words, timeout=900, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("vit-16 by mcld: test accuracy") == 1  # one speaks
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-5)


def test_a_run_ends_with_its_files_and_a_line_of_accuracies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under a torch that claims a GPU and has none, too: pip's default build, without --cpu."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = [*SMALL[:-1], "--epochs", "1", "--validation-size", "32", "--track", "tensorboard"]
    assert torch_cifar100.main([*words, "--accumulate", "2", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert re.search(r"test accuracy of the teacher [\d.]+%, student [\d.]+%", said.out)
    assert "student.onnx" in said.out
    assert "resnet8w4" in said.err  # the bar with its estimate
    assert json.loads((tmp_path / "results.json").read_text()).keys() == {"teacher", "student"}
    assert list(tmp_path.rglob("events.out.tfevents*"))
    assert not list(tmp_path.rglob("*.tmp"))


YOURS = """
import torch
def linear(image_shape, num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, num_classes))
def wide():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 9))
def nothing():
    return None
"""


@pytest.fixture
def yours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Parquet as the hub has it, and a module of the reader's in the current folder."""
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data")
    (tmp_path / "your_networks.py").write_text(YOURS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "your_networks", raising=False)
    return ["--dataset", "cifar100", "--data-dir", "data", "--out", "out", "--epochs", "1",
            "--batch-size", "20", "--student", "your_networks:linear", "--cpu"]  # fmt: skip


@pytest.mark.usefixtures("no_export")
def test_a_teacher_of_yours_with_weights_that_are_wrapped(
    yours: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Behind ``module.`` and ``state_dict``; it looks for the brightest quarter, so it is right."""
    masks = torch.zeros(4, 3, 32, 32)
    for label, mask in enumerate(masks):
        top, left = divmod(label, 2)
        mask[:, 16 * top : 16 * top + 16, 16 * left : 16 * left + 16] = 1
    state = {"module.1.weight": masks.flatten(1), "module.1.bias": torch.zeros(4)}
    torch.save({"state_dict": state, "epoch": 3}, "teacher.pt")
    words = [*yours, "--teacher", "your_networks:linear", "--teacher-weights", "teacher.pt"]
    assert torch_cifar100.main(words) == 0
    said = capsys.readouterr().out
    assert "your_networks:linear: test accuracy 100.00%" in said
    assert "warning" not in said


def test_a_teacher_that_is_better_with_another_normalisation_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = np.arange(256) % 4
    data = SimpleNamespace(classes="abcd", shape=(8, 8, 3), mean=(0.3,) * 3, std=(0.2,) * 3)

    def logits(mean: Any, std: Any) -> np.ndarray:
        return np.eye(4)[labels if tuple(std) == common.IMAGENET[1] else 0 * labels]

    given = SimpleNamespace(teacher_mean=None, teacher_std=None)
    found = common.check_teacher(given, logits, labels, common.IMAGENET, data)
    assert (*map(tuple, found),) == common.IMAGENET
    assert not capsys.readouterr().out
    given.teacher_mean, given.teacher_std = [0.3], [0.2]
    common.check_teacher(given, logits, labels, common.IMAGENET, data)
    said = capsys.readouterr().out
    assert (
        "25.0% right with its normalisation, 100.0% with ImageNet's: --teacher-mean 0.485" in said
    )


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--resume"], "there is no run in out"),
        (["--out", "."], "there is no run in .: choose an empty --out"),
        (["--teacher", "no_such:net"], "No module named 'no_such'; looked in "),
        (["--teacher", "your_networks:none"], "has no attribute 'none'"),
        (["--teacher", "your_networks:nothing"], "gave a NoneType, not an nn.Module"),
        (["--teacher", "your_networks:wide"], "the teacher has 9 classes, the data 4"),
        (["--teacher", "resnet8", "--teacher-weights", "no.pt"], "no.pt does not fit: "),
        (["--image-size", "8", "--student", "no"], "looked in "),
        (["--data-dir", "nowhere"], "nowhere is not one"),
        (["--teacher", "resnet18"], "No module named 'resnet18'; looked in "),
        (["--teacher", "resnet8", "--teacher-mean", "1", "2"], "need 1 or 3 numbers"),
        (["--dataset", "digits"], "--dataset digits reads no --data-dir"),
        (["--batch-size", "0"], "--batch-size needs at least 1; got 0"),
        (["--validation-size", "-3"], "--validation-size needs at least 0; got -3"),
        (["--lr", "nan"], "--lr needs at least 0; got nan"),
    ],
)
def test_bad_input_is_said_in_one_line(
    words: list[str], said: str, yours: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = ["--method", "ce"] if "--teacher" not in words else []
    assert torch_cifar100.main([*yours, *first, *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error


@pytest.mark.usefixtures("no_export")
def test_what_a_run_may_find_in_its_folder(
    yours: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of the user's goes; a typo leaves no run; a run goes on with its own options."""
    kept = Path("out/of/mine.tmp")
    kept.parent.mkdir(parents=True)
    kept.touch()
    words = [*yours, "--method", "ce"]
    assert torch_cifar100.main([*words, "--overwrite"]) == 2
    assert kept.exists()
    shutil.rmtree("out")
    assert torch_cifar100.main([*words, "--dataset", "digits"]) == 2
    assert torch_cifar100.main(words) == 0
    assert torch_cifar100.main(words) == 2
    assert "pass --resume, --overwrite" in capsys.readouterr().err
    assert torch_cifar100.main([*words, "--resume", "--seed", "1"]) == 2
    assert "seed was 0 when the run began, now 1" in capsys.readouterr().err
    assert torch_cifar100.main([*words, "--resume", "--workers", "1"]) == 0
    assert torch_cifar100.main([*words, "--overwrite", "--seed", "1"]) == 0


@pytest.mark.parametrize("epochs", [1, 5, 6, 50])
def test_the_rate_grows_then_falls_in_a_short_run_too(epochs: int) -> None:
    options = SimpleNamespace(warmup=5, epochs=epochs, recipe="vit")
    rates = [common.rate(options, step / 60) for step in range(61)]
    assert 0.95 < max(rates) <= 1.001 > 2 * rates[0]
    assert rates[-1] < 1e-3


def test_a_transformers_folder_brings_its_size_and_normalisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, num_labels=4,
                       intermediate_size=16, image_size=48, patch_size=16)  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size=48, image_mean=[0.1] * 3, image_std=[0.7] * 3).save_pretrained(tmp_path)
    data = SimpleNamespace(shape=(32, 32, 3), classes="abcd", mean=[0.0], std=[1.0])
    found = torch_networks.build(str(tmp_path), "--teacher", data)
    assert (found.size, found.mean.flatten()[0], found.std.flatten()[0]) == (48, 0.1, 0.7)
    assert found(torch.rand(2, 3, 32, 32)).shape == (2, 4)
    student = torch_networks.build(
        str(tmp_path), "--student", SimpleNamespace(**vars(data) | {"classes": "abc"})
    )
    assert student(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_a_student_of_timm_has_the_classes_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    def create_model(name: str, num_classes: int = 1000, **options: Any) -> torch.nn.Module:
        made.append(options | {"name": name})
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32**2, num_classes))
        model.pretrained_cfg = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": (3, 32, 32)}
        return model

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    data = SimpleNamespace(shape=(32, 32, 3), classes="abcd", mean=[0.0], std=[1.0])
    for option, classes in (("--student", 4), ("--teacher", 1000)):
        found = torch_networks.build("timm:tiny", option, data)
        assert found(torch.rand(2, 3, 32, 32)).shape == (2, classes)
        assert made.pop() == {"name": "tiny", "pretrained": option == "--teacher"}


def test_networks_have_the_published_sizes() -> None:
    for name, count in {"resnet8x4": 1233540, "resnet32x4": 7433860, "resnet20": 278324}.items():
        model = torch_networks.ours(name)((32, 32, 3), 100)
        assert sum(p.numel() for p in model.parameters()) == count


def test_mixed_pictures_have_the_labels_of_their_parts() -> None:
    """Pictures of one grey each, the value of their class: pixels' mean is the labels' mean."""
    labels = torch.arange(8) % 4
    pixels = (labels / 3).view(-1, 1, 1, 1).expand(-1, 1, 16, 16)
    for seed in range(6):
        torch.manual_seed(seed)
        mixed, soft = torch_cifar100.mix(pixels, labels, 4)
        torch.testing.assert_close(soft.sum(1), torch.ones(8))
        value = ((soft - 0.025) / 0.9) @ (torch.arange(4) / 3)
        torch.testing.assert_close(mixed.mean((1, 2, 3)), value, rtol=0, atol=1e-5)
