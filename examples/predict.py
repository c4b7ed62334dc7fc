"""Classify images by an exported student, by its file alone.

    python examples/predict.py student.onnx cat.png dog.png --top 3

Needs onnxruntime, NumPy and Pillow, and no framework: the file's metadata say how pixels become
inputs and what the classes are called.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcld_core.export.graph import decode_metadata
from mcld_core.export.inputs import require
from mcld_core.export.verify import session

CHANNELS = (1, 3)

WHITE = 65535
"""Of 16 bits."""


@dataclass(frozen=True)
class ImageInput:
    """How a file wants its images.

    Args:
        name: the input's name.
        layout: ``"NCHW"`` or ``"NHWC"``.
        channels: 1 (grey) or 3 (red, green, blue).
        size: height and width; None where the axis is free, so that the image keeps its own.
        center_crop: which part of the shorter side is kept, the middle; None: all of the image,
            brought to the size whatever its sides.
        mean: by channel, of pixels in 0..1.
        std: by channel, of pixels in 0..1.
    """

    name: str
    layout: str
    channels: int
    size: tuple[int | None, int | None]
    center_crop: float | None
    mean: np.ndarray[Any, Any]
    std: np.ndarray[Any, Any]

    def read(self, path: str | Path) -> np.ndarray[Any, Any]:
        """One image as a batch of one, float32; what is transparent in it lies on white."""
        from PIL import Image

        image = _open(path, "L" if self.channels == 1 else "RGB")
        height, width = self.size[0] or image.height, self.size[1] or image.width
        if self.center_crop is not None:
            image = _scaled(
                image, max(height / image.height, width / image.width) / self.center_crop
            )
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        elif (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(image, dtype=np.float32).reshape(height, width, self.channels) / 255
        values = ((pixels - self.mean) / self.std).astype(np.float32)[None]
        return (
            values if self.layout == "NHWC" else np.ascontiguousarray(values.transpose(0, 3, 1, 2))
        )


def _open(path: str | Path, mode: str) -> Any:
    """The image in 8 bits, on white."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            image = _in_8_bits(file)
            if image.has_transparency_data:
                ground = Image.new("RGBA", image.size, "white")
                ground.alpha_composite(image.convert("RGBA"))
                image = ground
            return image.convert(mode)
    except Exception as error:  # a dozen types for a damaged file
        raise ValueError(f"predict: the image {path} cannot be read: {error}.") from error


def _in_8_bits(image: Any) -> Any:
    """Grey images of 16 bits by their range; Pillow's own conversion ends at 255."""
    from PIL import Image

    if image.mode[0] not in "IF":
        return image
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() > WHITE:
        raise ValueError(
            f"its pixels are {pixels.dtype} of {pixels.min()} to {pixels.max()}; make it a file "
            "of 8 or 16 bits"
        )
    pixels = np.where(pixels == image.info.get("transparency"), WHITE, pixels)
    return Image.fromarray((pixels / (WHITE / 255)).round().astype(np.uint8))


def _scaled(image: Any, scale: float) -> Any:
    from PIL import Image

    sizes = (math.ceil(scale * image.width), math.ceil(scale * image.height))
    return image.resize(sizes, Image.Resampling.BILINEAR)


