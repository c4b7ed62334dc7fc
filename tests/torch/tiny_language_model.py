"""Tiny language models, and a Trainer that distils them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertForMaskedLM, LlamaConfig, LlamaForCausalLM, TrainingArguments

from mcld_core.extensions.nlp.huggingface import TokenKDTrainer
from tests.torch.tiny_trainer import bert, in_order
from tests.torch.tiny_trainer import weights as weights

VOCABULARY, LONGEST, COUNT = 23, 9, 16
LENGTHS = (9, 4, 6, 3, 8, 5, 7, 3, 9, 4, 6, 5, 3, 7, 8, 4)
# T² KL + 2 CE: each a mean over tokens
MEANS = {"temperature": 2.0, "ce_weight": 2.0}


def make_model(width: int, seed: int, vocabulary: int = VOCABULARY) -> LlamaForCausalLM:
    """Return a causal model without dropout, whose positions are relative."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def make_masked_model(width: int, seed: int) -> BertForMaskedLM:
    """Return a masked model without dropout."""
    torch.manual_seed(seed)
    return BertForMaskedLM(bert(width, VOCABULARY, LONGEST))


def make_teacher(vocabulary: int = VOCABULARY) -> nn.Module:
    """Return a wider model whose answers are far from even."""
    teacher = make_model(16, 1, vocabulary)
    with torch.no_grad():
        teacher.lm_head.weight.mul_(20)
    return teacher.eval()


def make_data(count: int = COUNT) -> list[dict[str, Any]]:
    """Return samples of unequal length, of which some have a prompt without labels."""
    generator = torch.Generator().manual_seed(2)
    data = []
    for i, length in enumerate(LENGTHS[:count]):
        ids = torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()
        prompt = i % 3
        labels = [-100] * prompt + ids[prompt:]
        data.append({"input_ids": ids, "labels": labels, "teacher_index": i})
    return data


class Padding:
    """A collator that pads on one side."""

    def __init__(self, side: str) -> None:
        self.side = side

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        batch: dict[str, list[Tensor]] = {"input_ids": [], "attention_mask": [], "labels": []}
        for row in rows:
            short = longest - len(row["input_ids"])
            sides = (short, 0) if self.side == "left" else (0, short)
            ones = [1] * len(row["input_ids"])
            parts = (row["input_ids"], 0), (ones, 0), (row["labels"], -100)
            for name, (x, filler) in zip(batch, parts, strict=True):
                batch[name].append(functional.pad(torch.tensor(x), sides, value=filler))
        return {name: torch.stack(x) for name, x in batch.items()}


def make_trainer(folder: Path, *, batch: int, accumulate: int = 1, **given: Any) -> Any:
    """Return a Trainer by plain SGD at a constant rate, which takes the samples in order."""
    model = given.pop("model", None) or make_model(8, seed=0)
    data = given.pop("data", None) or make_data()
    names = ("teacher", "data_collator", "fused", "loss_function", "causal", "vocabulary")
    names += ("divergence", "temperature", "ce_weight", "compute_loss_func")
    options = {name: given.pop(name) for name in names if name in given}
    options = {"data_collator": Padding("right")} | MEANS | options
    arguments = in_order(batch, accumulate) | given
    trained = [p for p in model.parameters() if p.requires_grad]
    return TokenKDTrainer(
        model=model,
        args=TrainingArguments(folder, **arguments),
        train_dataset=data,
        eval_dataset=data[:7],
        optimizers=(torch.optim.SGD(trained, lr=0.1), None),
        **options,
    )
