"""Keras models by name, for Keras on any backend and for TensorFlow.

``build(name, image_shape, classes)`` makes one; every model takes (batch, height, width, channels)
and returns logits in float32. They are functional models of Keras' own layers, so a saved one is
loaded without this file. Small ones for laptops are here, and every one of ``keras.applications``;
`keras_networks` has those of the literature.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from ..files import DataError, write_atomically
from ..options import teacher_options, trains_teacher
from ..run import Processes
from . import Shape, describe

NOTES = "notes.json"
"""Where a saved model has what there is to say of it."""


def conv(
    x: Any, width: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False
) -> Any:
    """Return a convolution, padded by half its kernel on every side."""
    padding = "same"
    if stride > 1 and kernel > 1:  # "same" would pad the lower and the right side alone
        x, padding = layers.ZeroPadding2D(kernel // 2)(x), "valid"
    if groups == x.shape[-1] == width:
        return layers.DepthwiseConv2D(
            kernel, stride, padding, use_bias=bias, depthwise_initializer="he_normal"
        )(x)
    return layers.Conv2D(
        width,
        kernel,
        stride,
        padding,
        groups=groups,
        use_bias=bias,
        kernel_initializer="he_normal",
    )(x)


def norm(x: Any, relu: bool = True) -> Any:
    """Return batch norm, with PyTorch's momentum and epsilon, and ReLU unless told otherwise."""
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    return layers.ReLU()(x) if relu else x


def conv_norm(
    x: Any, width: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
) -> Any:
    """Return convolution, batch norm and, unless told otherwise, ReLU."""
    return norm(conv(x, width, kernel, stride, groups), relu)


def mlp(x: Any, *, widths: Sequence[int]) -> Any:
    """Return a multilayer perceptron on the flattened image."""
    x = layers.Flatten()(x)
    for width in widths:
        x = layers.Dense(width, "relu")(x)
    return x


def convnet(x: Any, *, width: int) -> Any:
    """Return three convolutions of width, 2·width, 4·width with batch norm."""
    for number in range(3):
        x = conv_norm(x, width << number, 3)
        x = layers.MaxPooling2D()(x) if number < 2 else x
    return x


def build(name: str, shape: Shape, classes: int, seed: int | None = None) -> keras.Model:
    """Return the model called ``name``, with logits in float32.

    Args:
        name: as `models.describe` takes it (``mlp-64``, ``conv-32``, ``resnet8x4`` …), one of
            `keras_networks.IMAGENET_MODELS`, ``keras.applications:NAME`` with random weights and
            without its softmax, or ``module:function``: what that function returns.
        shape: height, width, channels of the images.
        classes: length of the logits.
        seed: of the initial values; None: whatever Keras draws next.

    Raises:
        DataError: an unknown name.
    """
    if seed is not None:
        keras.utils.set_random_seed(seed)
    if name.startswith("keras.applications:"):
        return _application(name.partition(":")[2], shape, classes)
    if ":" in name:
        from ..own_teachers import call_own

        own: keras.Model = call_own(name, shape, classes, seed=seed or 0)
        return own
    images, small = keras.Input(shape), {"mlp": mlp, "convnet": convnet}
    if name.startswith(("mlp-", "conv-")):
        family, settings = describe(name)
        x = small[family](images, **settings)
    else:
        from . import keras_networks

        family, settings = describe(name, keras_networks.IMAGENET_MODELS)
        x = keras_networks.network(images, family, **settings)
    if len(x.shape) == 4:
        x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(classes, dtype="float32")(x), name=name)


def _application(name: str, shape: Shape, classes: int) -> keras.Model:
    settings = {"weights": None, "input_shape": shape, "classes": classes}
    try:
        make = getattr(keras.applications, name)
        model: keras.Model = make(classifier_activation=None, **settings)
    except (AttributeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"keras.applications:{name} cannot be built: {reason}") from error
    return model


def count_parameters(model: keras.Model) -> int:
    """Return the number of trained values, frozen or not: all but the statistics of the norms."""
    statistics = ("moving_mean", "moving_variance")
    return sum(math.prod(w.shape) for w in model.weights if w.name not in statistics)


def list_models(shape: Shape, classes: int) -> str:
    """Return the names and sizes of the models for such images and classes."""
    from .tables import list_models as listed

    names = None
    if shape[0] > 64:
        from .keras_networks import IMAGENET_MODELS

        names = list(IMAGENET_MODELS)
    size = lambda name: count_parameters(build(name, shape, classes))  # noqa: E731
    return listed(size, "keras.applications:NAME, module:function and", names)


class SGD(keras.optimizers.SGD):
    """SGD whose weight decay is part of the gradient, as in the published recipe.

    Keras' own ``weight_decay`` shrinks the weights beside the momentum: another, weaker rule.
    """

    def __init__(self, learning_rate: float, momentum: float, decay: float) -> None:
        super().__init__(learning_rate, momentum=momentum)
        self.decay = decay

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Update the variables by gradient + decay · variable."""
        variables = trainable_variables or self._trainable_variables
        grads = [
            gradient + ops.cast(self.decay * ops.convert_to_tensor(variable), gradient.dtype)
            for gradient, variable in zip(grads, variables, strict=True)
        ]
        super().apply(grads, trainable_variables)


def find_processes() -> Processes:
    """Return the processes that train together, and their devices: by `keras.distribution`."""
    if keras.backend.backend() == "jax":
        import jax

        if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ or jax.device_count() > 1:
            from .keras_processes import Devices

            return Devices()
    return Processes()


def answers_of(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return images → logits: of a Keras model as its weights are now, of a function itself."""
    if not isinstance(model, keras.Model):
        return model
    if keras.distribution.distribution() is None:
        return model.predict_on_batch
    from .keras_processes import answers_of_one

    return answers_of_one(model)


# ---- teachers and files ----


def find_teachers(
    options: argparse.Namespace,
    data: Any,
    train: Callable[[argparse.Namespace], Any],
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[Any, list[Any], keras.Model | None]:
    """Train the teacher, or load those that ``--teacher`` names (`keras_files.load_teachers`).

    Returns:
        What lies between them and the student, None where nothing does; Keras models or ONNX
        files; the teacher in float32 if it is one Keras model.
    """
    adapter = None
    if trains_teacher(options):
        models = [train(teacher_options(options)).model]
    else:
        from .keras_files import load_teachers

        adapter, models = load_teachers(options, data, train, scope)
    alone = len(models) == 1 and isinstance(models[0], keras.Model)
    return adapter, models, in_float32(models[0]) if alone else None


def save_model(path: Path, model: keras.Model, notes: Mapping[str, Any]) -> None:
    """Save a model alone, as ``keras.models.load_model`` reads it, with notes inside."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        model.save(file)
        with zipfile.ZipFile(file, "a") as zipped:
            zipped.writestr(NOTES, json.dumps(notes))
        write_atomically(path, lambda out: out.write(file.read_bytes()))


def in_float32(model: keras.Model) -> keras.Model:
    """Return the same model, computing in float32 as its weights are, on this process alone."""
    distribution = keras.distribution.distribution()
    if distribution is None and all(x.compute_dtype == "float32" for x in model.layers):
        return model

    def layer(old: Any) -> Any:
        return type(old).from_config(old.get_config() | {"dtype": "float32"})

    keras.distribution.set_distribution(None)
    try:
        copy = keras.models.clone_model(model, clone_function=layer)
        copy.set_weights(model.get_weights())
    finally:
        keras.distribution.set_distribution(distribution)
    return copy
