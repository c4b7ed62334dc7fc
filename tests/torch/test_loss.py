"""MCLDLoss: its steps, its bank, mixed precision, compilation, and a resume that loses nothing."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from mcld_core import ClassMeans, MCLDConfig, TeacherBank, TeacherKeys, adjust_logits, mcld_loss
from mcld_core.torch import MCLDLoss

BATCH, CLASSES, FEATURES = 6, 5, 7


def batch(seed: int = 0, size: int = BATCH) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return student and teacher logits and labels."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(size, CLASSES, generator=generator) for _ in range(2))
    return student, teacher, torch.randint(CLASSES, (size,), generator=generator)


def test_equals_the_function() -> None:
    student, teacher, labels = batch()
    config = MCLDConfig(similarity="cosine", weight_ce=1.0)
    options = {"sample_weight": torch.rand(BATCH), "where": torch.arange(BATCH) != 2}
    found = MCLDLoss(config)(student, teacher, labels, **options)
    torch.testing.assert_close(
        found, mcld_loss(student, teacher, labels, config=config, **options), rtol=0, atol=0
    )
    for reduction in ("mean", "sum", "none"):
        given: dict[str, Any] = {"progress": 0.25, "reduction": reduction}
        found = MCLDLoss()(student, teacher, **given)
        torch.testing.assert_close(found, mcld_loss(student, teacher, **given), rtol=0, atol=0)


def test_steps_drive_the_ramp() -> None:
    """Once per optimiser step, however many batches; not in eval mode."""
    student, teacher, labels = batch()
    loss_function = MCLDLoss(total_steps=4)
    for step in range(6):
        expected = mcld_loss(student, teacher, labels, progress=min(step / 4, 1.0))
        for _ in range(2):  # gradient accumulation
            torch.testing.assert_close(loss_function(student, teacher, labels), expected)
        loss_function.step()
    assert loss_function.steps.item() == 6
    loss_function.eval()
    loss_function(student, teacher, labels)
    loss_function.step()
    assert loss_function.steps.item() == 6


def test_a_forgotten_step_is_said() -> None:
    student, teacher, labels = batch()
    for total_steps, said_at in ((3, 100), (150, 150), (10**6, 1000)):
        loss_function = MCLDLoss(total_steps=total_steps)
        for _ in range(said_at - 1):
            loss_function(student, teacher, labels)
        with pytest.warns(UserWarning, match=rf"step\(\) needs a call .* none in {said_at} train"):
            loss_function(student, teacher, labels)
        loss_function(student, teacher, labels)  # once
        loss_function.eval()
        for _ in range(9):
            loss_function(student, teacher, labels)


def test_a_short_training_of_long_steps_is_in_no_need_of_a_warning() -> None:
    """One step, of many batches: gradient accumulation, and the batches of a last evaluation."""
    student, teacher, labels = batch()
    loss_function = MCLDLoss(total_steps=1)
    for _ in range(64):
        loss_function(student, teacher, labels)
    loss_function.step()
    for _ in range(200):
        loss_function(student, teacher, labels)


def test_bank_holds_the_last_rows() -> None:
    loss_function = MCLDLoss(bank_size=8, classes=CLASSES)
    batches = [batch(seed) for seed in range(3)]
    past_rows, past_labels = torch.zeros(0, CLASSES), torch.zeros(0, dtype=torch.int64)
    for student, teacher, labels in batches:
        keys = TeacherKeys(
            torch.cat([teacher, past_rows[-8:]]), torch.cat([labels, past_labels[-8:]])
        )
        expected = mcld_loss(student, teacher, labels, keys=keys)
        torch.testing.assert_close(loss_function(student, teacher, labels), expected)
        past_rows, past_labels = torch.cat([past_rows, teacher]), torch.cat([past_labels, labels])
    before = [x.clone() for x in loss_function.bank]
    loss_function.eval()
    loss_function(*batches[0])
    for old, now in zip(before, loss_function.bank, strict=True):
        assert torch.equal(old, now)


def test_a_given_bank_stays() -> None:
    rows, labels = torch.randn(7, CLASSES), torch.arange(7) % CLASSES
    bank = TeacherBank.from_logits(rows, labels)
    loss_function = MCLDLoss(bank_size=bank)
    assert (loss_function.bank_size, loss_function.bank_moves) == (7, False)
    for seed in range(2):
        student, teacher, own = batch(seed)
        index = torch.arange(BATCH)
        keys = bank.keys(teacher, own, index=index)
        expected = mcld_loss(student, teacher, own, keys=keys)
        torch.testing.assert_close(loss_function(student, teacher, own, index=index), expected)
    for old, now in zip(bank, loss_function.bank, strict=True):
        torch.testing.assert_close(now, old, rtol=0, atol=0)
    loss_function.bank_vectors.zero_()  # as a state does that is loaded
    assert torch.equal(bank.vectors, rows)
    assert set(loss_function.state_dict()) == set(MCLDLoss(bank_size=7, classes=2).state_dict())


def test_bank_leaves_out_dropped_rows_and_known_samples() -> None:
    student, teacher, labels = batch()
    labels[3] = 255
    config = MCLDConfig(ignore_index=255)
    loss_function = MCLDLoss(config, bank_size=8, classes=CLASSES)
    where, index = torch.arange(BATCH) != 0, torch.arange(BATCH)
    loss_function(student, teacher, labels, where=where, index=index)
    assert loss_function.bank.ids.tolist() == [1, 2, 4, 5, -1, -1, -1, -1]
    found = loss_function(student, teacher, labels, where=where, index=index)
    expected = mcld_loss(student, teacher, labels, config=config, where=where)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("bank_size", [0, 3])
def test_class_means_follow_the_batches(bank_size: int) -> None:
    config = MCLDConfig(category_contrast="prototypes", weight_instance=0.0)
    options = {"class_means": True, "classes": CLASSES, "bank_size": bank_size}
    loss_function, means = MCLDLoss(config, **options), ClassMeans.empty(CLASSES, torch.empty(0))
    keep = torch.arange(BATCH) != 2
    for seed in range(3):
        student, teacher, labels = batch(seed)
        means = means.update(teacher, labels, where=keep, config=config)
        keys = TeacherKeys(teacher, labels, prototypes=means.prototypes)
        expected = mcld_loss(student, teacher, labels, config=config, keys=keys, where=keep)
        torch.testing.assert_close(loss_function(student, teacher, labels, where=keep), expected)
    restored = MCLDLoss(config, **options)
    restored.load_state_dict(loss_function.state_dict())
    for module in (restored.eval(), loss_function.eval()):  # which leaves the means as they are
        found = module(student, teacher, labels, where=keep)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(module.class_counts, means.counts)


def test_class_means_compile_to_one_graph() -> None:
    config = MCLDConfig(category_contrast="prototypes")
    modules = [MCLDLoss(config, class_means=True, classes=CLASSES) for _ in range(2)]
    compiled = torch.compile(modules[0], fullgraph=True, backend="aot_eager")
    for seed in range(2):
        torch.testing.assert_close(compiled(*batch(seed)), modules[1](*batch(seed)))
    torch.testing.assert_close(modules[0].class_means, modules[1].class_means)


def test_class_means_need_classes_and_prototypes() -> None:
    with pytest.raises(
        ValueError, match=r"MCLDLoss: a bank and class means need the number of classes; got None"
    ):
        MCLDLoss(MCLDConfig(category_contrast="prototypes"), class_means=True)
    with pytest.raises(ValueError, match=r"class_means needs a config with.*got 'labels'"):
        MCLDLoss(class_means=True, classes=CLASSES)


def test_soft_labels_in_the_bank() -> None:
    student, teacher, labels = batch()
    soft = torch.softmax(teacher, 1)
    loss_function = MCLDLoss(bank_size=8, classes=CLASSES, soft_labels=True)
    loss_function(student, teacher, soft)
    keys = TeacherKeys(torch.cat([teacher, teacher]), torch.cat([soft, soft]))
    torch.testing.assert_close(
        loss_function(student, teacher, soft), mcld_loss(student, teacher, soft, keys=keys)
    )
    with pytest.raises(TypeError, match="push: labels need to be int"):
        MCLDLoss(bank_size=8, classes=CLASSES)(student, teacher, soft)
    assert torch.isfinite(loss_function(student, teacher, labels))


class Run:
    """A training that can be killed between two steps."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.model = nn.Linear(FEATURES, CLASSES)
        self.loss = MCLDLoss(total_steps=8, bank_size=9, classes=CLASSES)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)

    def parts(self) -> dict[str, Any]:
        return {"model": self.model, "loss": self.loss, "optimizer": self.optimizer}

    def save(self) -> bytes:
        file = io.BytesIO()
        torch.save({name: part.state_dict() for name, part in self.parts().items()}, file)
        return file.getvalue()

    def load(self, data: bytes) -> Run:
        states = torch.load(io.BytesIO(data), weights_only=True)
        for name, part in self.parts().items():
            part.load_state_dict(states[name])
        return self

    def steps(self, first: int, last: int) -> list[float]:
        losses = []
        for step in range(first, last):
            self.optimizer.zero_grad()
            for micro in range(2):
                _, teacher, labels = batch(10 * step + micro, 4)
                inputs = batch(10 * step + micro, 4)[0].repeat(1, 2)[:, :FEATURES]
                loss = self.loss(self.model(inputs), teacher, labels) / 2
                loss.backward()
                losses.append(loss.item())
            self.optimizer.step()
            self.loss.step()
        return losses


