"""`examples/predict.py`: images to classes, by an exported file alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from examples import predict
from examples.recipes.data.pictures import MEAN as IMAGENET_MEAN
from examples.recipes.data.pictures import STD as IMAGENET_STD
from examples.recipes.data.pictures import Files, PictureSet
from examples.recipes.data.tf_input import evaluation_input
from mcld_core.export import export_onnx
from tests.examples.conftest import EXAMPLES
from tests.export.trained import MEAN, STD, convnet, digits

NAMES = [f"digit {number}" for number in range(10)]


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
        "import runpy\n"
        f"sys.argv[0] = {str(EXAMPLES / 'predict.py')!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
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
    data = PictureSet("a", ("b", "c"), files, files, files, IMAGENET_MEAN, IMAGENET_STD, 56)
    images, _ = next(iter(evaluation_input(files, data, 1)))
    assert read.shape == images.shape
    difference = np.abs(read - images.numpy())
    assert difference.mean() < 0.02  # of a standard deviation
    assert np.median(difference) < 0.01


def with_metadata(source: Path, path: Path, **changes: str) -> Path:
    """The same network with other metadata, as other tools write them."""
    model = onnx.load(source)
    known = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, known | changes)
    onnx.save(model, path)
    return path


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
    ],
)
def test_predict_says_what_a_model_lacks(
    arguments: dict[str, Any], text: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "a.onnx"
    export_onnx(Sum(), path, **arguments)
    assert predict.main([str(path), *map(str, image_files(tmp_path, range(1)))]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("normalization", '{"mean": [0.1, 0.2, 0.3]}', "one mean for each of 1 channels"),
        ("normalization", "[0.1]", "normalization needs a dict"),
        ("normalization", '{"std": "x"}', "got 'x'; correct it"),
        ("center_crop", "224", "center_crop needs a share above 0, up to 1; got 224"),
        ("layout", "HWC", "'NCHW' or 'NHWC', as the input's channels stand; got 'HWC'"),
    ],
)
def test_predict_says_what_is_wrong_in_the_metadata(
    key: str, value: str, text: str, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = with_metadata(student, tmp_path / "a.onnx", **{key: value})
    assert predict.main([str(path), *map(str, image_files(tmp_path, range(1)))]) == 2
    assert text in capsys.readouterr().err


def test_predict_of_another_number_of_names(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = with_metadata(student, tmp_path / "a.onnx", classes='["one", "two"]')
    assert predict.main([str(path), *map(str, image_files(tmp_path, range(1)))]) == 2
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
