"""What the target mask of the instance-wise term does where classes are uneven.

    python benchmarks/target_mask.py

20 Gaussian classes whose sizes fall as 1/rank, with a known posterior, which is the teacher too; a
linear student; batches of 256. ``dropped`` is the library's term, which has one row of the own
class where n stood; ``own`` counts that row n times, so that no margin of log n is left. Every row
is given the class prior. Writes ``results/target_mask.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from recipes.comparing import spread  # noqa: E402
from recipes.files import write_text  # noqa: E402

from mcld_core import adjust_logits, category_wise, instance_wise, sample_wise  # noqa: E402

CLASSES, WIDTH, BATCH = 20, 10, 256
HEADER = (ROOT / "benchmarks" / "pages" / "target_mask.md").read_text("utf-8")
Loss = Callable[[Any, Any, Any, Any, float], Any]
"""(student's logits, teacher's logits, labels, prior, progress) → scalar."""


def dropped(s: Any, t: Any, y: Any, prior: Any, progress: float) -> Any:
    """Return the instance-wise term as the library has it."""
    return instance_wise(s, t, y, class_prior=prior)


def own(s: Any, t: Any, y: Any, prior: Any, progress: float) -> Any:
    """Return the term with the own row n times: ``e^L`` is larger by n - 1."""
    same = (y[:, None] == y[None, :]).sum(1)
    rows = instance_wise(s, t, y, class_prior=prior, reduction="none")
    return (rows + torch.log1p((same - 1) * torch.exp(-rows))).mean()


def whole(instance: Loss, adjusted: bool) -> Loss:
    """Return MCLD's defaults with that instance-wise term."""

    def loss(s: Any, t: Any, y: Any, prior: Any, progress: float) -> Any:
        if adjusted:
            s = adjust_logits(s, prior)
        category = category_wise(s, t, y, class_prior=prior)
        found = instance(s, t, y, prior, progress) + 0.25 * sample_wise(s, t, y)
        return found + progress * category

    return loss


LOSSES: dict[str, Loss] = {
    "cross-entropy": lambda s, t, y, prior, progress: functional.cross_entropy(s, y),
    "instance-wise, dropped": dropped,
    "instance-wise, own": own,
    "MCLD, dropped": whole(dropped, adjusted=False),
    "MCLD, own": whole(own, adjusted=False),
    "MCLD, adjusted, dropped": whole(dropped, adjusted=True),
    "MCLD, adjusted, own": whole(own, adjusted=True),
}


def train(loss: Loss, seed: int, steps: int) -> list[float]:
    """Train a student on the problem of a seed; return the columns of the table."""
    generator = torch.Generator().manual_seed(seed)
    means = 1.2 * torch.randn(CLASSES, WIDTH, generator=generator)
    prior = 1.0 / torch.arange(1, CLASSES + 1)
    prior = prior / prior.sum()

    def draw(rows: int) -> tuple[Any, Any, Any]:
        y = torch.multinomial(prior, rows, True, generator=generator)
        x = means[y] + torch.randn(rows, WIDTH, generator=generator)
        joint = x @ means.T - 0.5 * (means**2).sum(1) + prior.log()
        return x, y, torch.log_softmax(joint, 1)

    weight = torch.zeros(WIDTH, CLASSES, requires_grad=True)
    bias = torch.zeros(CLASSES, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        x, y, log_posterior = draw(BATCH)
        optimizer.zero_grad()
        loss(x @ weight + bias, log_posterior, y, prior, step / steps).backward()
        optimizer.step()
        schedule.step()
    x, y, log_posterior = draw(20_000)
    logits = (x @ weight + bias).detach()
    centred = prior.log() - prior.log().mean()
    slope = ((logits - log_posterior).mean(0) * centred).sum() / (centred**2).sum()
    right = (logits.argmax(1) == y).float()
    by_class = torch.stack([right[y == c].mean() for c in range(CLASSES)])
    excess = functional.cross_entropy(logits, y) - functional.nll_loss(log_posterior, y)
    percents = (right.mean(), by_class[:4].mean(), by_class.mean())
    return [float(slope), float(excess), *(100 * float(value) for value in percents)]


def main(argv: Sequence[str] | None = None) -> int:
    """Train every row and write the page; return the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    command, about = (part.strip() for part in __doc__.split("\n\n")[1:3])
    page = HEADER.format(command=command, about=about, **vars(options))
    for name, loss in LOSSES.items():
        columns = zip(*(train(loss, s, options.steps) for s in range(options.seeds)), strict=True)
        cells = []
        for digits, column in zip((3, 3, 2, 2, 2), columns, strict=True):
            cells.append(spread(column, digits))
        page += f"| {name} | {' | '.join(cells)} |\n"
        print(name, *cells, flush=True)
    write_text(options.out / "target_mask.md", page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
