"""TokenKDTrainer with a teacher of stored columns, and over the SFTTrainer of TRL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from mcld_core.extensions.nlp import TeacherCollator, TopKLogits, teacher_columns
from mcld_core.extensions.nlp.huggingface import TokenKDTrainer
from tests.torch.test_language_models import by_hand, measured
from tests.torch.tiny_language_model import (
    MEANS,
    VOCABULARY,
    Padding,
    make_data,
    make_model,
    make_teacher,
    make_trainer,
    weights,
)


def with_columns(collator: Any) -> Dataset:
    """Return the data with a teacher of which all of the vocabulary is stored."""

    def columns(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        names = ("input_ids", "labels")
        batch = collator(
            [dict(zip(names, x, strict=True)) for x in zip(*map(rows.get, names), strict=True)]
        )
        mask = batch["attention_mask"]
        with torch.no_grad():
            logits = make_teacher()(batch["input_ids"], attention_mask=mask).logits
        return teacher_columns(TopKLogits.from_logits(logits, VOCABULARY), mask, fingerprint="a")

    return Dataset.from_list(make_data()).map(columns, batched=True, batch_size=5)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_teacher_of_columns(tmp_path: Path, wrapped: bool) -> None:
    """A step is that of the teacher itself; a collator without columns is given them."""
    data, collator = with_columns(Padding("left")), Padding("left")
    trainer = make_trainer(
        tmp_path,
        batch=3,
        accumulate=2,
        data=data,
        data_collator=TeacherCollator(collator, "a") if wrapped else collator,
    )
    trainer.eval_dataset = data.select(range(7))
    trainer.train()
    model = by_hand(6)
    torch.testing.assert_close(weights(trainer.model), weights(model), rtol=2e-3, atol=1e-3)
    found = trainer.evaluate()
    for name, value in measured(model, make_data(7)).items():
        assert found[f"eval_{name}"] == pytest.approx(value, rel=1e-2)
    trainer.teacher = make_teacher()
    with pytest.raises(ValueError, match=r"teacher needs .* or None and .* got LlamaForCausalLM"):
        trainer.evaluate()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("stored", [False, True])
def test_the_trainer_of_trl(tmp_path: Path, stored: bool) -> None:
    """TRL makes the collator, which would drop the columns, and patches the model's forward."""

    class KDTrainer(TokenKDTrainer, SFTTrainer):
        pass

    vocabulary = {"<pad>": 0} | {f"t{i}": i for i in range(1, VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, "t1")), pad_token="<pad>"
    )
    data = with_columns(Padding("right")) if stored else Dataset.from_list(make_data())
    model = make_model(8, seed=0)
    settings = {
        "teacher": None if stored else make_teacher(),
        "train_dataset": data,
        "eval_dataset": data.select(range(7)),
        "processing_class": tokenizer,
        "optimizers": (torch.optim.SGD(model.parameters(), lr=0.1), None),
        **MEANS,
    }
    arguments = {
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "max_steps": 2,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "max_length": None,
    }
    trainer = KDTrainer(model=model, args=SFTConfig(tmp_path, **arguments), **settings)
    trainer.train()
    expected, tolerance = by_hand(6), 1e-3 if stored else 1e-5
    torch.testing.assert_close(weights(model), weights(expected), rtol=2e-3, atol=tolerance)
    found = trainer.evaluate()
    for name, value in measured(expected, make_data(7)).items():
        assert found[f"eval_{name}"] == pytest.approx(value, rel=1e-2)
    if stored:
        with pytest.raises(ValueError, match="TokenKDTrainer: teacher columns need packing=False"):
            KDTrainer(
                model=model, args=SFTConfig(tmp_path, **(arguments | {"packing": True})), **settings
            )