class Classifier:
    """An exported student with its class names.

    Args:
        path: a file of `export_onnx` with one float image input. Its metadata ``classes``,
            ``normalization``, ``layout``, ``center_crop`` and ``softmax`` are used where present.

    Raises:
        ValueError: the input is no image.
        ImportError: onnxruntime or Pillow is missing.

    Example:
        ```python
        Classifier("student.onnx")("cat.png", top=3)  # [("cat", 0.93), ...]
        ```
    """

    def __init__(self, path: str | Path) -> None:
        require("onnxruntime", "onnxruntime", "predict")
        require("PIL", "pillow", "predict")
        if not Path(path).is_file():
            raise FileNotFoundError(f"predict: the model {path} does not exist.")
        self.runner = session(path)
        properties = self.runner.get_modelmeta().custom_metadata_map
        self.metadata = decode_metadata(properties)
        self.input = _image_input(self.runner.get_inputs(), self.metadata)

    def __call__(self, image: str | Path, top: int = 5) -> list[tuple[str, float]]:
        """The most probable classes of an image file, with their probabilities."""
        pixels = self.input.read(image)
        try:
            outputs = self.runner.run(None, {self.input.name: pixels})
        except Exception as error:  # types of onnxruntime's own
            raise ValueError(
                f"predict: the model fails on {image}, as an input of {pixels.shape}: {error}"
            ) from error
        scores = np.asarray(outputs[0][0], dtype=np.float64)
        if not self.metadata.get("softmax", False):
            scores = np.exp(scores - scores.max())
            scores = scores / scores.sum()
        names = self.metadata.get("classes") or [str(index) for index in range(len(scores))]
        if len(names) != len(scores):
            raise ValueError(
                f"predict: the model has {len(scores)} logits and the names of {len(names)} "
                "classes; export it again."
            )
        order = np.argsort(-scores, kind="stable")[:top]
        return [(str(names[index]), float(scores[index])) for index in order]


def _image_input(inputs: Sequence[Any], metadata: Mapping[str, Any]) -> ImageInput:
    shapes = {entry.name: entry.shape for entry in inputs}
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise ValueError(
            f"predict: the model needs one input of four axes, images; got {shapes}; run it with "
            "onnxruntime directly."
        )
    shape = inputs[0].shape
    if inputs[0].type != "tensor(float)" or (isinstance(shape[0], int) and shape[0] != 1):
        raise ValueError(
            f"predict: the model needs float32 images and a batch of any size, or of one; got "
            f"{inputs[0].type} and {shape}; run it with onnxruntime directly."
        )
    layout = metadata.get("layout") or ("NCHW" if shape[1] in CHANNELS else "NHWC")
    if layout not in ("NCHW", "NHWC") or shape[layout.index("C")] not in CHANNELS:
        raise ValueError(
            f"predict: the model's images need 1 or 3 channels; got the layout {layout!r} for "
            f"the shape {shape}; give layout in the metadata of export_onnx."
        )
    sizes = [shape[layout.index(axis)] for axis in "HW"]
    height, width = (size if isinstance(size, int) else None for size in sizes)
    channels = int(shape[layout.index("C")])
    return ImageInput(
        name=inputs[0].name,
        layout=layout,
        channels=channels,
        size=(height, width),
        center_crop=_center_crop(metadata),
        mean=_by_channel(metadata, "mean", 0.0, channels),
        std=_by_channel(metadata, "std", 1.0, channels),
    )


def _by_channel(
    metadata: Mapping[str, Any], key: str, default: float, channels: int
) -> np.ndarray[Any, Any]:
    known = metadata.get("normalization") or {}
    given = known.get(key, default) if isinstance(known, Mapping) else known
    try:
        values = np.asarray(given, dtype=np.float32).reshape(-1)
    except (TypeError, ValueError):
        values = np.zeros(0, dtype=np.float32)
    if values.size not in (1, channels) or not isinstance(known, Mapping):
        raise ValueError(
            f"predict: the model's normalization needs one {key} for each of {channels} channels, "
            f"or one for all; got {given}; export it again."
        )
    return values


def _center_crop(metadata: Mapping[str, Any]) -> float | None:
    share = metadata.get("center_crop")
    if share is not None and not (isinstance(share, (int, float)) and 0 < share <= 1):
        raise ValueError(
            f"predict: the model's center_crop needs a share above 0, up to 1; got {share!r}; "
            "export it again with another, or without."
        )
    return share


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="an ONNX file of export_onnx")
    parser.add_argument("images", nargs="+", help="image files")
    parser.add_argument("--top", type=int, default=3, help="classes to print (default: 3)")
    options = parser.parse_args(arguments)
    if options.top < 1:
        parser.error(f"--top needs a number from 1; got {options.top}")
    try:
        classifier = Classifier(options.model)
        for image in options.images:
            found = classifier(image, options.top)
            named = (f"{' '.join(name.split())} {share:.3f}" for name, share in found)
            print(f"{image}: " + ", ".join(named))
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
