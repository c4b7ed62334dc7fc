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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mcld_core.export.graph import ImageFormat, decode_metadata, image_format
from mcld_core.export.inputs import require
from mcld_core.export.verify import find_logits, session

CHANNELS = (1, 3)

WHITE = 65535
"""Of 16 bits."""


@dataclass(frozen=True)
class ImageInput:
    """How a file wants its images.

    Args:
        name: the input's name.
        size: height and width; None where the axis is free, so that the image keeps its own.
        format: layout, channels, crop and normalisation.
    """

    name: str
    size: tuple[int | None, int | None]
    format: ImageFormat

    def read(self, path: str | Path) -> np.ndarray[Any, Any]:
        """One image as a batch of one, float32; what is transparent in it lies on white."""
        from PIL import Image

        image = _open(path, "L" if self.format.channels == 1 else "RGB")
        height, width = self.size[0] or image.height, self.size[1] or image.width
        crop = self.format.center_crop
        if crop is not None:
            image = _scaled(image, max(height / image.height, width / image.width) / crop)
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        elif (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(image, dtype=np.float32).reshape(height, width, -1) / 255
        values = ((pixels - self.format.mean) / self.format.std).astype(np.float32)[None]
        if self.format.layout == "NHWC":
            return values
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


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
        ValueError: the input is not an image.
        ImportError: onnxruntime or Pillow is missing.

    Example:
        ```python
        Classifier("student.onnx")("cat.png", top=3)  # [("cat", 0.93), ...]
        ```
    """

    def __init__(self, path: str | Path) -> None:
        require("onnxruntime", purpose="predict")
        if find_spec("PIL") is None:
            raise ImportError("predict: Pillow is needed; got none; run `pip install pillow`.")
        if not Path(path).is_file():
            raise FileNotFoundError(f"predict: the model {path} does not exist.")
        self.runner = session(path)
        properties = self.runner.get_modelmeta().custom_metadata_map
        self.metadata = decode_metadata(properties)
        self.input = _image_input(self.runner.get_inputs(), self.metadata)
        classes = self.metadata.get("classes")
        self.output = find_logits(self.runner, classes=len(classes) if classes else None)

    def __call__(self, image: str | Path, top: int = 5) -> list[tuple[str, float]]:
        """The most probable classes of an image file, with their probabilities."""
        pixels = self.input.read(image)
        try:
            outputs = self.runner.run([self.output], {self.input.name: pixels})
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
    known = image_format(shape, metadata, "predict")
    if known.channels not in CHANNELS:
        raise ValueError(
            f"predict: the model's images need 1 or 3 channels; got the layout {known.layout!r} "
            f"for the shape {shape}; give layout in the metadata of export_onnx."
        )
    sizes = [shape[known.layout.index(axis)] for axis in "HW"]
    height, width = (size if isinstance(size, int) else None for size in sizes)
    return ImageInput(inputs[0].name, (height, width), known)


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
        if len(classifier.runner.get_outputs()) > 1:
            print(f"the classes are those of the output {classifier.output!r}", file=sys.stderr)
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
