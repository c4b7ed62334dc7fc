"""What PyTorch's training script has of its own: precision, teachers from anywhere, its files."""

from __future__ import annotations

import sys
import types
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_cifar100
from recipes.checkpoints import load_torch
from recipes.data.load import load_dataset
from recipes.teachers.torch import load_torch_weights

from mcld_core import MCLDConfig, export_onnx
from mcld_core.export.student import load_student
from tests.examples.scripts.test_training_scripts import (
    SMALL,
    assert_equal_weights,
    history,
    weights,
)

BUILD = "recipes.models.torch:build"

YOURS = """
import torch
def student(num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))
def wide(image_shape, classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 12))
def large():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 10))
def broken():
    raise RuntimeError("no luck")
def nothing():
    return None
"""


@pytest.fixture
def yours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of the reader's own, in which the script runs."""
    (tmp_path / "your_models.py").write_text(YOURS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "your_models", raising=False)
    return tmp_path


def run(*arguments: str, out: Path) -> int:
    words = SMALL[:2] + SMALL[4:] if "--teacher" in arguments else SMALL  # two would be a mean
    return torch_cifar100.main([*words, *arguments, "--out", str(out)])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained mlp-8, the teacher of most tests."""
    out = tmp_path_factory.mktemp("teacher")
    arguments = ("--method", "ce", "--student", "mlp-8", "--epochs", "8", "--lr", "0.1")
    assert run(*arguments, out=out) == 0
    return out / "last.pt"


def test_all_methods_train(tmp_path: Path, teacher: Path) -> None:
    found = {}
    for method in ("ce", "kd", "kd-ls", "dkd", "mcld", "mcld-ce"):
        out = tmp_path / method
        assert run("--method", method, "--teacher-weights", str(teacher), out=out) == 0
        found[method] = weights(out)["1.weight"]
        assert history(out)[-1]["test_accuracy"] > 0.4, method
    assert all((one != other).any() for one, other in pairwise(found.values()))


def test_the_checkpoint_is_what_the_export_command_reads(tmp_path: Path, teacher: Path) -> None:
    assert run("--teacher-weights", str(teacher), out=tmp_path) == 0
    for file in ("last.pt", "best.pt"):
        _, shape, known = load_student(tmp_path / file, model=BUILD)
        assert shape == (1, 8, 8)
        assert (known["method"], known["teacher"]) == ("mcld", "mlp-8")
        assert known["classes"] == [str(number) for number in range(10)]
    rows = history(tmp_path)
    assert (
        load_student(tmp_path / "last.pt", model=BUILD)[2]["accuracy"] == rows[-1]["test_accuracy"]
    )
    assert rows[-1]["term_instance"] > 0


def test_mixed_precision_channels_last_and_compilation_train(tmp_path: Path, teacher: Path) -> None:
    words = ("--teacher-weights", str(teacher), "--student", "conv-4", "--epochs", "6")
    assert run(*words, "--amp", "bf16", "--channels-last", "--lr", "0.1", out=tmp_path) == 0
    assert history(tmp_path)[-1]["test_accuracy"] > 0.5
    assert {value.dtype for value in weights(tmp_path).values()} <= {
        np.dtype("float32"), np.dtype("int64")
    }  # fmt: skip


def test_compiled_students_keep_the_names_of_their_weights(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    def compile_eagerly(model: Any) -> Any:
        compiled.append(model)
        return torch._dynamo.optimize("eager")(model)

    monkeypatch.setattr("torch.compile", compile_eagerly)
    words = ("--teacher-weights", str(teacher), "--epochs", "1")
    assert run(*words, "--compile", out=tmp_path / "compiled") == 0
    assert run(*words, out=tmp_path / "plain") == 0
    assert compiled
    one, other = weights(tmp_path / "compiled"), weights(tmp_path / "plain")
    for name in other:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-5)


def test_the_teacher_s_answers_are_kept_and_used_again(
    tmp_path: Path,
    teacher: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = ("--teacher-weights", str(teacher), "--bank-size", "all")
    cached = (*plain, "--teacher-cache", str(tmp_path / "cache"))
    assert run(*plain, out=tmp_path / "plain") == 0
    assert run(*cached, out=tmp_path / "cached") == 0
    (path,) = (tmp_path / "cache").iterdir()
    seen: list[int] = []
    original = torch_cifar100.predict

    def predict(model: Any, split: Any, *rest: Any, **named: Any) -> np.ndarray:
        seen.append(len(split))
        return original(model, split, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(torch_cifar100, "predict", predict)
        assert run(*cached, out=tmp_path / "again") == 0
        assert 512 not in seen  # of the training images, it has nothing to compute
        assert run(*plain, out=tmp_path / "once more") == 0
        assert 512 in seen
    for name in ("cached", "again"):
        assert_equal_weights(tmp_path / "plain", tmp_path / name)
    path.write_bytes(path.read_bytes()[:1000])
    assert run(*cached, out=tmp_path / "damaged") == 2
    assert "complete teacher cache" in capsys.readouterr().err


def test_your_own_student_and_teacher(yours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (yours / "classes.txt").write_text("".join(f"{2 + number}\n" for number in range(10)))
    words = ("--teacher", "your_models:wide", "--student", "your_models:student")
    assert run(*words, out=yours / "a") == 2
    assert "the teacher has 12 classes and the data 10; say by --teacher-classes" in (
        capsys.readouterr().err
    )
    classes = ("--teacher-classes", str(yours / "classes.txt"))
    assert run(*words, *classes, out=yours / "b") == 0
    printed = capsys.readouterr().out
    assert "warning: the teacher is hardly better than chance (10%)" in printed  # it is untrained
    assert weights(yours / "b")["1.weight"].shape == (10, 64)
    for name, message in (("broken", "RuntimeError: no luck"), ("nothing", "not a nn.Module"),
                          ("missing", "has no attribute 'missing'")):  # fmt: skip
        assert run("--student", f"your_models:{name}", out=yours / "c") == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_weights_in_wrappers_are_unwrapped_and_a_mismatch_names_three(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A third party's checkpoint has {"state_dict": {"module.…": …}, "best_prec1": …}."""
    state = load_torch(teacher)["model"]
    wrapped = {"state_dict": {f"module.{name}": x for name, x in state.items()}, "best_prec1": 93.0}
    path = tmp_path / "third.th"
    torch.save(wrapped, path)
    words = ("--epochs", "1", "--crop", "1")
    assert run("--teacher-weights", str(path), *words, out=tmp_path / "a") == 0
    assert run("--teacher-weights", str(teacher), *words, out=tmp_path / "b") == 0
    assert_equal_weights(tmp_path / "a", tmp_path / "b")
    capsys.readouterr()
    wrong = ("--teacher", "conv-4", "--teacher-weights", str(path))
    assert run(*wrong, out=tmp_path / "c") == 2
    error = capsys.readouterr().err
    assert "third.th does not fit the model: 0.weight is missing; " in error
    assert error.count(";") == 2
    assert "more" in error


