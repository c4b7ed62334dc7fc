"""MCLDTrainer in a real transformers Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from mcld_core import ClassMeans, MCLDConfig, TeacherKeys, adjust_logits, mcld_loss
from tests.torch.tiny_trainer import (
    CLASSES,
    make_data,
    make_model,
    make_teacher,
    make_trainer,
    weights,
)


def by_hand(batch: int, accumulate: int, steps: int = 2) -> torch.Tensor:
    """Return the weights after the same steps: each sample with a label weighs 1/items."""
    model, teacher, data = make_model(8, seed=0), make_teacher().eval(), make_data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(steps):
        rows = data[step * batch * accumulate : (step + 1) * batch * accumulate]
        items = sum(int(row["labels"] != -100) for row in rows)
        optimizer.zero_grad()
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            inputs = torch.stack([row["input_ids"] for row in part])
            labels = torch.stack([row["labels"] for row in part])
            with torch.no_grad():
                answers = teacher(inputs).logits
            loss = mcld_loss(
                model(inputs).logits, answers, labels, progress=step / steps, reduction="sum"
            )
            (loss / items).backward()
        optimizer.step()
    return weights(model)


@pytest.mark.parametrize(("batch", "accumulate"), [(4, 3), (8, 1)])
def test_steps_are_normalised_by_their_items(batch: int, accumulate: int, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, batch=batch, accumulate=accumulate, teacher=make_teacher())
    before = weights(trainer.model).clone()
    trainer.train()
    expected = by_hand(batch, accumulate)
    assert (weights(trainer.model) - before).abs().max() > 1e-2
    torch.testing.assert_close(weights(trainer.model), expected, rtol=1e-5, atol=1e-6)
    assert not any(p.requires_grad for p in trainer.teacher.parameters())
    assert not trainer.teacher.training


def test_evaluates_with_the_full_ramp(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, batch=24, teacher=make_teacher())
    found = trainer.evaluate()["eval_loss"]
    data = make_data()
    inputs = torch.stack([row["input_ids"] for row in data])
    labels = torch.stack([row["labels"] for row in data])
    with torch.no_grad():
        student = make_model(8, seed=0).eval()(inputs).logits
        expected = mcld_loss(student, make_teacher().eval()(inputs).logits, labels)
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_cached_logits_and_soft_labels(tmp_path: Path) -> None:
    """The data brings the teacher's answers; soft labels count one item a row."""
    teacher = make_teacher().eval()
    data = make_data(8)
    for row in data:
        with torch.no_grad():
            row["teacher_logits"] = teacher(row["input_ids"][None]).logits[0]
        row["labels"] = torch.softmax(row["teacher_logits"], 0)
    config = MCLDConfig(weight_ce=1.0)
    options = {"max_steps": 1, "remove_unused_columns": False, "mcld_config": config}
    trainer = make_trainer(tmp_path, batch=8, data=data, **options)
    trainer.train()
    names = ("input_ids", "teacher_logits", "labels")
    inputs, answers, labels = (torch.stack([row[name] for row in data]) for name in names)
    model = make_model(8, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    mcld_loss(model(inputs).logits, answers, labels, config=config, progress=0.0).backward()
    optimizer.step()
    torch.testing.assert_close(weights(trainer.model), weights(model), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("items", [0, torch.tensor(0), torch.zeros(2, 1)])  # of two GPUs
def test_a_step_without_a_label_trains_nothing(tmp_path: Path, items: Any) -> None:
    trainer = make_trainer(tmp_path, batch=4, teacher=make_teacher())
    model = trainer.model.train()
    tokens = torch.zeros(4, 6, dtype=torch.int64)
    inputs = {"input_ids": tokens, "labels": torch.full((4,), -100)}
    loss = trainer.compute_loss(model, inputs, num_items_in_batch=items)
    loss.backward()
    assert loss.item() == 0
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


PROTOTYPES = {"mcld_config": MCLDConfig(category_contrast="prototypes"), "class_means": True}


@pytest.mark.parametrize("loss", [{}, PROTOTYPES], ids=["rows", "class means"])
def test_resumes_with_its_ramp(tmp_path: Path, loss: dict[str, Any]) -> None:
    class Stop(TrainerCallback):  # type: ignore[misc]
        """As if killed after the second step."""

        def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
            control.should_training_stop = state.global_step == 2
            return control

    options = {"batch": 4, "max_steps": 4, "save_strategy": "steps", "save_steps": 2} | loss
    whole = make_trainer(tmp_path / "whole", teacher=make_teacher(), **options)
    whole.train()
    first = make_trainer(tmp_path / "first", teacher=make_teacher(), **options)
    first.add_callback(Stop())
    first.train()
    rest = make_trainer(
        tmp_path / "first", teacher=make_teacher(), model=make_model(8, seed=9), **options
    )
    rest.train(resume_from_checkpoint=True if loss else str(tmp_path / "first" / "checkpoint-2"))
    if loss:
        states = (trainer.loss.state_dict() for trainer in (rest, whole))
        assert all(map(torch.equal, *(state.values() for state in states)))
    assert torch.equal(weights(rest.model), weights(whole.model))
    losses = [[row["loss"] for row in t.state.log_history if "loss" in row] for t in (whole, rest)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_a_checkpoint_of_the_model_alone_is_resumed(tmp_path: Path) -> None:
    options: Any = {"save_strategy": "steps", "save_steps": 1, "save_only_model": True}
    make_trainer(tmp_path, batch=4, teacher=make_teacher(), **options, **PROTOTYPES).train()
    trainer = make_trainer(tmp_path, batch=4, teacher=make_teacher(), **PROTOTYPES, max_steps=3)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 3


def test_a_student_whose_forward_names_no_labels_and_gives_a_tuple(tmp_path: Path) -> None:
    teacher, model = make_teacher(), make_model(8, seed=0)
    teacher.hf_device_map, teacher.to = {"": "cpu"}, None  # type: ignore[assignment]  # it stays
    student = torch.nn.Module()
    student.body, student.forward = model, lambda input_ids: (model(input_ids).logits,)
    config, data = MCLDConfig(weight_ce=1.0), make_data()
    trainer = make_trainer(tmp_path, batch=8, model=student, teacher=teacher, mcld_config=config)
    trainer.train()
    found = trainer.predict(data)
    assert (found.predictions.shape, "test_loss" in found.metrics) == ((len(data), CLASSES), True)


def test_errors(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, batch=4)
    with pytest.raises(ValueError, match="MCLDTrainer: teacher needs a model, or the data a col"):
        trainer.train()
    batch = {"input_ids": torch.zeros(2, 6, dtype=torch.int64)}
    batch["teacher_logits"] = torch.zeros(2, CLASSES)
    token_logits = lambda **_: {"logits": torch.zeros(2, 6, CLASSES)}  # noqa: E731
    with pytest.raises(ValueError, match=r"logits of the model need shape .* got \(2, 6, 3\)"):
        trainer.compute_loss(token_logits, batch)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"compute_loss_func": print}, "compute_loss_func needs None; got <built-in function pri"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor needs 0; got 0.1"),
        ({"label_names": ["targets"]}, r"label_names needs 'labels'; got \['targets'\]"),
    ],
    ids=["compute_loss_func", "label_smoothing_factor", "label_names"],
)
def test_what_it_does_not_heed_is_refused(tmp_path: Path, options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"MCLDTrainer: {text}"):
        make_trainer(tmp_path, batch=4, teacher=make_teacher(), **options)


