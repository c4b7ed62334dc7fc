"""Transfer: a linear probe on the frozen student's features, on another data set."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import torch_checkpoints as checkpoints
from .data import Dataset, Split, load_dataset
from .files import write_json, write_text
from .logs import say
from .results import spread
from .torch_inference import pick_device
from .torch_models import build

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)


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


def transfer(options: argparse.Namespace, source: Dataset) -> None:
    """Probe each saved student of the run on ``--transfer`` and write a table.

    The images are brought to the students' size and number of channels. The probe is a logistic
    regression; its L2 penalty is chosen on the other data set's validation split.
    """
    if options.transfer is None:
        return
    target = load_dataset(
        options.transfer,
        options.data_dir,
        download=options.download,
        train_size=options.transfer_size,
        validation_size=options.transfer_validation_size,
    )
    device = pick_device(options.device)
    names = ["untrained", *options.methods]
    scores: dict[str, list[float]] = {name: [] for name in names}
    for seed in options.seeds:
        for name in names:
            torch.manual_seed(seed)
            model = build(options.student, source.image_shape, source.classes)
            if name != "untrained":
                path = Path(options.out) / f"seed{seed}" / name / "last.pt"
                checkpoints.load_weights(model, path)
            scores[name].append(probe(model.to(device).eval(), source, target, options))
            say(f"transfer to {target.name}: seed {seed} {name} {100 * scores[name][-1]:.2f}%")
    lines = [f"| student of {source.name} | test % on {target.name} |", "|---|---|"]
    lines += [f"| {name} | {spread(values)} |" for name, values in scores.items()]
    table = "\n".join(lines)
    write_json(options.out / f"transfer_{target.name}.json", scores)
    write_text(options.out / f"transfer_{target.name}.md", table + "\n")
    print(f"\n{table}")


def probe(model: nn.Module, source: Dataset, target: Dataset, options: argparse.Namespace) -> float:
    """Return the test accuracy of the probe with the penalty that validates best."""
    parts = [target.train, target.validation, target.test]
    train, validation, test = (features(model, part, source, options) for part in parts)
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
def features(
    model: nn.Module, split: Split, source: Dataset, options: argparse.Namespace
) -> Tensor:
    """Return the model's features of a split of other images, normalised as its own were."""
    device = pick_device(options.device)
    height, width, channels = source.image_shape
    mean, std = (
        torch.tensor(values, device=device).view(1, -1, 1, 1)
        for values in (source.mean, source.std)
    )
    extract = Features(model)
    parts = []
    for start in range(0, len(split), options.eval_batch_size):
        rows = split.images[start : start + options.eval_batch_size]
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
