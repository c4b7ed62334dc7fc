"""Distillation of language models in the Hugging Face ``Trainer``: `TokenKDTrainer`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional
from transformers import Trainer

from mcld_core.arguments import Checks
from mcld_core.backends import torch as backend
from mcld_core.extensions.nlp import tokens
from mcld_core.extensions.nlp.columns import IDS, TEACHER_COLUMNS, TeacherCollator
from mcld_core.extensions.nlp.kd import LastLayer, token_kd_loss
from mcld_core.extensions.nlp.stored import TopKLogits, is_drawn

_TOKENS = 64
"""So many tokens have logits at a time in an evaluation."""


class TokenKDTrainer(Trainer):
    """A ``transformers.Trainer`` whose loss is `token_kd_loss` with a teacher.

    For causal, masked and encoder-decoder language models, and a mixin: ``class KDTrainer(
    TokenKDTrainer, trl.SFTTrainer): pass``. Tokens with the label -100, and those that the
    attention mask leaves out, do not count: padding may be on either side, samples may be packed.
    The loss is divided by ``num_items_in_batch``, the tokens that count in all batches and ranks of
    a step: a step has one gradient however it was split.

    No logits are held (as by `linear_token_kd_loss`) where the model's head is a plain
    ``torch.nn.Linear``, with or without a softcap or a scale; the first batch is compared with the
    model's own logits. They are taken of other heads, such as one with an adapter, and where
    somebody asks for them (``predict``, ``compute_metrics``).

    ``evaluate`` reports ``eval_perplexity``; ``eval_agreement``, the share of tokens whose most
    probable successor is the teacher's; and ``eval_acceptance``, ``Σ min(p, q)`` at temperature
    1, the share of a draft's tokens that speculative decoding accepts. Of a stored teacher the
    acceptance is that on its k classes and the class of all others; of draws there is neither.

    Args:
        teacher: a model that reads the same tokens, which is frozen, set to eval mode, and
            prepared by the Trainer's accelerator (with a device map it stays where it is); a
            function of a batch's inputs that returns logits, `TopKLogits` or a `LastLayer`; or
            None: the data has the columns of `teacher_columns`, which the Trainer's collator then
            leaves to a `TeacherCollator` (pass one yourself, with a fingerprint that is checked).
        divergence, mix, temperature, ce_weight: as in `token_kd_loss`.
        fused: whether the last layer may be a part of the loss.
        loss_function: another loss, called ``(student_logits, teacher, labels, attention_mask=…,
            shift=…, normalizer=…)``, and with ``progress=``, the part of the training that is
            done, if it takes it; the settings above are then not used. `token_mcld_loss` with its
            settings: ``functools.partial``.
        causal: whether the logits of a token are of the token after it. False: of the token
            itself, as in masked language models. Encoder-decoder models need no setting.
        vocabulary: how many tokens there are, ``len(tokenizer)``, where the models pad their
            logits to different widths: what is beyond is left out.
        *args, **kwargs: as ``Trainer``.

    Raises:
        ValueError: ``compute_loss_func``, or in the arguments a ``label_smoothing_factor`` or
            ``label_names`` without ``"labels"``: the loss would not heed them; no teacher, or
            one beside teacher columns; such columns that TRL is to pack.

    Warns:
        UserWarning: a plain head whose product is not the model's logits: they are then taken.

    Example::

        trainer = TokenKDTrainer(
            model=student, teacher=teacher, args=TrainingArguments("out"), train_dataset=data,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        )
        trainer.train()
    """

    def __init__(
        self,
        *args: Any,
        teacher: nn.Module | Callable[[dict[str, Any]], Any] | None = None,
        divergence: str = "forward",
        mix: float = 0.5,
        temperature: float = 1.0,
        ce_weight: float = 0.0,
        fused: bool = True,
        loss_function: Callable[..., torch.Tensor] | None = None,
        causal: bool = True,
        vocabulary: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.checks = checks = Checks("TokenKDTrainer")
        checks.flag("causal", causal)
        checks.flag("fused", fused)
        if vocabulary is not None:
            checks.integer("vocabulary", vocabulary, minimum=1)
        stored = IDS in (getattr(kwargs.get("train_dataset"), "column_names", None) or ())
        if stored and getattr(kwargs.get("args"), "packing", False):
            packed = "True, and TRL packs the tokens of samples without them"
            raise checks.wrong("teacher columns need packing=False", packed)
        super().__init__(*args, **kwargs)
        checks.trainer(self, "token_kd_loss, or loss_function=, of the column 'labels'")
        collator: Any = self.data_collator
        if stored and not isinstance(collator, TeacherCollator):
            self.data_collator: Any = TeacherCollator(collator)
        kd = partial(token_kd_loss, divergence=divergence, mix=mix, temperature=temperature)
        self.loss_function = loss_function or partial(kd, ce_weight=ce_weight)
        self.vocabulary = vocabulary
        config: Any = getattr(self.accelerator.unwrap_model(self.model), "config", None)
        self.is_encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
        self.causal = causal and not self.is_encoder_decoder
        self.fused = fused and loss_function is None and not self.args.torch_compile
        self._has_plain_head: dict[str, bool] = {}  # of each model: is it what it seems to be?
        self._sums: list[torch.Tensor] = []
        self._loss_only = False  # nobody looks at the outputs of an evaluation
        self._loss_shifts_labels = False  # what it counts is shifted already
        # The loss is ours: the Trainer counts the items whatever the model's own loss takes.
        self.model_accepts_loss_kwargs = True
        if isinstance(teacher, nn.Module):
            teacher.requires_grad_(False).eval()
            settings: Any = getattr(teacher, "config", None)
            if hasattr(settings, "use_cache"):
                # As the Trainer does with the student: with it, packed samples see each other.
                settings.use_cache = self.args.use_cache
            if not getattr(teacher, "hf_device_map", None):
                teacher = self.accelerator.prepare_model(teacher, evaluation_mode=True)
        self.teacher: Any = teacher

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns: Any = list({*self._signature_columns, *TEACHER_COLUMNS})

    def _prepare_input(self, data: Any) -> Any:
        if isinstance(data, (TopKLogits, LastLayer)):  # tuples with names, which take no generator
            return type(data)(*map(self._prepare_input, data))
        is_array = isinstance(data, np.ndarray)
        return super()._prepare_input(torch.from_numpy(data) if is_array else data)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Count the tokens that the loss counts: no first token, though padding stands before."""
        counted = []
        for batch in batch_samples:
            labels = batch.get("labels", batch.get("input_ids"))
            if isinstance(labels, torch.Tensor):
                batch = {"labels": _counted(labels, self._attended(batch), self.causal)}
            counted.append(batch)
        return super()._get_num_items_in_batch(counted, device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the loss, and the model's outputs if asked for.

        Raises:
            ValueError: no teacher, or logits that are not (batch, tokens, vocabulary).
        """
        labels, where = inputs.get("labels"), self._attended(inputs)
        given = {k: v for k, v in inputs.items() if k not in ("labels", "teacher")}
        if self.is_encoder_decoder and "decoder_input_ids" not in given:
            bare: Any = self.accelerator.unwrap_model(model)
            given["decoder_input_ids"] = bare.prepare_decoder_input_ids_from_labels(labels)
        fused = self.fused and (self._loss_only or not return_outputs)
        outputs, student = self._answer("model", model, given, fused)
        teacher = self._said(inputs, given, isinstance(student, LastLayer))
        options: dict[str, Any] = {"attention_mask": where, "shift": self.causal}
        if num_items_in_batch is not None:
            # 0 where nothing of the step has a label: so is the sum
            options["normalizer"] = torch.as_tensor(num_items_in_batch).flatten()[0].clamp(min=1)
        if "progress" in signature(self.loss_function).parameters:
            steps = self.state.max_steps
            options["progress"] = self.state.global_step / steps if steps > 0 else 1.0
        loss = self.loss_function(student, teacher, labels, **options)
        if isinstance(student, LastLayer) and isinstance(model, FSDPModule):
            loss = loss + 0.0 * _first(outputs).sum()  # gradients are shared where outputs have one
        if not model.training and labels is not None:
            sums = _sums(student, teacher, _counted(labels, where, self.causal))
            self._sums.append(self.accelerator.gather_for_metrics(sums))
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the mean over the ranks is yet to come
        outputs = outputs if isinstance(outputs, dict) else (loss, *outputs)  # as the Trainer reads
        return (loss, outputs) if return_outputs else loss

    def _attended(self, inputs: Mapping[str, Any]) -> torch.Tensor | None:
        """Return the attention mask of the tokens with logits, where it is one of tokens."""
        name = "decoder_attention_mask" if self.is_encoder_decoder else "attention_mask"
        mask = inputs.get(name)
        return mask if mask is not None and mask.ndim == 2 else None

    def _said(self, inputs: dict[str, Any], given: dict[str, Any], fused: bool) -> Any:
        """Return what the teacher says of a batch."""
        stored = inputs.get("teacher")
        if (stored is None) == (self.teacher is None):
            needs = "teacher needs a model or a function, or None and a TeacherCollator's batches"
            raise self.checks.wrong(needs, f"{type(self.teacher).__name__} and {sorted(inputs)}")
        if stored is not None:
            return stored
        with torch.no_grad():
            if isinstance(self.teacher, nn.Module):
                mapped = bool(getattr(self.teacher, "hf_device_map", None))
                return self._answer("teacher", self.teacher, given, fused and not mapped)[1]
            said = self.teacher(given)
            said = self._prepare_input(LastLayer(*said) if type(said) is tuple else said)
            return _product(said) if isinstance(said, LastLayer) and not fused else said

    def _answer(self, name: str, model: nn.Module, given: Any, fused: bool) -> tuple[Any, Any]:
        """Return a model's outputs, and its logits or, fused, its last layer."""
        bare: Any = self.accelerator.unwrap_model(model)
        head = _plain_head(bare) if fused and self._has_plain_head.get(name, True) else None
        if head is not None:
            with _cut_before(head) as found:
                outputs = model(**given)
            layer = _last_layer(head, found, bare.config)
            if name not in self._has_plain_head:
                self._has_plain_head[name] = _is_like(layer, _first(outputs))
            if self._has_plain_head[name]:
                if self.vocabulary is not None:
                    bias = None if layer.bias is None else layer.bias[: self.vocabulary]
                    layer = layer._replace(weight=layer.weight[: self.vocabulary], bias=bias)
                return outputs, layer
            warnings.warn(
                f"TokenKDTrainer: the head of the {name} is a linear layer, but its product is not "
                "the logits, by softcap and scale: the logits are taken (fused=False)",
                stacklevel=4,
            )
        outputs = model(**given)
        logits = _first(outputs)
        if logits.ndim != 3:
            needs = f"the logits of the {name} need shape (batch, tokens, vocabulary)"
            cure = "For classifiers there is MCLDTrainer"
            raise self.checks.wrong(needs, tuple(logits.shape), cure)
        return outputs, logits if self.vocabulary is None else logits[..., : self.vocabulary]

    def evaluation_loop(
        self,
        *args: Any,
        prediction_loss_only: bool | None = None,
        metric_key_prefix: str = "eval",
        **kwargs: Any,
    ) -> Any:
        """Return what ``Trainer.evaluation_loop`` does, with perplexity and agreement."""
        if prediction_loss_only is None:
            prediction_loss_only = self.args.prediction_loss_only
        self._sums, self._loss_only = [], prediction_loss_only
        kwargs |= {"prediction_loss_only": prediction_loss_only}
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._sums:
            *sums, count = torch.cat(self._sums).sum(0).unbind()
            nats, agreement, acceptance = (float(x / count) for x in sums)
            output.metrics[f"{metric_key_prefix}_perplexity"] = float(torch.tensor(nats).exp())
            if agreement == agreement:  # not of draws
                output.metrics[f"{metric_key_prefix}_agreement"] = agreement
                output.metrics[f"{metric_key_prefix}_acceptance"] = acceptance
        self._sums, self._loss_only = [], False
        return output


def _counted(labels: torch.Tensor, where: torch.Tensor | None, causal: bool) -> torch.Tensor:
    """Return each token's label as the losses see it; -100 where the token does not count."""
    if where is not None:
        labels = labels.masked_fill(where == 0, -100)
    if causal:
        labels = functional.pad(labels[:, 1:], (0, 1), value=-100)
        labels = labels if where is None else labels.masked_fill(where == 0, -100)
    return labels


@torch.no_grad()
def _sums(student: Any, teacher: Any, labels: torch.Tensor) -> torch.Tensor:
    """Return for each row its labels' nats, how many agree, the share accepted, how many count."""
    student, teacher = (_whole(x) if isinstance(x, LastLayer) else x for x in (student, teacher))
    found = torch.zeros(*labels.shape, 4, dtype=torch.float64, device=labels.device)
    for places in (labels != -100).nonzero().split(_TOKENS):
        at = places.unbind(1)
        rows = _logits(student, at)
        nats = functional.cross_entropy(rows, labels[at], reduction="none")
        agrees = accepted = torch.full_like(nats, torch.nan)
        if not is_drawn(teacher):
            if isinstance(teacher, TopKLogits):
                parts: tuple[Any, ...] = teacher
                said: Any = TopKLogits(*(None if x is None else x[at][None] for x in parts))
                best = said.indices.gather(2, said.values.argmax(2, keepdim=True))[0, :, 0]
            else:
                said = _logits(teacher, at)[None]
                best = said[0].argmax(1)
            agrees = rows.argmax(1) == best
            apart: Any = token_kd_loss(rows[None], said, divergence="tv", reduction="none")
            accepted = 1.0 - apart[0]
        of_one = nats, agrees, accepted, torch.ones_like(nats)
        found[at] = torch.stack([x.double() for x in of_one], 1)
    return found.sum(1)


def _first(outputs: Any) -> torch.Tensor:
    """Return the logits of a model's outputs."""
    logits: torch.Tensor = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    return logits


def _logits(given: Any, at: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return the logits of some tokens."""
    if isinstance(given, LastLayer):
        return _product(given._replace(hidden=given.hidden[at])).float()
    return given[at].float()


def _plain_head(model: Any) -> nn.Linear | None:
    """Return the layer that makes logits; None where it is more than a product."""
    try:
        head = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return head if type(head) is nn.Linear else None  # adapters and quantised layers are others


@contextmanager
def _cut_before(head: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect what goes into a layer, and let the layer see the first token alone."""
    found = list[torch.Tensor]()

    def cut(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0]
        device = hidden.device.type
        if torch.is_autocast_enabled(device):
            hidden = hidden.to(torch.get_autocast_dtype(device))
        found.append(hidden)
        return (hidden[:, :1], *args[1:])

    handle = head.register_forward_pre_hook(cut)
    try:
        yield found
    finally:
        handle.remove()


def _last_layer(head: nn.Linear, found: list[torch.Tensor], config: Any) -> LastLayer:
    """Return the last layer with what the configuration says of the logits."""
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
    scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
    return LastLayer(found[0], head.weight, head.bias, softcap, scale)


def _product(layer: LastLayer) -> torch.Tensor:
    """Return the logits of a layer."""
    hidden, weight, bias, softcap, scale = layer
    logits = tokens.product(backend, hidden, weight, bias)
    return tokens.Head(scale, softcap).logits(backend, logits)


def _whole(layer: LastLayer) -> LastLayer:
    """Return a layer with what ranks share of it (FSDP2) gathered."""
    parts: Any = layer
    return LastLayer(*(x.full_tensor() if hasattr(x, "full_tensor") else x for x in parts))


@torch.no_grad()
def _is_like(layer: LastLayer, logits: torch.Tensor) -> bool:
    """Whether the first token's logits are those of the layer."""
    layer = _whole(layer)
    ours, theirs = _product(layer._replace(hidden=layer.hidden[:, :1])).float(), logits.float()
    if ours.shape != theirs.shape:
        return False
    return bool((ours - theirs).abs().max() <= 0.02 * theirs.abs().max())