def test_a_softmax_of_the_teacher_is_said_once(tmp_path: Path) -> None:
    class Softmax(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = make_teacher()

        def forward(self, **inputs: Any) -> Any:
            return {"logits": self.model(**inputs).logits.softmax(1)}

    trainer = make_trainer(tmp_path, batch=4, teacher=Softmax())
    with pytest.warns(UserWarning, match="MCLDLoss: every row of teacher_logits") as found:
        trainer.train()
    assert len(found) == 1


def test_the_class_prior(tmp_path: Path) -> None:
    counts = [3.0, 1.0, 2.0]
    teacher = make_teacher()
    trainer = make_trainer(tmp_path, batch=6, teacher=teacher, class_prior=counts, balanced=True)
    rows = trainer.data_collator(make_data(6))
    model = trainer.model.eval()
    with torch.no_grad():
        found = float(trainer.compute_loss(model, dict(rows)))
        given = {name: x for name, x in rows.items() if name != "labels"}
        student, taught = model(**given).logits, teacher(**given)["logits"]
    adjusted = adjust_logits(student, counts)
    expected = mcld_loss(adjusted, taught, rows["labels"], class_prior=counts)
    assert found == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(ValueError, match="MCLDLoss: balanced=True needs class_prior"):
        make_trainer(tmp_path, batch=6, balanced=True)


def test_class_means_follow_the_batches(tmp_path: Path) -> None:
    teacher = make_teacher()
    trainer = make_trainer(tmp_path, batch=4, teacher=teacher, **PROTOTYPES)
    config, means = trainer.loss.config, ClassMeans.empty(CLASSES, torch.empty(0))
    for number in (0, 4, 8):
        rows = trainer.data_collator(make_data()[number : number + 4])
        given = {name: x for name, x in rows.items() if name != "labels"}
        found = trainer.compute_loss(trainer.model.train(), dict(rows))
        with torch.no_grad():
            student, taught = trainer.model(**given).logits, teacher(**given).logits
        means = means.update(taught, rows["labels"], config=config)
        keys = TeacherKeys(taught, rows["labels"], prototypes=means.prototypes)
        progress = trainer.state.global_step / max(trainer.state.max_steps, 1)
        progress = progress if trainer.state.max_steps > 0 else 1.0
        expected = mcld_loss(
            student, taught, rows["labels"], config=config, keys=keys, progress=progress
        )
        torch.testing.assert_close(found, expected)
    evaluated = trainer.compute_loss(trainer.model.eval(), dict(rows))  # changes nothing
    torch.testing.assert_close(evaluated, expected)
    torch.testing.assert_close(trainer.loss.class_counts, means.counts)
    with pytest.raises(ValueError, match=r"MCLDLoss: class_means needs a config.*'labels'"):
        make_trainer(tmp_path, batch=4, class_means=True)
    with pytest.raises(ValueError, match=r"class_means needs a model whose .*, Linear"):
        make_trainer(tmp_path, batch=4, model=torch.nn.Linear(8, CLASSES), **PROTOTYPES)
