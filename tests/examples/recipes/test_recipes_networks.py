"""The networks: the published sizes, and the same function of the same weights in any framework."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch
from flax import nnx
from recipes.models import jax as jax_models
from recipes.models import keras as keras_models
from recipes.models import keras_networks
from recipes.models import torch as torch_models
from recipes.models.tables import CIFAR_MODELS

pytestmark = [
    pytest.mark.usefixtures("plain_jax"),
    pytest.mark.filterwarnings(  # of NumPy, on how Keras reads its own variables
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    ),
]

#: millions of parameters with 100 classes, as the papers' tables print them
PUBLISHED = {
    "resnet20": 0.28, "resnet56": 0.86, "resnet110": 1.74, "resnet8x4": 1.23,
    "resnet32x4": 7.43, "wrn_16_2": 0.70, "wrn_40_1": 0.57, "wrn_40_2": 2.26, "vgg8": 3.97,
    "vgg13": 9.46, "mobilenet_v2": 0.81, "shufflenet_v1": 0.95, "shufflenet_v2": 1.36,
    "resnet32": 0.47,
}  # fmt: skip


@pytest.mark.parametrize("name", CIFAR_MODELS)
def test_sizes_are_the_published_ones_in_every_framework(name: str) -> None:
    shape = (32, 32, 3)
    with torch.device("meta"):
        size = torch_models.count_parameters(torch_models.build(name, shape, 100))
    assert round(size / 1e6, 2) == PUBLISHED[name]
    in_jax = nnx.eval_shape(lambda: jax_models.build(name, shape, 100))
    assert jax_models.count_parameters(in_jax) == size
    if name not in ("resnet110", "resnet56", "resnet32"):  # deeper alike, and slow to build
        in_keras = keras_models.build(name, shape, 100)
        assert keras_models.count_parameters(in_keras) == size


@pytest.mark.parametrize(
    "name", ["mlp-8", "mlp-8-4", "conv-4", "resnet20", "wrn_16_2", "vgg8", "mobilenet_v2",
             "shufflenet_v1", "shufflenet_v2"],
)  # fmt: skip
def test_models_take_other_images_and_train(name: str) -> None:
    model = torch_models.build(name, (8, 8, 1), 5)
    logits = model(torch.randn(3, 1, 8, 8))
    assert logits.shape == (3, 5)
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.fixture(scope="module", params=["resnet8x4", "wrn_16_2", "vgg8", "mobilenet_v2",
                                        "shufflenet_v1", "shufflenet_v2"])  # fmt: skip
def network(request: pytest.FixtureRequest) -> tuple[str, torch.nn.Module]:
    """A PyTorch network whose every value is random, the norms' statistics too."""
    generator = torch.Generator().manual_seed(0)
    model = torch_models.build(request.param, (32, 32, 3), 7).eval()
    for name, value in model.state_dict().items():
        if "running" in name or value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return request.param, model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)


def layers_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the layers that hold values, in the order of their creation."""
    return [module for module in model.modules() if list(module.parameters(recurse=False))]


def agree(model: torch.nn.Module, logits: Any, images: np.ndarray) -> None:
    with torch.no_grad():
        wanted = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert wanted.std() > 1e-3
    np.testing.assert_allclose(np.asarray(logits), wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_jax_computes_what_pytorch_does(
    network: tuple[str, torch.nn.Module], images: np.ndarray
) -> None:
    name, model = network
    ours = nnx.eval_shape(lambda: jax_models.build(name, (32, 32, 3), 7))

    def found(module: Any) -> Iterator[Any]:
        if isinstance(module, nnx.Conv | nnx.Linear | nnx.BatchNorm):
            yield module
        elif isinstance(module, nnx.Module):
            for _, child in sorted(vars(module).items(), key=lambda item: item[0] != "enter"):
                yield from found(child)
        elif isinstance(module, list | nnx.List):
            for child in module:
                yield from found(child)

    for layer, source in zip(found(ours), layers_of(model), strict=True):
        values = {key: jnp.asarray(x.numpy()) for key, x in source.state_dict().items()}
        if isinstance(layer, nnx.BatchNorm):
            layer.scale, layer.bias = nnx.Param(values["weight"]), nnx.Param(values["bias"])
            layer.mean = nnx.BatchStat(values["running_mean"])
            layer.var = nnx.BatchStat(values["running_var"])
            continue
        order = (1, 0) if isinstance(layer, nnx.Linear) else (2, 3, 1, 0)
        layer.kernel = nnx.Param(values["weight"].transpose(order))
        if "bias" in values:
            layer.bias = nnx.Param(values["bias"])
    ours.eval()
    logits = nnx.jit(lambda model, x: model(x))(ours, images)
    agree(model, logits, images)


class Recorded:
    """`keras.layers`, remembering every layer that is made."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        def make(*arguments: Any, **options: Any) -> Any:
            self.made.append(getattr(keras.layers, name)(*arguments, **options))
            return self.made[-1]

        return make


def test_keras_computes_what_pytorch_does(
    network: tuple[str, torch.nn.Module], images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, model = network
    recorded = Recorded()
    monkeypatch.setattr(keras_models, "layers", recorded)
    ours = keras_models.build(name, (32, 32, 3), 7)
    holding = [layer for layer in recorded.made if layer.weights]
    for layer, source in zip(holding, layers_of(model), strict=True):
        values = [x.numpy() for key, x in source.state_dict().items() if "num" not in key]
        if values[0].ndim == 4:
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            values[0] = values[0].transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
        elif values[0].ndim == 2:
            values[0] = values[0].T
        layer.set_weights(values)
    agree(model, ours.predict_on_batch(images), images)


def test_a_saved_keras_network_needs_no_recipe(tmp_path: Path) -> None:
    """Of the one whose halves are cut by slices, which are no layers."""
    model = keras_models.build("shufflenet_v2", (8, 8, 1), 5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(model(images), loaded(images), rtol=0, atol=1e-6)


def test_grouped_convolutions_have_gradients_in_keras() -> None:
    """On the CPU, where frameworks lack some."""
    images = keras.Input((4, 4, 24))
    pooled = keras.layers.GlobalAveragePooling2D()(keras_networks.shuffle_unit(images, 48, 2, 3))
    model = keras.Model(images, pooled)
    before = [value.copy() for value in model.get_weights()]
    model.compile("sgd", "mse")
    pixels = np.random.default_rng(0).normal(size=(4, 4, 4, 24)).astype(np.float32)
    model.train_on_batch(pixels, np.ones((4, 48), np.float32))
    pairs = zip(before, model.get_weights(), strict=True)
    moved = [np.abs(one - other).max() for one, other in pairs if one.ndim == 4]
    assert len(moved) == 3
    assert min(moved) > 0


@pytest.mark.parametrize("name", ["conv-2", "shufflenet_v2", "mobilenet_v2"])
def test_jax_networks_take_other_images(name: str) -> None:
    model = nnx.eval_shape(lambda: jax_models.build(name, (8, 8, 1), 5))
    pixels = jax.ShapeDtypeStruct((2, 8, 8, 1), "float32")
    assert nnx.eval_shape(lambda model, x: model(x), model, pixels).shape == (2, 5)