def test_resumed_losses_are_bit_equal() -> None:
    whole = Run().steps(0, 6)
    killed = Run()
    first = killed.steps(0, 3)
    data = killed.save()
    del killed
    rest = Run().load(data).steps(3, 6)
    assert first + rest == whole
    forgetful = Run().load(data)
    forgetful.loss.load_state_dict(MCLDLoss(bank_size=9, classes=CLASSES).state_dict())
    assert forgetful.steps(3, 6) != rest  # steps and bank do matter


def test_state_dict_and_copies() -> None:
    loss_function = MCLDLoss(total_steps=5, bank_size=4, classes=CLASSES)
    names = ["steps", *(f"bank_{name}" for name in loss_function.bank._fields)]
    assert list(loss_function.state_dict()) == names
    assert not list(loss_function.parameters())
    loss_function(*batch())
    other = copy.deepcopy(loss_function)
    assert torch.equal(other.bank.vectors, loss_function.bank.vectors)
    assert "total_steps=5, bank_size=4" in repr(loss_function)
    assert list(MCLDLoss().state_dict()) == ["steps"]


@pytest.mark.parametrize("cast", ["half", "bfloat16", "float16 and back"])
def test_half_narrows_the_logits_of_the_bank_alone(cast: str) -> None:
    """A prior of small probabilities or large counts, means, counts and soft labels stay."""
    config = MCLDConfig(category_contrast="prototypes")
    prior = torch.tensor([1e-9, 1.0, 1e6, 70001.0, 257.0])
    options = {"bank_size": 4, "classes": CLASSES, "class_means": True, "soft_labels": True}
    whole = MCLDLoss(config, **options, class_prior=prior)
    student, teacher, labels = batch()
    whole(student, teacher, labels)
    narrow = copy.deepcopy(whole)
    for loss_function in (narrow, nn.ModuleList([narrow])):
        if cast == "float16 and back":
            loss_function.to(torch.float16).to(torch.float32)
        else:
            getattr(loss_function, cast)()
    for name, buffer in whole.named_buffers():
        if name != "bank_vectors":
            torch.testing.assert_close(getattr(narrow, name), buffer, rtol=0, atol=0, msg=name)
    half = {"half": torch.float16, "bfloat16": torch.bfloat16}.get(cast, torch.float32)
    assert narrow.bank.vectors.dtype == half
    found = narrow.eval()(student, teacher, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, whole.eval()(student, teacher, labels), rtol=1e-2, atol=0)
    assert whole.double().class_prior.dtype == torch.float64


