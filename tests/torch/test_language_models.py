"""TokenKDTrainer in a real transformers Trainer, on causal and masked language models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    DataCollatorWithFlattening,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from mcld_core import MCLDConfig
from mcld_core.extensions.nlp import TopKLogits, token_kd_loss, token_mcld_loss
from tests.torch.tiny_language_model import (
    LENGTHS,
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
    """Train sample by sample: each token with a label weighs 1/items, T² KL + 2 CE at T = 2."""
    model, teacher, data = model or make_model(8, seed=0), make_teacher(), make_data()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for step in range(steps):
        rows = data[step * batch : (step + 1) * batch]
        items = sum(label != -100 for row in rows for label in row["labels"][1:])
        optimizer.zero_grad()
        for row in rows:
            (row_by_hand(model, teacher, row["input_ids"], row["labels"][1:]) / items).backward()
        optimizer.step()
    return model


def row_by_hand(model: nn.Module, teacher: nn.Module, ids: list[int], labels: list[int]) -> Tensor:
    """Return T² KL + 2 CE at T = 2, summed over the tokens of a sample that have a label."""
    row, target = torch.tensor([ids]), torch.tensor(labels)
    with torch.no_grad():
        theirs = teacher(row).logits[0, : len(target)]
    own, counts = model(row).logits[0, : len(target)], target != -100
    log_q, log_p = ((x[counts] / 2.0).log_softmax(-1) for x in (own, theirs))
    divergence = 4.0 * (log_p.exp() * (log_p - log_q)).sum()
    return divergence + 2.0 * functional.cross_entropy(own[counts], target[counts], reduction="sum")


FLAT = DataCollatorWithFlattening()


@pytest.mark.parametrize(
    ("batch", "accumulate", "collator"),
    [
        (8, 1, Padding("right")),
        (2, 4, Padding("left")),
        (1, 8, Padding("right")),
        (4, 2, FLAT),
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
    expected = weights(by_hand(8))
    torch.testing.assert_close(weights(trainer.model), expected, rtol=1e-4, atol=1e-5)


def test_a_step_without_labels_has_one_gradient_too(tmp_path: Path) -> None:
    def collate(rows: Any) -> Any:
        return {k: v for k, v in Padding("left")(rows).items() if k != "labels"}

    options: Any = {"teacher": make_teacher(), "data_collator": collate, "ce_weight": 0.0}
    steps = ((8, 1), (2, 4))
    found = [make_trainer(tmp_path, batch=b, accumulate=n, **options) for b, n in steps]
    for trainer in found:
        trainer.train()
    torch.testing.assert_close(*(weights(trainer.model) for trainer in found))


def measured(model: nn.Module, data: list[dict[str, Any]]) -> dict[str, float]:
    """Perplexity, agreement and acceptance, token by token."""
    nats, agreed, accepted, teacher = [], [], [], make_teacher()
    for row in data:
        with torch.no_grad():
            ids = torch.tensor([row["input_ids"]])
            own, theirs = (m(ids).logits[0] for m in (model, teacher))
        for i, label in enumerate(row["labels"][1:]):
            if label != -100:
                nats.append(-float(own[i].log_softmax(-1)[label]))
                agreed.append(float(own[i].argmax() == theirs[i].argmax()))
                both = zip(own[i].softmax(0).tolist(), theirs[i].softmax(0).tolist(), strict=True)
                accepted.append(sum(min(p, q) for p, q in both))
    found = {"agreement": float(np.mean(agreed)), "acceptance": float(np.mean(accepted))}
    return found | {"perplexity": float(np.exp(np.mean(nats)))}


FORMS: dict[str, Any] = {
    "NumPy": lambda x: x.numpy(),
    "stored": lambda x: TopKLogits.from_logits(x, VOCABULARY),
    "layer": lambda x: (x, np.eye(VOCABULARY, dtype="float32")),
}
"""What a teacher that is a function may say."""


@pytest.mark.parametrize(("fused", "form"), [(True, ""), (False, ""), *((True, f) for f in FORMS)])
def test_evaluation_counts_every_token_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fused: bool, form: str
) -> None:
    monkeypatch.setattr("mcld_core.extensions.nlp.huggingface._TOKENS", 5)
    expected = measured(make_model(8, seed=0), make_data(7))
    assert 0.0 < expected["agreement"] < 1.0
    model: Any = make_teacher()
    teacher = (lambda given: FORMS[form](model(**given).logits)) if form else model
    for batch, side in ((2, "left"), (5, "right")):
        trainer = make_trainer(
            tmp_path, batch=batch, teacher=teacher, data_collator=Padding(side), fused=fused
        )
        with recorded_products(trainer.model) as seen:
            found = trainer.evaluate()
        assert (max(seen) == 1) == fused
        for name, value in expected.items():
            assert found[f"eval_{name}"] == pytest.approx(value, rel=1e-5)
    test = trainer.evaluate(metric_key_prefix="test")
    assert test["test_agreement"] == found["eval_agreement"]


def test_predictions_are_the_logits(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, batch=2, teacher=make_teacher())
    found, ids = trainer.predict(make_data(2)).predictions, make_data(1)[0]["input_ids"]
    expected = make_model(8, seed=0)(torch.tensor([ids])).logits[0].detach()
    torch.testing.assert_close(torch.from_numpy(found[0]), expected, rtol=1e-4, atol=1e-5)


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


def test_a_loss_of_ones_own_and_a_teacher_that_is_a_function(tmp_path: Path) -> None:
    config, teacher = MCLDConfig(weight_ce=1.0), make_teacher()
    trainer = make_trainer(
        tmp_path,
        batch=4,
        teacher=lambda given: teacher(**given).logits,
        loss_function=partial(token_mcld_loss, config=config),
    )
    batch = Padding("right")(make_data(4))
    given = {name: x for name, x in batch.items() if name != "labels"}
    model, options = trainer.model, {"attention_mask": batch["attention_mask"], "shift": True}
    for step, steps, progress in ((0, 0, 1.0), (1, 4, 0.25)):
        trainer.state.global_step, trainer.state.max_steps = step, steps
        with torch.no_grad():
            found = float(trainer.compute_loss(model.train(), dict(batch)))
            rows = model(**given).logits, teacher(**given).logits, batch["labels"]
            expected = token_mcld_loss(*rows, config=config, progress=progress, **options)
        assert found == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_settings_and_a_padded_vocabulary(tmp_path: Path, training: bool) -> None:
    options: Any = {"divergence": "reverse", "temperature": 2.0, "ce_weight": 0.5}
    trainer = make_trainer(
        tmp_path,
        batch=4,
        teacher=make_teacher(VOCABULARY + 5),
        vocabulary=VOCABULARY,
        **options,
    )
    batch = Padding("right")(make_data(4))
    given = {name: x for name, x in batch.items() if name != "labels"}
    model, teacher = trainer.model.train(training), make_teacher(VOCABULARY + 5)
    found = trainer.compute_loss(model, dict(batch)).item()
    with torch.no_grad():
        expected = token_kd_loss(
            model(**given).logits,
            teacher(**given).logits[..., :VOCABULARY],
            batch["labels"],
            attention_mask=batch["attention_mask"],
            shift=True,
            **options,
        )
    assert found == pytest.approx(float(expected), rel=1e-5)


def make_family(family: str, width: int, seed: int) -> nn.Module:
    """Return a tiny model without dropout of one family, whose head is not a plain product."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": width, "head_dim": 4}
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    sizes |= {"intermediate_size": width, "pad_token_id": 0}
    if family == "gemma":
        model = Gemma2ForCausalLM(Gemma2Config(**sizes, final_logit_softcapping=2.0))
    elif family == "granite":
        model = GraniteForCausalLM(GraniteConfig(**sizes, logits_scaling=0.25))
    elif family == "t5":
        sizes = {"d_model": width, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
        sizes |= {"vocab_size": VOCABULARY, "decoder_start_token_id": 0, "dropout_rate": 0.0}
        model = T5ForConditionalGeneration(T5Config(**sizes))
    else:
        model = make_model(width, seed)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    if family == "adapter on the head":
        lora = LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)
        return get_peft_model(model, lora)
    return model