def test_a_checkpoint_from_before_batch_norm_counted_is_loaded(tmp_path: Path) -> None:
    """As a third party's ResNets for CIFAR-10 are: no num_batches_tracked."""
    data = load_dataset("digits", tmp_path)
    model = torch_cifar100.make_model("conv-4", data, 3)
    state = {f"module.{key}": x for key, x in model.state_dict().items() if "tracked" not in key}
    torch.save({"state_dict": state}, tmp_path / "old.th")
    other = torch_cifar100.make_model("conv-4", data, 4)
    load_torch_weights(other, tmp_path / "old.th")
    for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_another_normalisation_changes_what_the_teacher_sees(
    yours: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A teacher that wants pixels from 0 to 1 gets them, and is as good as with its own."""
    data = load_dataset("digits", yours, train_size=512, validation_size=270)
    model = torch_cifar100.make_model("mlp-8", data, 0)
    load_torch_weights(model, teacher)
    mean, std = (torch.tensor(x) for x in (data.mean, data.std))
    with torch.no_grad():  # the same function of pixels from 0 to 1
        first = model[1]
        first.bias -= (first.weight * (mean / std)).sum(1)
        first.weight /= std
    torch.save(model.state_dict(), yours / "pixels.pt")
    lines = []
    for words in (("--teacher-weights", str(teacher)),
                  ("--teacher-weights", str(yours / "pixels.pt"), "--teacher-mean", "0",
                   "--teacher-std", "1"),
                  ("--teacher-weights", str(yours / "pixels.pt"))):  # fmt: skip
        assert run(*words, "--epochs", "1", out=yours / str(len(lines))) == 0
        printed = capsys.readouterr().out.splitlines()
        lines.append(next(line for line in printed if line.startswith("teacher ")))
    assert lines[0] == lines[1]
    assert lines[2] != lines[0]
    assert run("--teacher-mean", "0", "0", out=yours / "d") == 2
    assert "--teacher-mean: expected 1 numbers, one a channel" in capsys.readouterr().err


def test_an_onnx_file_teaches_what_its_model_does(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _, known = load_student(teacher, model=BUILD)
    path = tmp_path / "teacher.onnx"
    export_onnx(model, path, input_shape=(1, 8, 8), metadata=known)
    words = ("--epochs", "2")
    assert run("--teacher", str(path), *words, out=tmp_path / "onnx") == 0
    assert run("--teacher-weights", str(teacher), *words, out=tmp_path / "torch") == 0
    one, other = weights(tmp_path / "onnx"), weights(tmp_path / "torch")
    for name in other:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-4)
    path.write_bytes(b"not a graph")
    capsys.readouterr()
    assert run("--teacher", str(path), *words, out=tmp_path / "bad") == 2
    assert capsys.readouterr().err.startswith(f"error: --teacher {path}: ")


def test_a_folder_of_hugging_face_is_a_teacher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(image_size=8, patch_size=4, num_channels=1, intermediate_size=8,
                       num_labels=10, **sizes)  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    words = ("--teacher", f"hf:{tmp_path / 'vit'}", "--epochs", "1")
    assert run(*words, out=tmp_path / "out") == 0
    assert f"teacher hf:{tmp_path / 'vit'}: validation" in capsys.readouterr().out
    assert run("--teacher", f"hf:{tmp_path / 'none'}", out=tmp_path / "a") == 2
    assert capsys.readouterr().err.startswith(f"error: --teacher hf:{tmp_path / 'none'}: ")


def test_timm_by_its_name(
    yours: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for the package: which weights are pretrained is asked of it."""
    asked = []

    def create_model(name: str, pretrained: bool) -> torch.nn.Module:
        asked.append((name, pretrained))
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    timm = types.ModuleType("timm")
    monkeypatch.setattr(timm, "create_model", create_model, raising=False)
    monkeypatch.setitem(sys.modules, "timm", timm)
    torch.save(create_model("", False).state_dict(), yours / "weights.pt")
    words = ("--teacher", "timm:tiny", "--epochs", "1")
    assert run(*words, out=yours / "a") == 0
    assert run(*words, "--teacher-weights", str(yours / "weights.pt"), out=yours / "b") == 0
    assert asked[1:] == [("tiny", True), ("tiny", False)]
    monkeypatch.setitem(sys.modules, "timm", None)
    assert run(*words, out=yours / "c") == 2
    assert "--teacher timm:tiny needs: pip install timm" in capsys.readouterr().err


def test_several_teachers_are_their_mean(tmp_path: Path, teacher: Path) -> None:
    both = ("--teacher", "mlp-8", "--teacher", "mlp-8", "--teacher-weights", str(teacher),
            str(teacher))  # fmt: skip
    assert run(*both, "--epochs", "1", out=tmp_path / "two") == 0
    assert run("--teacher-weights", str(teacher), "--epochs", "1", out=tmp_path / "one") == 0
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:  # twice the same teacher: the same probabilities
        np.testing.assert_allclose(one[name], two[name], rtol=0, atol=1e-4)
    assert run("--teacher", "mlp-4", "mlp-4", "--epochs", "1", out=tmp_path / "fresh") == 0
    first, second = (weights(tmp_path / "fresh" / f"teacher{number}") for number in (0, 1))
    assert any((first[name] != second[name]).any() for name in first)


def test_images_of_another_size_for_the_teacher(
    yours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--teacher", "your_models:large", "--teacher-size", "16", "--epochs", "1")
    assert run(*words, out=yours / "out") == 0
    words = ("--teacher", "your_models:large", "--teacher-size", "9", "--epochs", "1")
    assert run(*words, out=yours / "bad") == 2
    error = capsys.readouterr().err
    assert "it cannot answer images of (8, 8, 1), scaled to --teacher-size 9: mat1" in error


def test_the_loss_is_the_library_s_module(tmp_path: Path, teacher: Path) -> None:
    options = torch_cifar100.parse([*SMALL, "--loss", "weight_ce=1", "--out", str(tmp_path)])
    assert torch_cifar100.mcld_config(options) == MCLDConfig(weight_ce=1.0)
    words = ("--teacher-weights", str(teacher), "--bank-size", "32", "--epochs", "1")
    assert run(*words, out=tmp_path / "out") == 0
    state = load_torch(tmp_path / "out" / "checkpoint.pt")["mcld"]
    assert int(state["steps"]) == 8
    assert state["bank_vectors"].shape == (32, 10)