@pytest.mark.parametrize(
    "wrong",
    [
        {"student": torch.ones(BATCH, CLASSES + 1)},
        {"student": torch.ones(BATCH - 1, CLASSES)},
        {"student": torch.ones(BATCH, CLASSES, dtype=torch.int64)},
        {"progress": 2.0},
        {"sample_weight": -torch.ones(BATCH)},
        {"pairs": torch.ones(BATCH, 2, dtype=torch.bool)},
        {"where": torch.ones(BATCH)},
    ],
    ids=str,
)
def test_a_call_that_raises_leaves_nothing(wrong: dict[str, Any]) -> None:
    """The bank, the means and the counters are as before, and a retry pushes its rows once."""
    config = MCLDConfig(category_contrast="prototypes")
    options = {"total_steps": 5, "bank_size": 8, "classes": CLASSES, "class_means": True}
    loss_function = MCLDLoss(config, **options)
    student, teacher, labels = batch()
    before = copy.deepcopy(loss_function.state_dict())
    given = {"student": student, "teacher": teacher, "labels": labels}
    with pytest.raises((TypeError, ValueError)):
        loss_function(**(given | wrong))
    for name, value in loss_function.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert loss_function._uncounted == 0
    loss_function(**given)
    assert loss_function.bank.where.sum() == BATCH
    assert loss_function.class_counts.sum() == BATCH


def test_pairs_of_the_batch_beside_a_bank() -> None:
    """The rows of the bank are compared with all."""
    student, teacher, labels = batch()
    pairs = torch.rand(BATCH, BATCH) < 0.5
    expected = mcld_loss(student, teacher, labels, pairs=pairs)
    torch.testing.assert_close(MCLDLoss()(student, teacher, labels, pairs=pairs), expected)
    loss_function = MCLDLoss(bank_size=BATCH, classes=CLASSES)
    loss_function(*batch(1))
    keys = loss_function.bank.keys(teacher, labels)
    all_pairs = torch.cat([pairs, torch.ones(BATCH, BATCH, dtype=torch.bool)], 1)
    expected = mcld_loss(student, teacher, labels, keys=keys, pairs=all_pairs)
    with pytest.raises(
        ValueError, match=rf"shape \({BATCH}, {BATCH}\), .*; got \({BATCH}, {2 * BATCH}"
    ):
        loss_function(student, teacher, labels, pairs=all_pairs)
    found = loss_function(student, teacher, labels, pairs=pairs)
    torch.testing.assert_close(found, expected)