def collate(family: str) -> Any:
    """Return a collator; an encoder-decoder's labels are of another length."""
    if family != "t5":
        return Padding("right")
    return lambda rows: {k: x[:, :5] if k == "labels" else x for k, x in pad(rows).items()}


pad = Padding("right")


@pytest.mark.parametrize("family", ["llama", "gemma", "granite", "t5", "adapter on the head"])
def test_fused_equals_unfused_equals_a_loop(tmp_path: Path, family: str) -> None:
    batch, found = collate(family)(make_data(3)), []
    for fused in (True, False):
        model = make_family(family, 8, seed=0)
        teacher = make_family("llama" if "adapter" in family else family, 16, seed=1)
        trainer = make_trainer(
            tmp_path, batch=3, model=model, teacher=teacher, fused=fused,
            data_collator=collate(family),
        )  # fmt: skip
        with recorded_products(model) as seen:
            loss = trainer.compute_loss(model.train(), dict(batch))
            metrics = trainer.evaluate(eval_dataset=make_data(3))
        loss.backward()
        slopes = [p.grad for p in model.parameters() if p.requires_grad]
        found.append((loss.item(), slopes, metrics))
        is_fused = fused and "adapter" not in family
        assert seen == [1 if is_fused else batch["labels"].shape[1]] * 2
    model, teacher = make_family(family, 8, seed=0), teacher.eval()
    given = {name: x for name, x in batch.items() if name != "labels"}
    if family == "t5":
        given["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    own, losses, of_tokens = model.train()(**given).logits, [], []
    with torch.no_grad():
        theirs = teacher(**given).logits
    shift = int(family != "t5")
    for b in range(3):
        for i in range(batch["labels"].shape[1] - shift):
            label = batch["labels"][b, i + shift]
            if label != -100:
                log_q, log_p = ((x[b, i] / 2.0).log_softmax(0) for x in (own, theirs))
                nats = -own[b, i].log_softmax(0)[label]
                losses.append(4.0 * (log_p.exp() * (log_p - log_q)).sum() + 2.0 * nats)
                agrees = own[b, i].argmax() == theirs[b, i].argmax()
                accepted = torch.minimum(own[b, i].softmax(0), theirs[b, i].softmax(0)).sum()
                of_tokens.append([x.item() for x in (nats, agrees, accepted)])
    expected = sum(losses) / len(losses)
    expected.backward()
    slopes = [p.grad for p in model.parameters() if p.requires_grad]
    nats, agreement, acceptance = np.mean(of_tokens, 0)
    for value, gradients, metrics in found:
        assert value == pytest.approx(expected.item(), rel=1e-5)
        for x, y in zip(gradients, slopes, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
        assert metrics["eval_loss"] == pytest.approx(value, rel=1e-5)
        assert metrics["eval_perplexity"] == pytest.approx(np.exp(nats), rel=1e-4)
        assert metrics["eval_agreement"] == pytest.approx(agreement)
        assert metrics["eval_acceptance"] == pytest.approx(acceptance, rel=1e-4)


@contextmanager
def recorded_products(model: nn.Module) -> Iterator[list[int]]:
    """Record of how many tokens a model's head makes logits."""
    seen: list[int] = []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda *x: seen.append(x[2].shape[1]))
    yield seen
    handle.remove()


def test_a_head_that_does_more_than_the_configuration_says(tmp_path: Path) -> None:
    model, plain = make_family("gemma", 8, seed=0), make_family("gemma", 8, seed=0)
    batch = Padding("left")(make_data(3))
    trainer = make_trainer(tmp_path, batch=3, model=model, teacher=make_teacher())
    unfused = make_trainer(tmp_path, batch=3, model=plain, teacher=make_teacher(), fused=False)
    expected = unfused.compute_loss(plain.train(), dict(batch)).item()
    forward = model.forward  # another one than the configuration will say

    def capped(**given: Any) -> Any:
        model.config.final_logit_softcapping = 2.0
        output = forward(**given)
        model.config.final_logit_softcapping = None
        return output

    model.forward = capped
    with pytest.warns(UserWarning, match="the head of the model is a linear layer, but its produ"):
        found = trainer.compute_loss(model.train(), dict(batch)).item()
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_teacher_with_a_device_map_stays_where_it_is(tmp_path: Path) -> None:
    teacher = make_teacher().train()
    teacher.hf_device_map = {"": "cpu"}
    forward = teacher.forward
    trainer = make_trainer(tmp_path, batch=6, teacher=teacher, bf16=True)
    assert trainer.teacher is teacher
    assert not teacher.training
    assert teacher.forward == forward
    found = trainer.compute_loss(trainer.model.train(), Padding("left")(make_data(3)))
    assert bool(found.isfinite())


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
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    items = sum(label != -100 for row in data for label in row["labels"])
    for row in data:
        (row_by_hand(model, teacher, row["input_ids"], row["labels"]) / items).backward()
    optimizer.step()
    torch.testing.assert_close(weights(trainer.model), weights(model), rtol=1e-4, atol=1e-5)
    found = trainer.evaluate(eval_dataset=data)["eval_perplexity"]
    nats = []
    for row in data:
        with torch.no_grad():
            log_q = model.eval()(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        nats += [-float(log_q[i, y]) for i, y in enumerate(row["labels"]) if y != -100]
    assert found == pytest.approx(float(np.exp(np.mean(nats))), rel=1e-4)


def test_a_student_whose_forward_names_no_labels_and_gives_a_tuple(tmp_path: Path) -> None:
    student, model = nn.Module(), make_model(8, seed=0)
    student.body, student.forward = model, lambda input_ids: (model(input_ids).logits,)
    trainer = make_trainer(tmp_path, batch=1, model=student, teacher=make_teacher())
    batch = dict.fromkeys(("input_ids", "labels"), torch.ones(1, 4, dtype=torch.int64))
    items = torch.full((2, 1), 3)  # of two GPUs
    assert trainer.compute_loss(student, batch, num_items_in_batch=items).shape == ()
    trainer.data_collator = lambda rows: {k: torch.tensor([v]) for k, v in rows[0].items()}
    found = trainer.predict(make_data(2))
    assert found.predictions.shape == (2, LENGTHS[0], VOCABULARY)
    expected = measured(model, make_data(2))["perplexity"]
    assert found.metrics["test_perplexity"] == pytest.approx(expected, rel=1e-5)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="TokenKDTrainer: teacher needs a model or a function, or"):
        make_trainer(tmp_path, batch=2).train()
    rows = lambda **_: {"logits": torch.zeros(2, LONGEST)}  # noqa: E731
    batch, options = Padding("right")(make_data(2)), {"batch": 2, "teacher": make_teacher()}
    trainer = make_trainer(tmp_path, **options)
    trainer.teacher = Plain(rows)
    with pytest.raises(ValueError, match=r"need shape \(batch, tokens, vocabulary\); got \(2, 9\)"):
        trainer.compute_loss(trainer.model.eval(), batch)
    with pytest.raises(ValueError, match="TokenKDTrainer: label_smoothing_factor needs 0; got"):
        make_trainer(tmp_path, label_smoothing_factor=0.1, **options)
    with pytest.raises(ValueError, match="TokenKDTrainer: label_names needs 'labels'; got"):
        make_trainer(tmp_path, label_names=["tags"], **options)
    with pytest.raises(ValueError, match="TokenKDTrainer: compute_loss_func needs None; got"):
        make_trainer(tmp_path, compute_loss_func=token_kd_loss, **options)


class Plain(nn.Module):
    """A module of a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.forward = function
