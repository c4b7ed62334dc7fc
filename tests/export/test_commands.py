"""``python -m mcld_core export`` and ``predict``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from examples.recipes.tf_input import evaluation_input
from examples.recipes.tf_pictures import IMAGENET_MEAN, IMAGENET_STD, Files, PictureSet
from mcld_core import export_cli, predict
from mcld_core.export import export_onnx
from tests.export.torch_students import from_checkpoint
from tests.export.trained import MEAN, STD, convnet, digits

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
    return export_cli.main(
        ["--checkpoint", str(checkpoint), "--out", str(out), "--model", model, *more]
    )


def test_a_checkpoint_becomes_a_classifier(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "student.onnx"
    assert export(save(tmp_path / "a.pt"), out) == 0
    assert "relative error" in capsys.readouterr().out
    classifier = predict.Classifier(out)
    assert classifier.metadata["classes"] == NAMES
    assert classifier.metadata["model"] == "small"
    assert {"method", "accuracy", "teacher"}.isdisjoint(classifier.metadata)
    assert classifier.input.layout == "NCHW"
    np.testing.assert_allclose(classifier.input.std, 0.2)


def test_what_a_checkpoint_says_of_its_training_goes_along(tmp_path: Path) -> None:
    said = {"method": "mcld", "accuracy": 0.75, "teacher": "wide", "dataset": "digits"}
    out = tmp_path / "student.onnx"
    assert export(save(tmp_path / "a.pt", **said), out) == 0
    metadata = predict.Classifier(out).metadata
    assert {key: metadata[key] for key in said} == said


def test_a_checkpoint_of_the_examples_needs_no_model(tmp_path: Path) -> None:
    from examples.recipes.torch_models import build

    weights = build("mlp-16", (8, 8, 1), 10).state_dict()
    checkpoint = tmp_path / "a.pt"
    save(checkpoint, name="mlp-16", image_shape=[8, 8, 1], classes=10, model=weights, student=None)
    out = tmp_path / "student.onnx"
    options = ["--mean", "0.3", "--std", "0.4"]
    assert export_cli.main(["--checkpoint", str(checkpoint), "--out", str(out), *options]) == 0
    assert predict.Classifier(out).input.channels == 1


def test_smaller_files_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images = np.random.default_rng(0).normal(size=(64, 3, 8, 8)).astype(np.float32)
    checkpoint = save(tmp_path / "a.pt")
    student = export_cli.load_student(checkpoint, model=BUILDER)[0].eval()
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
    np.testing.assert_allclose((classifier.input.mean[0], classifier.input.std[0]), (0.5, 0.3))
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


def test_a_model_that_cannot_be_imported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert export(save(tmp_path / "a.pt"), tmp_path / "b.onnx", model="no.such:thing") == 2
    assert "'no.such:thing' cannot be imported" in capsys.readouterr().err


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "student.onnx"
    normalization = {"mean": [MEAN], "std": [STD]}
    metadata = {"classes": NAMES, "normalization": normalization, "layout": "NCHW"}
    export_onnx(convnet(), path, input_shape=(1, 8, 8), metadata=metadata)
    return path


def image_files(folder: Path, rows: range) -> list[Path]:
    files = []
    for row in rows:
        pixels = digits()[0][row, 0] * STD + MEAN
        files.append(folder / f"{row}.png")
        Image.fromarray((pixels * 255).round().astype(np.uint8)).save(files[-1])
    return files


def test_predict_uses_names_and_normalisation(student: Path, tmp_path: Path) -> None:
    rows = range(1000, 1050)
    classifier = predict.Classifier(student)
    found = [classifier(file, top=1)[0][0] for file in image_files(tmp_path, rows)]
    right = [name == f"digit {digits()[1][row]}" for name, row in zip(found, rows, strict=True)]
    assert np.mean(right) > 0.9


def test_predict_needs_no_framework(student: Path, tmp_path: Path) -> None:
    files = [str(file) for file in image_files(tmp_path, range(1000, 1002))]
    code = (
        "import sys\n"
        "for name in ('torch', 'tensorflow', 'jax', 'keras', 'onnx'): sys.modules[name] = None\n"
        "from mcld_core.predict import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(student), *files, "--top", "2"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{files[0]}: digit {digits()[1][1000]} 0.")
    assert lines[0].count("digit ") == 2


def test_predict_resizes_and_converts(student: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGBA", (30, 20), (200, 10, 10, 255)).save(file)
    read = predict.Classifier(student).input.read(file)
    assert read.shape == (1, 1, 8, 8)
    assert read.dtype == np.float32
    grey = (200 * 299 + 10 * 587 + 10 * 114) / 1000 / 255
    np.testing.assert_allclose(read, (grey - MEAN) / STD, atol=2e-2)


def test_predict_reads_the_layout_from_the_shape(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    axes = {"input": {1: "height", 2: "width"}}
    export_onnx(Mean(), path, input_shape=(6, 6, 3), dynamic_axes=axes, softmax=True)
    Image.new("RGB", (7, 5), (0, 255, 0)).save(tmp_path / "green.png")
    classifier = predict.Classifier(path)
    assert classifier.input.read(tmp_path / "green.png").shape == (1, 5, 7, 3)
    (name, share), *_ = classifier(tmp_path / "green.png")
    assert name == "1"
    assert share == pytest.approx(np.e / (np.e + 2), abs=1e-5)


class Mean(torch.nn.Module):
    """Channels of images with channels last."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2))