def test_grad_scaler() -> None:
    """A scaled float16 backward pass gives the unscaled gradient, and the optimiser steps."""
    torch.manual_seed(0)
    model = nn.Linear(FEATURES, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    loss_function = MCLDLoss(total_steps=3, bank_size=8, classes=CLASSES)
    _, teacher, labels = batch()
    inputs = torch.randn(BATCH, FEATURES)
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = loss_function(model(inputs), teacher, labels)
        weight = model.weight.detach().clone()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        assert model.weight.grad is not None
        assert torch.isfinite(model.weight.grad).all()
        assert model.weight.grad.abs().max() > 1e-3
        scaler.step(optimizer)
        scaler.update()
        loss_function.step()
        assert not torch.equal(model.weight, weight)


def test_compiles_to_one_graph_once() -> None:
    """With ramp and bank, through changing steps and eval mode, without a graph break."""
    torch._dynamo.reset()
    eager = MCLDLoss(total_steps=5, bank_size=10, classes=CLASSES)
    compiled_function = copy.deepcopy(eager)
    compiled = torch.compile(compiled_function, fullgraph=True, backend="aot_eager")
    for step in range(4):
        student, teacher, labels = batch(step)
        gradients = []
        for function in (eager, compiled):
            leaf = student.clone().requires_grad_()
            with torch.compiler.set_stance("fail_on_recompile" if step else "default"):
                loss = function(leaf, teacher, labels, index=torch.arange(BATCH) + step)
            loss.backward()
            gradients.append((loss.detach(), leaf.grad))
        torch.testing.assert_close(gradients[0], gradients[1])
        eager.step()
        compiled_function.step()
    for ours, theirs in zip(eager.bank, compiled_function.bank, strict=True):
        assert torch.equal(ours, theirs)


def test_errors() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"total_steps": 0}, "MCLDLoss: total_steps needs an int ≥ 1; got 0"),
        ({"rows_per_rank": -1}, "MCLDLoss: rows_per_rank needs an int ≥ 1; got -1"),
        ({"bank_size": -1}, "MCLDLoss: bank_size needs an int ≥ 0; got -1"),
        ({"bank_size": 3}, "MCLDLoss: a bank and class means need the number of cl"),
    ]
    for options, text in cases:
        with pytest.raises(ValueError, match=text):
            MCLDLoss(**options)
    whole = TeacherBank.from_logits(torch.eye(3), torch.arange(3))
    with pytest.raises(ValueError, match=r"MCLDLoss: bank_size needs a bank of 7 classes.* got 3"):
        MCLDLoss(bank_size=whole, classes=7)
    kinds: list[tuple[dict[str, Any], str]] = [
        ({"bank_size": "64"}, "MCLDLoss: bank_size needs an int ≥ 0; got '64'"),
        ({"bank_size": 3, "soft_labels": "yes"}, "soft_labels needs True or False; got 'yes'"),
        ({"class_means": 1}, "MCLDLoss: class_means needs True or False; got 1"),
    ]
    for options, text in kinds:
        with pytest.raises(TypeError, match=text):
            MCLDLoss(**{"classes": 3, **options})
    with pytest.raises(AttributeError, match="bank"):
        MCLDLoss().bank  # noqa: B018
    student, teacher, labels = batch()
    with pytest.raises(ValueError, match=r"keys: teacher_logits need shape \(rows, 3\)"):
        MCLDLoss(bank_size=2, classes=3)(student, teacher, labels)


def test_the_class_prior_is_a_buffer_and_balances() -> None:
    student, teacher, labels = batch()
    prior = torch.arange(1.0, CLASSES + 1)
    loss = MCLDLoss(class_prior=prior.tolist())
    expected = mcld_loss(student, teacher, labels, class_prior=prior)
    torch.testing.assert_close(loss(student, teacher, labels), expected)
    torch.testing.assert_close(loss.state_dict()["class_prior"], prior)
    balanced = MCLDLoss(class_prior=prior, balanced=True)
    adjusted = adjust_logits(student, prior)
    expected = mcld_loss(adjusted, teacher, labels, class_prior=prior)
    torch.testing.assert_close(balanced(student, teacher, labels), expected)
    with pytest.raises(ValueError, match="MCLDLoss: balanced=True needs class_prior"):
        MCLDLoss(balanced=True)
    with pytest.raises(TypeError, match="MCLDLoss: config needs an MCLDConfig; got the class"):
        MCLDLoss(MCLDConfig)
    with pytest.raises(TypeError, match=r"MCLDLoss: config needs an MCLDConfig; got \{\}"):
        MCLDLoss({})
