"""``python -m mcld_core export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from examples import predict
from mcld_core.export import cli
from mcld_core.export.student import load_student
from tests.export.torch_students import from_checkpoint

BUILDER = "tests.export.torch_students:from_checkpoint"
NAMES = [f"digit {number}" for number in range(10)]


def save(path: Path, **changes: Any) -> Path:
    """A checkpoint of the shape of the examples', with some keys changed or left out."""
    torch.manual_seed(0)
    checkpoint = {
        "name": "small",
        "image_shape": [8, 8, 3],
        "classes": NAMES,
        "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
        "student": from_checkpoint("small", (8, 8, 3), 10).state_dict(),
        **changes,
    }
    torch.save({key: value for key, value in checkpoint.items() if value is not None}, path)
    return path


def export(checkpoint: Path, out: Path, *more: str, model: str = BUILDER) -> int:
    return cli.main(["--checkpoint", str(checkpoint), "--out", str(out), "--model", model, *more])


def test_a_checkpoint_becomes_a_classifier(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "student.onnx"
    assert export(save(tmp_path / "a.pt"), out) == 0
    assert "relative error" in capsys.readouterr().out
    classifier = predict.Classifier(out)
    assert classifier.metadata["classes"] == NAMES
    assert classifier.metadata["model"] == "small"
    assert {"method", "accuracy", "teacher"}.isdisjoint(classifier.metadata)
    assert classifier.input.format.layout == "NCHW"
    np.testing.assert_allclose(classifier.input.format.std, 0.2)


def test_what_a_checkpoint_says_of_its_training_goes_along(tmp_path: Path) -> None:
    said = {"method": "mcld", "accuracy": 0.75, "teacher": "wide", "dataset": "digits"}
    out = tmp_path / "student.onnx"
    assert export(save(tmp_path / "a.pt", **said), out) == 0
    metadata = predict.Classifier(out).metadata
    assert {key: metadata[key] for key in said} == said


def test_a_checkpoint_of_the_examples(tmp_path: Path) -> None:
    from examples.recipes.models.torch import build

    model = "examples.recipes.models.torch:build"
    weights = build("mlp-16", (8, 8, 1), 10).state_dict()
    checkpoint = tmp_path / "a.pt"
    save(checkpoint, name="mlp-16", image_shape=[8, 8, 1], classes=10, model=weights, student=None)
    out = tmp_path / "student.onnx"
    assert export(checkpoint, out, "--mean", "0.3", "--std", "0.4", model=model) == 0
    assert predict.Classifier(out).input.format.channels == 1


def test_smaller_files_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images = np.random.default_rng(0).normal(size=(64, 3, 8, 8)).astype(np.float32)
    checkpoint = save(tmp_path / "a.pt")
    student = load_student(checkpoint, model=BUILDER)[0].eval()
    with torch.no_grad():
        labels = student(torch.from_numpy(images)).argmax(1).numpy()
    data = tmp_path / "data.npz"
    np.savez(data, inputs=images, labels=labels, calibration=images)
    more = (
        "--evaluation",
        str(data),
        "--float16",
        "--int8",
        "static",
        "--max-accuracy-drop",
        "0.3",
    )
    assert export(checkpoint, tmp_path / "b.onnx", *more) == 0
    assert (tmp_path / "b.float16.onnx").exists()
    assert (tmp_path / "b.int8.onnx").exists()
    printed = capsys.readouterr().out
    assert "float16, " in printed
    assert "int8 static, " in printed


IMAGES = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
ROWS = {"inputs": IMAGES, "labels": np.arange(4), "calibration": IMAGES}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"calibration": None}, "needs the arrays ['inputs', 'labels', 'calibration']; got ['inp"),
        ({"labels": None}, "got ['calibration', 'inputs'] in "),
        ({"labels": np.arange(3)}, "a label for each row of inputs; got 3 and 4 in "),
        ({"labels": np.eye(4)}, "labels of int and the shape ('rows',); got float64 and (4, 4) in"),
        ({"inputs": IMAGES[0]}, "inputs of float and the shape ('rows', 3, 8, 8); got float32"),
        ({"inputs": IMAGES.astype(np.uint8)}, "got uint8 and (4, 3, 8, 8) in "),
        ({"calibration": IMAGES[:0]}, "got float32 and (0, 3, 8, 8) in "),
        ({"inputs": np.array([None])}, "cannot be read: "),
    ],
)
def test_the_evaluation_set_is_checked_before_anything_is_written(
    changes: dict[str, Any], text: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data, out = tmp_path / "data.npz", tmp_path / "a.onnx"
    np.savez(data, **{name: array for name, array in (ROWS | changes).items() if array is not None})
    assert export(save(tmp_path / "a.pt"), out, "--evaluation", str(data), "--int8", "static") == 2
    error = capsys.readouterr().err
    assert text in error
    assert str(data) in error
    assert not out.exists()


@pytest.mark.parametrize("kind", ["cut", "no archive", "one array", "empty", "missing"])
def test_a_damaged_evaluation_set_is_named(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data, out = tmp_path / "data.npz", tmp_path / "a.onnx"
    np.savez(data, **ROWS)
    whole = data.read_bytes()
    data.write_bytes({"cut": whole[:-99], "no archive": b"no archive at all"}.get(kind, b""))
    if kind == "one array":
        with data.open("wb") as file:
            np.save(file, IMAGES)
    if kind == "missing":
        data.unlink()
    assert export(save(tmp_path / "a.pt"), out, "--evaluation", str(data), "--float16") == 2
    assert f"NPZ file of plain arrays; {data} cannot be read: " in capsys.readouterr().err
    assert not out.exists()


def test_names_of_the_smaller_files_keep_the_dots_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data, out = tmp_path / "data.npz", tmp_path / "a-0.5"
    np.savez(data, **ROWS | {"inputs": IMAGES.astype(np.float64)})
    more = ("--evaluation", str(data), "--float16", "--max-accuracy-drop", "1")
    assert export(save(tmp_path / "a.pt"), out, *more) == 0
    found = {entry.name for entry in tmp_path.iterdir()}
    assert found == {"a.pt", "data.npz", "a-0.5", "a-0.5.float16.onnx"}


def test_names_and_a_normalisation_beside_the_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    names = ["größer, kleiner", "猫", *NAMES[2:]]
    file, out = tmp_path / "names.txt", tmp_path / "a.onnx"
    file.write_text("\n".join(names) + "\n", encoding="utf-8-sig")
    checkpoint = save(tmp_path / "a.pt")
    assert export(checkpoint, out, "--class-names", str(file), "--std", "0.3") == 0
    classifier = predict.Classifier(out)
    assert classifier.metadata["classes"] == names
    np.testing.assert_allclose(
        (classifier.input.format.mean[0], classifier.input.format.std[0]), (0.5, 0.3)
    )
    file.write_text("größer", encoding="latin-1")
    assert export(checkpoint, out, "--class-names", str(file)) == 2
    assert f"--class-names needs text in UTF-8; {file}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "more", "text"),
    [
        ({"image_shape": None}, (), "got the keys ['classes', 'name', 'normalization', 'student']"),
        ({"student": None}, (), "needs the weights under 'student' or 'model'"),
        ({"image_shape": [9, 9, 3]}, (), "do not fit the model 'small'"),
        ({"classes": NAMES[:9]}, (), "do not fit the model 'small'"),
        ({"classes": "ten names"}, (), "needs a text as 'name', three sizes as 'image_shape' and"),
        ({"image_shape": [8, 8]}, (), "got 'small', [8, 8] and ["),
        ({"name": 3}, (), "got 3, [8, 8, 3] and ["),
        ({}, ("--float16",), "--float16 and --int8 need --evaluation"),
        ({}, ("--tolerance", "1e-12"), "the tolerance is 1.0e-12"),
    ],
)
def test_what_is_wrong_is_said_without_a_trace(
    changes: dict[str, Any],
    more: tuple[str, ...],
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    out = tmp_path / "student.onnx"
    assert export(save(tmp_path / "a.pt", **changes), out, *more) == 2
    assert text in capsys.readouterr().err
    assert not out.exists()


def test_a_checkpoint_with_code_in_it_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.save({"name": Path("x")}, tmp_path / "a.pt")
    assert export(tmp_path / "a.pt", tmp_path / "b.onnx") == 2
    assert "tensors and plain values" in capsys.readouterr().err


def test_any_other_file_by_a_function_of_the_callers(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    weight = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    np.savez(tmp_path / "a.npz", weight=weight)
    more = ["--load", "tests.export.torch_students:from_npz", "--input-shape", "6"]
    assert export(tmp_path / "a.npz", tmp_path / "b.onnx", *more) == 0
    weights = onnx.load(tmp_path / "b.onnx").graph.initializer
    assert any(np.array_equal(numpy_helper.to_array(found), weight) for found in weights)
    capsys.readouterr()
    assert export(tmp_path / "a.npz", tmp_path / "c.onnx", *more[:2]) == 2
    assert "--input-shape is needed" in capsys.readouterr().err
    assert export(tmp_path / "a.npz", tmp_path / "c.onnx") == 2
    assert "give load, a function that reads it" in capsys.readouterr().err


def test_such_a_function_may_say_shape_and_metadata(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    np.savez(tmp_path / "a.npz", weight=np.ones((3, 6), np.float32))
    load = "tests.export.torch_students:from_npz_described"
    assert export(tmp_path / "a.npz", tmp_path / "b.onnx", "--load", load) == 0
    found = {entry.key: entry.value for entry in onnx.load(tmp_path / "b.onnx").metadata_props}
    assert found["teacher"] == "wide"
    capsys.readouterr()
    load = "tests.export.torch_students:from_npz_without_metadata"
    assert export(tmp_path / "a.npz", tmp_path / "c.onnx", "--load", load) == 2
    assert f"{load} returned a tuple of 2" in capsys.readouterr().err


def test_a_torch_file_that_is_no_dict(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save([torch.zeros(2)], tmp_path / "a.pt")
    assert export(tmp_path / "a.pt", tmp_path / "b.onnx") == 2
    assert f"{tmp_path / 'a.pt'} holds a list" in capsys.readouterr().err


def test_a_torch_checkpoint_needs_a_function_that_makes_its_model(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = save(tmp_path / "a.pt")
    assert cli.main(["--checkpoint", str(path), "--out", str(tmp_path / "b.onnx")]) == 2
    assert f"model or load is needed for {path}; got neither" in capsys.readouterr().err


def test_a_model_that_cannot_be_imported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert export(save(tmp_path / "a.pt"), tmp_path / "b.onnx", model="no.such:thing") == 2
    assert "'no.such:thing' cannot be imported" in capsys.readouterr().err
