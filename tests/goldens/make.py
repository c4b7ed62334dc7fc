"""Write goldens.npz: inputs, values by NumPy, gradients by PyTorch, in float64.

``python -m tests.goldens.make``, run at the last commit of version 0.2 (4b88544). A case whose
behaviour changes on purpose leaves the table in `tests.goldens.cases`; the file stays.
"""

from __future__ import annotations

import numpy as np

from tests.cases import logits, soft_labels
from tests.frameworks import load
from tests.goldens.cases import CASES, FILE, outcome


def inputs() -> dict[str, np.ndarray]:
    """Return six rows of four classes, nine keys, and three sequences of four tokens."""
    rng = np.random.default_rng(26)
    rows, tokens, six = (6, 4), (3, 4, 4), np.arange(6)
    x = {name: logits(rng, *rows) / 2 for name in ("student", "student_text")}
    x |= {name: logits(rng, *rows) / 2 for name in ("teacher", "teacher_text")}
    x |= {name: logits(rng, *tokens) / 2 for name in ("student_tokens", "teacher_tokens")}
    labels, soft = np.array([0, 2, 0, 1, 2, 0]), soft_labels(rng, *rows)
    token_labels = np.array([[0, 1, -100, 2], [3, 3, 0, -100], [1, 0, 2, 1]])
    keys = np.concatenate([logits(rng, 2, 4) / 2, x["teacher"], logits(rng, 1, 4) / 2])
    lone = np.arange(4) == (labels[:, None] + 1) % 4
    powers = np.exp(keys)
    return x | {
        "labels": labels, "one_hot": np.eye(4, dtype="int64")[labels], "soft": soft,
        "ignored": np.where(six == 2, -100, labels), "distinct": np.array([0, 1, 2, 3, 1, 2]),
        "absent": np.where(lone, -np.inf, x["teacher"]), "prior": np.array([5.0, 3.0, 2.0, 0.0]),
        "weight": np.array([1.0, 0.5, 2.0, 0.25, 1.5, 1.0]), "where": six != 2, "odd": six % 2 == 1,
        "nothing": six < 0, "ids": np.array([7, 8, 9, 7, 3, 4]),
        "reliability": np.array([1.0, 0.0, 0.25, 0.5, 1.5, 0.75]), "keys": keys,
        "key_labels": np.concatenate([[1, 3], labels, [2]]), "key_where": np.arange(9) != 1,
        "key_soft": np.concatenate([soft_labels(rng, 2, 4), soft, soft_labels(rng, 1, 4)]),
        "key_probabilities": powers / powers.sum(1, keepdims=True),
        "normalizer": np.array(3.5), "prototypes": soft_labels(rng, 4, 4),
        "token_labels": token_labels, "token_plain": np.maximum(token_labels, 0),
        "token_soft": soft_labels(rng, 12, 4).reshape(tokens), "series_labels": np.array([0, 1, 0]),
        "token_mask": np.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1]], bool),
        "starts": np.array([0, 2, 3, 0, 6, 8]), "starts_apart": np.array([0, 4, 8, 0, 4, 8]),
        "starts_of_3": np.array([0, 2, 4]), "series": np.array([0, 0, 0, 1, 1, 1]),
        "targets": np.array([[0, 1, 2.5, np.nan], [4, 0.5, 0.25, 8], [3, -1, 6, 2]]),
        "edges": np.array([0.5, 2.0, 4.0]), "spread": np.linspace(0.5, 2.0, 12).reshape(3, 4),
        "student_forecast": np.linspace(-1.0, 7.0, 12).reshape(3, 4),
        "student_scale": np.array(2.0), "student_losses": np.array([0, 0.5, 1, 2, 4, 8]),
    }  # fmt: skip


def main() -> None:
    """Compute each case and write the file."""
    given = inputs()
    found = {f"in/{name}": x for name, x in given.items()}
    for case, (name, _) in CASES.items():
        results = outcome(case, load("torch"), given)
        if name not in ("resumed", "exported"):  # of torch alone
            results |= outcome(case, load("numpy"), given)
        found |= {f"{case}/{part}": x for part, x in results.items()}
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()
