"""A tiny classifier of token ids, and a Trainer that distils it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from mcld_core.torch.huggingface import MCLDTrainer

CLASSES, TOKENS, VOCABULARY = 3, 6, 20


def bert(width: int, vocabulary: int, longest: int, **settings: Any) -> BertConfig:
    """Return what makes a model of one layer without dropout."""
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    settings |= {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": width}
    settings |= {"intermediate_size": 2 * width, "max_position_embeddings": longest}
    return BertConfig(vocab_size=vocabulary, **settings)


def make_model(width: int, seed: int) -> BertForSequenceClassification:
    """Return a randomly initialised model without dropout."""
    torch.manual_seed(seed)
    config = bert(width, VOCABULARY, TOKENS, num_labels=CLASSES)
    return BertForSequenceClassification(config)


def make_teacher() -> nn.Module:
    """Return a wider model whose answers are far from even."""
    teacher = make_model(16, seed=1)
    with torch.no_grad():
        teacher.classifier.weight.mul_(50)
    return teacher


def make_data(rows: int = 24) -> list[dict[str, torch.Tensor]]:
    """Return samples of which some have no label, as batches of a real data set may."""
    generator = torch.Generator().manual_seed(2)
    return [
        {
            "input_ids": torch.randint(VOCABULARY, (TOKENS,), generator=generator),
            "labels": torch.tensor(-100 if i % 7 == 3 else i % CLASSES),
        }
        for i in range(rows)
    ]


def in_order(batch: int, accumulate: int) -> dict[str, Any]:
    """Return the arguments of a Trainer that takes the samples in order at a constant rate."""
    return {
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": batch,
        "gradient_accumulation_steps": accumulate,
        "max_steps": 2,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }


def make_trainer(folder: Path, *, batch: int, accumulate: int = 1, **options: Any) -> MCLDTrainer:
    """Return a Trainer by plain SGD at a constant rate, which takes the samples in order."""
    model = options.pop("model", None) or make_model(8, seed=0)
    data = options.pop("data", None) or make_data()
    teacher = options.pop("teacher", None)
    names = ("compute_loss_func", "class_prior", "balanced", "class_means", "mcld_config")
    loss = {name: options.pop(name) for name in names if name in options}
    arguments = in_order(batch, accumulate) | options
    return MCLDTrainer(
        model=model,
        teacher=teacher,
        args=TrainingArguments(folder, **arguments),
        train_dataset=data,
        eval_dataset=data,
        optimizers=(torch.optim.SGD(model.parameters(), lr=0.5), None),
        **loss,
    )


def weights(model: nn.Module) -> torch.Tensor:
    """Return all weights as one vector."""
    return torch.cat([p.detach().ravel() for p in model.parameters()])