@pytest.fixture(scope="module")
def cropping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cropping") / "a.onnx"
    parts = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    metadata = {"layout": "NHWC", "center_crop": 7 / 8, "normalization": parts}
    export_onnx(Mean(), path, input_shape=(56, 56, 3), metadata=metadata)
    return path


@pytest.mark.parametrize("size", [(80, 112), (112, 80), (64, 64), (40, 33)])
def test_predict_crops_as_the_imagenet_example_does(
    size: tuple[int, int], cropping: Path, tmp_path: Path
) -> None:
    """A smooth picture, with a transparent corner; both scale it, by other filters."""
    height, width = size
    down, across = np.mgrid[:height, :width] / np.array(size)[:, None, None]
    channels = [down, across, (down + across) / 2, np.where(down + across > 0.3, 1.0, 0.0)]
    pixels = np.stack(channels, axis=-1)
    file = tmp_path / "a.png"
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(file)
    read = predict.Classifier(cropping).input.read(file)
    files = Files([str(file)], np.zeros(1, np.int64))
    shape = (56, 56, 3)
    data = PictureSet("a", 2, files, files, files, IMAGENET_MEAN, IMAGENET_STD, shape)
    images, _ = next(iter(evaluation_input(files, data, 1)))
    assert read.shape == images.shape
    difference = np.abs(read - images.numpy())
    assert difference.mean() < 0.02  # of a standard deviation
    assert np.median(difference) < 0.01


def test_a_crop_that_is_no_share(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "a.onnx"
    export_onnx(Mean(), path, input_shape=(8, 8, 3), metadata={"center_crop": 224})
    assert predict.main([str(path), "a.png"]) == 2
    assert "center_crop needs a share above 0, up to 1; got 224" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["cut", "a picture", "empty"])
def test_predict_names_a_damaged_model(
    kind: str, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "damaged.onnx"
    (picture,) = image_files(tmp_path, range(1))
    whole = student.read_bytes()
    path.write_bytes({"cut": whole[:1000], "a picture": picture.read_bytes(), "empty": b""}[kind])
    assert predict.main([str(path), str(picture)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: onnxruntime: {path} cannot be loaded: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("kind", ["cut", "no picture", "floats"])
def test_predict_names_a_damaged_image(
    kind: str, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (whole,) = image_files(tmp_path, range(1))
    path = tmp_path / "damaged.tiff"
    if kind == "floats":  # of what range?
        Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(path)
    else:
        path.write_bytes(whole.read_bytes()[:80] if kind == "cut" else b"no picture")
    assert predict.main([str(student), str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: predict: the image {path} cannot be read: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_predict_reads_16_bits_by_their_range(suffix: str, student: Path, tmp_path: Path) -> None:
    file = tmp_path / f"a.{suffix}"
    pixels = np.linspace(0.1, 0.9, 64).reshape(8, 8)
    Image.fromarray((65535 * pixels).round().astype(np.uint16)).save(file)
    read = predict.Classifier(student).input.read(file)[0, 0] * STD + MEAN
    np.testing.assert_allclose(read, pixels, rtol=0, atol=0.6 / 255)


def test_what_is_transparent_in_16_bits_lies_on_white(student: Path, tmp_path: Path) -> None:
    pixels = np.full((8, 8), 20000, np.uint16)
    pixels[:4] = 30000
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=30000)
    read = predict.Classifier(student).input.read(tmp_path / "a.png")[0, 0] * STD + MEAN
    np.testing.assert_allclose(read[:4], 1.0, atol=1e-6)
    np.testing.assert_allclose(read[4:], 20000 / 65535, rtol=0, atol=0.6 / 255)


class Sum(torch.nn.Module):
    """Of all channels and pixels, three times."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.sum((1, 2, 3)).reshape(-1, 1) * torch.ones(3)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"example_input": np.ones((2, 1, 8, 8), np.float32), "dynamic_batch": False}, "a batch"),
        ({"input_shape": (1, 8, 8), "dtype": "float64"}, "needs float32 images"),
        (
            {"input_shape": (1, 8, 8), "metadata": {"normalization": {"mean": [0.1, 0.2, 0.3]}}},
            "one mean for each of 1 channels",
        ),
        ({"input_shape": (1, 8, 8), "metadata": {"normalization": [0.1]}}, "one mean for each"),
        ({"input_shape": (1, 8, 8), "metadata": {"normalization": {"std": "x"}}}, "got x; export"),
    ],
)
def test_predict_says_what_a_model_lacks(
    arguments: dict[str, Any], text: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "a.onnx"
    export_onnx(Sum(), path, **arguments)
    assert predict.main([str(path), *map(str, image_files(tmp_path, range(1)))]) == 2
    assert text in capsys.readouterr().err


def test_predict_of_another_number_of_names(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = onnx.load(student)
    known = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, known | {"classes": '["one", "two"]'})
    onnx.save(model, tmp_path / "a.onnx")
    files = map(str, image_files(tmp_path, range(1)))
    assert predict.main([str(tmp_path / "a.onnx"), *files]) == 2
    assert "10 logits and the names of 2 classes" in capsys.readouterr().err


@pytest.mark.parametrize("case", ["no model", "no image", "no images at all"])
def test_predict_says_what_is_wrong(
    case: str, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model, image = student, tmp_path / "missing.png"
    if case == "no model":
        model = tmp_path / "missing.onnx"
    if case == "no images at all":
        model = tmp_path / "vectors.onnx"
        export_onnx(torch.nn.Linear(3, 2), model, input_shape=(3,))
    assert predict.main([str(model), str(image)]) == 2
    text = {
        "no model": "does not exist",
        "no image": "missing.png",
        "no images at all": "four axes",
    }
    assert text[case] in capsys.readouterr().err
