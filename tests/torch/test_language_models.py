"""TokenMCLDTrainer in a real transformers Trainer, on causal and masked language models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn import functional
from transformers import DataCollatorWithFlattening

from mcld_core import MCLDConfig
from mcld_core.extensions.nlp import token_kd_loss, token_mcld_loss
from tests.torch.tiny_language_model import (
    LONGEST,
    VOCABULARY,
    Padding,
    make_data,
    make_masked_model,
    make_model,
    make_teacher,
    make_trainer,
    weights,
)


def by_hand(batch: int, model: nn.Module | None = None, steps: int = 2) -> nn.Module:
    """Train sample by sample: each token with a label weighs 1/items, 0.5 T² KL + CE at T = 2."""
    model, teacher, data = model or make_model(8, seed=0), make_teacher(), make_data()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.2)
    for step in range(steps):
        rows = data[step * batch : (step + 1) * batch]
        items = sum(label != -100 for row in rows for label in row["labels"][1:])
        optimizer.zero_grad()
        for row in rows:
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"][1:])
            own, counts = model(ids).logits[0, :-1], labels != -100
            with torch.no_grad():
                theirs = teacher(ids).logits[0, :-1]
            log_q, log_p = ((x[counts] / 2.0).log_softmax(-1) for x in (own, theirs))
            divergence = 4.0 * (log_p.exp() * (log_p - log_q)).sum()
            nats = functional.cross_entropy(own[counts], labels[counts], reduction="sum")
            ((0.5 * divergence + nats) / items).backward()
        optimizer.step()
    return model


FLAT = DataCollatorWithFlattening()


@pytest.mark.parametrize(
    ("batch", "accumulate", "collator"),
    [
        (6, 1, Padding("right")),
        (2, 3, Padding("left")),
        (1, 6, Padding("right")),
        (3, 2, FLAT),
    ],
    ids=["whole", "left", "one by one", "packed"],
)
def test_a_step_has_one_gradient_however_it_is_split(
    tmp_path: Path, batch: int, accumulate: int, collator: Any
) -> None:
    trainer = make_trainer(
        tmp_path,
        batch=batch,
        accumulate=accumulate,
        teacher=make_teacher(),
        data_collator=collator,
    )
    before = weights(trainer.model)
    trainer.train()
    assert (weights(trainer.model) - before).abs().max() > 1e-2
    expected = weights(by_hand(6))
    torch.testing.assert_close(weights(trainer.model), expected, rtol=1e-4, atol=1e-5)


def measured(model: nn.Module, data: list[dict[str, Any]]) -> dict[str, float]:
    """Perplexity and agreement, token by token."""
    nats, agreed, teacher = [], [], make_teacher()
    for row in data:
        with torch.no_grad():
            ids = torch.tensor([row["input_ids"]])
            own, theirs = (m(ids).logits[0] for m in (model, teacher))
        for i, label in enumerate(row["labels"][1:]):
            if label != -100:
                nats.append(-float(own[i].log_softmax(-1)[label]))
                agreed.append(float(own[i].argmax() == theirs[i].argmax()))
    return {"perplexity": float(np.exp(np.mean(nats))), "agreement": float(np.mean(agreed))}


def test_evaluation_counts_every_token_once(tmp_path: Path) -> None:
    expected = measured(make_model(8, seed=0), make_data(7))
    assert 0.0 < expected["agreement"] < 1.0
    for batch, side in ((2, "left"), (5, "right")):
        trainer = make_trainer(
            tmp_path, batch=batch, teacher=make_teacher(), data_collator=Padding(side)
        )
        found = trainer.evaluate()
        for name, value in expected.items():
            assert found[f"eval_{name}"] == pytest.approx(value, rel=1e-5)
        assert (
            trainer.evaluate(metric_key_prefix="test")["test_agreement"] == found["eval_agreement"]
        )


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({"activation_checkpointing": True}, 1e-5), ({"bf16": True}, 2e-3)],
    ids=["checkpointing", "bf16"],
)
def test_memory_savers(tmp_path: Path, options: dict[str, Any], tolerance: float) -> None:
    trainer = make_trainer(tmp_path, batch=2, accumulate=3, teacher=make_teacher(), **options)
    trainer.train()
    found, expected = weights(trainer.model), weights(by_hand(6))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=tolerance)
    if "bf16" in options:
        assert not torch.equal(found, expected)


def make_adapted() -> PeftModel:
    torch.manual_seed(3)
    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
    return get_peft_model(make_model(8, seed=0), config)


@pytest.mark.parametrize("options", [{}, {"activation_checkpointing": True}, {"bf16": True}])
def test_adapters_of_a_frozen_base(tmp_path: Path, options: dict[str, Any]) -> None:
    trainer = make_trainer(
        tmp_path,
        batch=3,
        accumulate=2,
        model=make_adapted(),
        teacher=make_teacher(),
        **options,
    )
    trainer.train()
    expected, start = by_hand(6, make_adapted()), make_adapted().state_dict()
    tolerance = 1e-4 if "bf16" in options else 1e-7
    for name, weight in trainer.model.state_dict().items():
        torch.testing.assert_close(weight, expected.state_dict()[name], rtol=1e-3, atol=tolerance)
        if "lora_A" not in name:  # which moves less than it is rounded
            assert torch.equal(weight, start[name]) != ("lora_B" in name)
    found = trainer.evaluate()
    for name, value in measured(expected, make_data(7)).items():
        assert found[f"eval_{name}"] == pytest.approx(value, rel=1e-3)
    trainer.save_model(tmp_path / "adapters")
    stored = PeftModel.from_pretrained(make_model(8, seed=0), tmp_path / "adapters")
    assert torch.equal(weights(stored), weights(trainer.model))


def test_the_contrasts_and_the_ramp(tmp_path: Path) -> None:
    config = MCLDConfig(weight_ce=1.0)
    trainer = make_trainer(
        tmp_path, batch=4, teacher=make_teacher(), mcld_config=config, loss_options={}
    )
    batch = Padding("right")(make_data(4))
    model, teacher = trainer.model.train(), make_teacher()
    trainer.state.max_steps, trainer.state.global_step = 4, 1
    given = {name: x for name, x in batch.items() if name != "labels"}
    for mode, progress in ((True, 0.25), (False, 1.0)):
        model.train(mode)
        with torch.no_grad():
            found = float(trainer.compute_loss(model, dict(batch)))
            expected = token_mcld_loss(
                model(**given).logits,
                teacher(**given).logits,
                batch["labels"],
                attention_mask=batch["attention_mask"],
                shift=True,
                config=config,
                progress=progress,
            )
        assert found == pytest.approx(float(expected), rel=1e-5)


def test_a_loss_of_ones_own(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path,
        batch=4,
        teacher=make_teacher(VOCABULARY + 5),
        token_loss=token_kd_loss,
        loss_options={"divergence": "reverse", "temperature": 2.0},
        vocabulary=VOCABULARY,
    )
    batch = Padding("right")(make_data(4))
    given = {name: x for name, x in batch.items() if name != "labels"}
    model, teacher = trainer.model.eval(), make_teacher(VOCABULARY + 5)
    with torch.no_grad():
        found = float(trainer.compute_loss(model, dict(batch)))
        expected = token_kd_loss(
            model(**given).logits,
            teacher(**given).logits[..., :VOCABULARY],
            batch["labels"],
            attention_mask=batch["attention_mask"],
            shift=True,
            divergence="reverse",
            temperature=2.0,
        )
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_a_masked_language_model(tmp_path: Path) -> None:
    """A token is its own label; what is not masked does not count."""
    generator = torch.Generator().manual_seed(4)
    data = []
    for i, row in enumerate(make_data(6)):
        masked = torch.rand(len(row["input_ids"]), generator=generator) < 0.4
        masked[i % 3] = True
        ids = torch.tensor(row["input_ids"])
        data.append(
            {
                "input_ids": torch.where(masked, 0, ids).tolist(),
                "labels": torch.where(masked, ids, -100).tolist(),
            }
        )
    teacher = make_masked_model(16, seed=1).eval()
    trainer = make_trainer(
        tmp_path,
        batch=2,
        accumulate=3,
        max_steps=1,
        model=make_masked_model(8, seed=0),
        teacher=teacher,
        causal=False,
        data=data,
    )
    trainer.train()
    model = make_masked_model(8, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    items = sum(label != -100 for row in data for label in row["labels"])
    for row in data:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        own, counts = model(ids).logits[0], labels != -100
        with torch.no_grad():
            theirs = teacher(ids).logits[0]
        log_q, log_p = ((x[counts] / 2.0).log_softmax(-1) for x in (own, theirs))
        divergence = 4.0 * (log_p.exp() * (log_p - log_q)).sum()
        nats = functional.cross_entropy(own[counts], labels[counts], reduction="sum")
        ((0.5 * divergence + nats) / items).backward()
    optimizer.step()
    torch.testing.assert_close(weights(trainer.model), weights(model), rtol=1e-4, atol=1e-5)
    found = trainer.evaluate(eval_dataset=data)["eval_perplexity"]
    nats = []
    for row in data:
        with torch.no_grad():
            log_q = model.eval()(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        nats += [-float(log_q[i, y]) for i, y in enumerate(row["labels"]) if y != -100]
    assert found == pytest.approx(float(np.exp(np.mean(nats))), rel=1e-4)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="TokenMCLDTrainer: teacher needs a model, or the data a c"
    ):
        make_trainer(tmp_path, batch=2).train()
    rows = lambda **_: {"logits": torch.zeros(2, LONGEST)}  # noqa: E731
    batch, options = Padding("right")(make_data(2)), {"batch": 2, "teacher": make_teacher()}
    with pytest.raises(ValueError, match=r"need shape \(batch, tokens, vocabulary\); got \(2, 9\)"):
        make_trainer(tmp_path, **options).compute_loss(rows, batch)
    with pytest.raises(ValueError, match="TokenMCLDTrainer: label_smoothing_factor needs 0"):
        make_trainer(tmp_path, label_smoothing_factor=0.1, **options)
    with pytest.raises(ValueError, match="TokenMCLDTrainer: class_means needs False; got True"):
        make_trainer(tmp_path, class_means=True, **options)
