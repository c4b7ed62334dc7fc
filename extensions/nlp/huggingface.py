"""Distillation of language models in the Hugging Face ``Trainer``: `TokenMCLDTrainer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from mcld_core.arguments import Checks
from mcld_core.config import MCLDConfig
from mcld_core.extensions.nlp.losses import token_mcld_loss
from mcld_core.extensions.nlp.stored import TopKLogits
from mcld_core.logits import adjust_logits
from mcld_core.torch.huggingface import MCLDTrainer


class TokenMCLDTrainer(MCLDTrainer):
    """`MCLDTrainer` for causal and masked language models: one row of logits a token.

    The loss is `token_mcld_loss`, or a function of yours such as `token_kd_loss`. Tokens with the
    label -100, and those that the attention mask leaves out, do not count: padding may be on either
    side. The loss is divided by ``num_items_in_batch``, the tokens that count in all batches and
    ranks of a step, so a step has one gradient however it was split, in each term that is a
    mean over tokens; what is contrasted is contrasted within a batch. Of several samples packed in
    a row, the contrasts see one sequence.

    The teacher is a model that reads the same tokens.

    ``evaluate`` reports ``eval_perplexity``, and ``eval_agreement``: the share of tokens whose most
    probable successor is the teacher's. Both are over all tokens that count.

    Args:
        teacher: a model that answers the student's inputs; None where the data have its logits.
        mcld_config: the settings. The default adds cross-entropy to `token_mcld_loss`.
        token_loss: a function that is called as `token_kd_loss`: ``(student_logits, teacher_logits,
            labels, attention_mask=…, shift=…, normalizer=…)``; ``mcld_config`` is then not used.
            None: `token_mcld_loss` with the settings, ``class_prior`` and the ramp.
        loss_options: further arguments of the loss, such as ``{"sequence_contrast": 1.0}``.
        causal: whether the logits of a token are of the token after it. False: of the token
            itself, as in masked language models; their collator labels the masked tokens.
        vocabulary: how many tokens there are, ``len(tokenizer)``, where the models pad their
            logits to different widths: what is beyond is left out.
        *args: as ``Trainer``.
        **kwargs: as ``Trainer`` and `MCLDTrainer`.

    Raises:
        ValueError: as of `MCLDTrainer`; neither a model nor logits in the data.

    Example::

        trainer = TokenMCLDTrainer(
            model=student, teacher=teacher, args=TrainingArguments("out"), train_dataset=data,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        )
        trainer.train()
    """

    def __init__(
        self,
        *args: Any,
        mcld_config: MCLDConfig = MCLDConfig(weight_ce=1.0),  # noqa: B008  (frozen)
        token_loss: Callable[..., Any] | None = None,
        loss_options: Mapping[str, Any] | None = None,
        causal: bool = True,
        vocabulary: int | None = None,
        **kwargs: Any,
    ) -> None:
        checks = Checks("TokenMCLDTrainer")
        checks.flag("causal", causal)
        if vocabulary is not None:
            checks.integer("vocabulary", vocabulary, minimum=1)
        if kwargs.get("class_means"):
            raise ValueError(
                "TokenMCLDTrainer: class_means needs False; got True. They are for classifiers"
            )
        super().__init__(*args, mcld_config=mcld_config, **kwargs)
        self.token_loss = token_loss
        self.loss_options = dict(loss_options or {})
        self.causal = causal
        self.vocabulary = vocabulary
        self._loss_shifts_labels = False  # what it counts is shifted already
        self._sums: list[torch.Tensor] = []
        settings: Any = getattr(self.teacher, "config", None)
        if hasattr(settings, "use_cache"):
            # As the Trainer does with the student: with it, packed samples see each other.
            settings.use_cache = self.args.use_cache

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Count the tokens that the loss counts: no first token, though padding stands before."""
        counted = []
        for batch in batch_samples:
            if isinstance(batch.get("labels"), torch.Tensor):
                labels, counts = _counted(batch["labels"], _attended(batch), self.causal)
                batch = {"labels": labels.masked_fill(~counts, -100)}
            counted.append(batch)
        return super()._get_num_items_in_batch(counted, device)

    def _logits(self, outputs: Any, name: str) -> torch.Tensor:
        logits: torch.Tensor = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        if logits.ndim != 3:
            raise ValueError(
                f"{self._name}: the logits of the {name} need shape (batch, tokens, vocabulary); "
                f"got {tuple(logits.shape)}. For classifiers there is MCLDTrainer"
            )
        return logits if self.vocabulary is None else logits[..., : self.vocabulary]

    def _distil(
        self,
        student: torch.Tensor,
        teacher: Any,
        inputs: dict[str, Any],
        items: torch.Tensor | None,
        training: bool,
    ) -> torch.Tensor:
        labels, where = inputs.get("labels"), _attended(inputs)
        options = {"attention_mask": where, "shift": self.causal, "normalizer": items}
        if self.token_loss is None:
            options |= {"config": self.mcld_config, "class_prior": self.class_prior}
            options["progress"] = self._progress(training)
        ours = adjust_logits(student, self.class_prior) if self.balanced else student
        loss_of: Callable[..., torch.Tensor] = self.token_loss or token_mcld_loss
        loss = loss_of(ours, teacher, labels, **(options | self.loss_options))
        if training:
            self._look(student, teacher)
        elif labels is not None:
            self._sums.append(_sums(student, teacher, *_counted(labels, where, self.causal)))
        return loss

    def _look(self, student: torch.Tensor, teacher: Any) -> None:
        """Look at some tokens of the first batch."""
        if self._first_look.done or isinstance(teacher, TopKLogits):
            return
        ours, theirs = (x.reshape(-1, x.shape[-1])[:256] for x in (student, teacher))
        self._first_look.look(ours, theirs, None, None, self.mcld_config, stacklevel=4)

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Return what ``Trainer.prediction_step`` does, and keep the sums of all ranks' batch."""
        before = len(self._sums)
        result = super().prediction_step(*args, **kwargs)
        self._sums[before:] = map(self.accelerator.gather_for_metrics, self._sums[before:])
        return result

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Return what ``Trainer.evaluation_loop`` does, with the perplexity and the agreement."""
        self._sums = []
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._sums:
            nats, agreed, count = torch.cat(self._sums).sum(0).unbind()
            output.metrics[f"{metric_key_prefix}_perplexity"] = (nats / count).exp().item()
            output.metrics[f"{metric_key_prefix}_agreement"] = (agreed / count).item()
        self._sums = []
        return output


def _attended(inputs: Mapping[str, Any]) -> torch.Tensor | None:
    """Return the attention mask where it is one of tokens."""
    mask = inputs.get("attention_mask")
    return mask if mask is not None and mask.ndim == 2 else None


def _counted(
    labels: torch.Tensor, where: torch.Tensor | None, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the label of each token, and which tokens count, as the losses see them."""
    counts = labels != -100
    if where is not None:
        counts = counts & (where != 0)
    if causal:
        labels = functional.pad(labels[:, 1:], (0, 1), value=-100)
        attended = True if where is None else where != 0
        counts = functional.pad(counts[:, 1:], (0, 1), value=False) & attended
    return labels, counts


def _sums(
    student: torch.Tensor, teacher: Any, labels: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """Return for each row the nats of its labels, how many tokens agree, and how many count."""
    rows = student.detach()[counts].float()
    nats = functional.cross_entropy(rows, labels[counts], reduction="none")
    if isinstance(teacher, TopKLogits):
        best = teacher.values.argmax(-1, keepdim=True)
        best = teacher.indices.gather(-1, best).squeeze(-1)[counts]
    else:
        best = teacher[counts].argmax(-1)
    agrees = rows.argmax(-1) == best
    found = torch.zeros(*counts.shape, 3, dtype=torch.float64, device=rows.device)
    found[counts] = torch.stack([nats.double(), agrees.double(), torch.ones_like(nats).double()], 1)
    return found.sum(1)
