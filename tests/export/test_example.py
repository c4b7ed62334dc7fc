"""Each image example ends with a verified ONNX student, from the checkpoint as from the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from benchmarks import export_table
from examples.predict import Classifier
from examples.recipes import export
from examples.recipes.data import Split
from examples.recipes.data.load import load_dataset
from examples.recipes.files import DataError, save_arrays
from mcld_core.export import cli

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Example:
    """An example, the file of its last epoch, and what ``export`` is told."""

    script: str
    file: str
    loading: tuple[str, str]
    backend: str = "tensorflow"


EXAMPLES = {
    "torch": Example(
        "torch_cifar100", "last.pt", ("--model", "examples.recipes.models.torch:build")
    ),
    "jax": Example(
        "jax_cifar100", "last.npz", ("--load", "examples.recipes.models.jax_files:load_student")
    ),
    "keras": Example(
        "keras_cifar100",
        "last.keras",
        ("--load", "examples.recipes.models.keras_files:load_student"),
        backend="torch",
    ),
    "tensorflow": Example(
        "tf_imagenet",
        "last.keras",
        ("--load", "examples.recipes.models.keras_files:load_student"),
    ),
}

QUICK = ["--dataset", "digits", "--teacher", "mlp-64", "--teacher-epochs", "2"]
QUICK += ["--student", "conv-8", "--epochs", "3"]

# The command runs where the framework is warm.
BOTH = """
import sys
sys.path[:0] = ["examples", "."]
import {script} as example
from mcld_core.export import cli
run, command = sys.argv[1:].index("--"), sys.argv[1:]
assert example.main(command[:run]) == 0
sys.exit(cli.main(command[run + 1:]))
"""


def run(example: Example, out: Path) -> str:
    """Run an example, then export its checkpoint; return what both printed."""
    checkpoint = out / example.file
    command = ["--checkpoint", str(checkpoint), "--out", str(out / "command.onnx")]
    arguments = [*QUICK, "--out", str(out), "--", *command, *example.loading]
    code = BOTH.format(script=example.script)
    environment = {"KERAS_BACKEND": example.backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], np.ndarray]:
    """The test images of digits as files, and their labels."""
    folder, test = tmp_path_factory.mktemp("pictures"), digits()
    files = [folder / f"{row}.png" for row in range(len(test))]
    for file, image in zip(files, test.images, strict=True):
        Image.fromarray(image[..., 0]).save(file)
    return files, test.labels


def digits() -> Split:
    return load_dataset("digits", Path("unused")).test


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, Future[str]]]]:
    """Folder and output of each example; two of them run at a time."""
    folders = {name: tmp_path_factory.mktemp(name) for name in EXAMPLES}
    pool = ThreadPoolExecutor(2)
    yield {name: (out, pool.submit(run, EXAMPLES[name], out)) for name, out in folders.items()}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_student_of_the_example_and_of_the_command(
    name: str,
    runs: dict[str, tuple[Path, Future[str]]],
    pictures: tuple[list[Path], np.ndarray],
) -> None:
    out, finished = runs[name]
    printed = finished.result()
    assert printed.count("relative error") == 2
    assert "latency ratio" in printed
    files, labels = pictures
    paths = out / "student.onnx", out / "command.onnx"
    ended, commanded = map(Classifier, paths)
    found = [int(ended(file, top=1)[0][0]) for file in files]
    right = float(np.mean(found == labels))
    assert right > 0.5, "the student knows nothing: the test shows little"
    # Pixels, normalisation and layout are right only if the pictures give the run's own accuracy.
    assert right == pytest.approx(ended.metadata["accuracy"], abs=1.5 / len(files))
    assert (ended.metadata["method"], ended.metadata["teacher"]) == ("mcld", "mlp-64")
    for known in (ended.metadata, commanded.metadata):  # the graphs' own names differ
        assert known.pop("mcld_sha256")
    said = [
        {key: x for key, x in one.metadata.items() if key not in ("epoch", "image_shape")}
        for one in (ended, commanded)
    ]
    assert said[0] == said[1]
    rows = np.concatenate([ended.input.read(file) for file in files[:32]])
    one, other = (onnxruntime.InferenceSession(str(path)).run(None, {"input": rows})[0]
                  for path in paths)  # fmt: skip
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(one).max())


def hand_over(out: Path, student: Any, teacher: Any = None) -> None:
    """End a run of a student of images with channels first."""
    images = np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype(np.float32)
    notes = {"layout": "NCHW"}
    export.hand_over(out, student, teacher, images, notes, "onnxscript")


def linear() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()


class Noisy(torch.nn.Module):
    """Answers otherwise each time."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) + torch.rand(1)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_table_of_exports_reads_the_example_s_checkpoint(name: str) -> None:
    (option, function), example = EXAMPLES[name].loading, EXAMPLES[name]
    loading = {option.removeprefix("--"): function}
    assert export_table.EXAMPLES[name] == (example.script, example.file, loading)


def test_a_teacher_is_compared_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hand_over(tmp_path, linear(), linear())
    printed = capsys.readouterr().out
    assert "student: student.onnx" in printed
    assert "a batch of 4 on one thread: student 3 kB" in printed
    assert "latency ratio" in printed


def test_a_teacher_that_cannot_be_exported_is_not_compared_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hand_over(tmp_path, linear(), Noisy())
    printed = capsys.readouterr().out
    assert "student: student.onnx" in printed
    assert "no latency of the teacher: no ONNX file of the teacher" in printed


def test_where_an_exporter_is_missing_the_run_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = export.importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "onnxscript" else find_spec(name)
    )
    hand_over(tmp_path, linear())
    said = "no ONNX file: onnxscript not installed; pip install onnx onnxruntime onnxscript"
    assert said in capsys.readouterr().out
    assert not (tmp_path / "student.onnx").exists()


def test_a_student_that_cannot_be_exported_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no ONNX file of the student, trained and saved: "):
        hand_over(tmp_path, Noisy())
    assert not (tmp_path / "student.onnx").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def foreign(kind: str, path: Path) -> None:
    """Write a file that is no checkpoint of any of the recipes."""
    if kind == "a picture":
        with path.open("wb") as file:
            Image.new("L", (8, 8)).save(file, format="PNG")
    elif kind == "arrays":
        with path.open("wb") as file:
            np.savez(file, weight0=np.zeros((3, 2), np.float32))
    elif kind == "half an archive":
        foreign("arrays", path)
        cut(path)
    else:
        torch.save([torch.zeros(3)], path)


@pytest.mark.parametrize("kind", ["a picture", "arrays", "half an archive", "a list of tensors"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_foreign_or_damaged_checkpoint_is_named(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = EXAMPLES[name]
    path = tmp_path / example.file
    foreign(kind, path)
    command = ["--checkpoint", str(path), "--out", str(tmp_path / "a.onnx"), *example.loading]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(path) in error
    assert "\nTraceback" not in error
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ({"identity": {}}, "does not say model, image_shape and classes"),
        ({"model": "mlp-8", "image_shape": [8, 8, 1], "classes": ["a", "b"]}, "does not fit: "),
        ({"model": "resnet7", "image_shape": [8, 8, 1], "classes": []}, "unknown model 'resnet7'"),
    ],
)
def test_arrays_of_another_model_are_refused(
    notes: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "last.npz"
    save_arrays(path, {"weight0": np.zeros((64, 9), np.float32)}, notes)
    out = tmp_path / "a.onnx"
    command = ["--checkpoint", str(path), "--out", str(out), *EXAMPLES["jax"].loading]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert said in error
    assert not out.exists()
