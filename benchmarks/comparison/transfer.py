"""Transfer: a linear probe on the frozen PyTorch students' features, on another data set."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import torch
from recipes import say
from recipes.comparing import markdown
from recipes.data import Dataset, Split
from recipes.data.load import load_data, load_dataset
from recipes.files import DataError, write_json, write_text
from recipes.run import Run
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.comparison.tables import spread
from benchmarks.comparison.trainings import Trainings

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)
BATCH, VALIDATION = 500, 250


class Features(nn.Module):
    """The input of a model's last linear layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        self._kept: list[Tensor] = []
        linear.register_forward_pre_hook(lambda _, inputs: self._kept.append(inputs[0]))

    def forward(self, images: Tensor) -> Tensor:
        """Return (batch, features)."""
        self._kept.clear()
        self.model(images)
        return self._kept.pop()


def transfer(
    options: argparse.Namespace, trainings: Trainings, results: Mapping[tuple[str, int], Run]
) -> str:
    """Probe each student of the comparison on ``--transfer``; write and return the table.

    The images are brought to the students' size and number of channels. The probe is a logistic
    regression; its L2 penalty is chosen on the other data set's validation split.

    Raises:
        DataError: the students are not of PyTorch, or the data set cannot be read.
    """
    base = trainings.base
    target = load_dataset(
        options.transfer,
        base.data_dir,
        download=base.download,
        train_size=options.transfer_size,
        validation_size=VALIDATION,
    )
    source = load_data(base)
    students = {("untrained", options.seeds[0]): trainings.untrained(), **results}
    scores: dict[str, list[float]] = {}
    for (name, seed), result in students.items():
        if not isinstance(result.model, nn.Module):
            raise DataError("--transfer probes students of PyTorch: --script torch_cifar100")
        scores.setdefault(name, []).append(probe(result.model.eval(), source, target))
        say(f"transfer to {target.name}: seed {seed} {name} {100 * scores[name][-1]:.2f}%")
    rows = ((name, spread(values)) for name, values in scores.items())
    table = "\n".join(markdown([f"student of {source.name}", f"test % on {target.name}"], rows))
    write_json(options.out / f"transfer_{target.name}.json", scores)
    write_text(options.out / f"transfer_{target.name}.md", table + "\n")
    return table


def probe(model: nn.Module, source: Dataset, target: Dataset) -> float:
    """Return the test accuracy of the probe with the penalty that validates best."""
    parts = [target.train, target.validation, target.test]
    train, validation, test = (features(model, part, source) for part in parts)
    mean, scale = train.mean(0), train.std(0).clamp_min(1e-6)
    train, validation, test = ((part - mean) / scale for part in (train, validation, test))
    labels = [torch.from_numpy(part.labels).to(train.device) for part in parts]
    scored = []
    for penalty in PENALTIES:
        weight, bias = fit(train, labels[0], target.classes, penalty)
        right = [
            float(((part @ weight + bias).argmax(1) == wanted).float().mean())
            for part, wanted in ((validation, labels[1]), (test, labels[2]))
        ]
        scored.append(right)
    return max(scored, key=lambda right: right[0])[1]


@torch.no_grad()
def features(model: nn.Module, split: Split, source: Dataset) -> Tensor:
    """Return the model's features of a split of other images, normalised as its own were."""
    device = next(model.parameters()).device
    height, width, channels = source.image_shape
    mean, std = (
        torch.tensor(values, device=device).view(1, -1, 1, 1)
        for values in (source.mean, source.std)
    )
    extract = Features(model)
    parts = []
    for start in range(0, len(split), BATCH):
        rows = split.images[start : start + BATCH]
        images = torch.from_numpy(rows).to(device).permute(0, 3, 1, 2).float() / 255
        if images.shape[1] != channels:
            images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
        if images.shape[2:] != (height, width):
            images = functional.interpolate(
                images, (height, width), mode="bilinear", antialias=True
            )
        parts.append(extract((images - mean) / std))
    return torch.cat(parts)


def fit(x: Tensor, labels: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """Return weight (features, classes) and bias (classes,) of a logistic regression (L-BFGS)."""
    weight = torch.zeros(x.shape[1], classes, device=x.device, requires_grad=True)
    bias = torch.zeros(classes, device=x.device, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        fitted = functional.cross_entropy(x @ weight + bias, labels)
        total = fitted + penalty * weight.square().sum()
        total.backward()
        return total

    solver.step(loss)
    return weight.detach(), bias.detach()
