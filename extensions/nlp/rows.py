"""What every loss of tokens does first: logits, labels and masks become rows."""

from __future__ import annotations

from typing import Any

from mcld_core.arguments import fits
from mcld_core.extensions._sequences import SequenceArguments, Sequences, following
from mcld_core.extensions._stored import TopKLogits, arrays_of, logit_rows


def token_rows(
    arguments: SequenceArguments,
    given: tuple[Any, Any, Any, Any],
    shift: bool,
    ignore_index: int,
) -> Sequences:
    """Return the tokens as rows, checked.

    ``given`` are the student's logits, the teacher's, the labels and the attention mask.
    """
    student, teacher, labels, attention_mask = given
    student, theirs = arguments.tensors(student, arrays_of(teacher)[0])
    shape = tuple(theirs.shape)
    if isinstance(teacher, TopKLogits):
        shape = (*shape[:2], student.shape[-1])
    _check_shapes(arguments.function, tuple(student.shape), shape)
    if labels is not None:
        labels = arguments.flat_labels("labels", labels, student)
    beside = labels, arguments.flat_mask("attention_mask", attention_mask, student)
    if shift:
        beside = following(arguments.ops, student, *beside)
    return logit_rows(arguments, (student, theirs), teacher, beside, ignore_index)


def _check_shapes(function: str, ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> None:
    for argument, shape in (("student_logits", ours), ("teacher_logits", theirs)):
        if len(shape) != 3:
            raise ValueError(
                f"{function}: {argument} needs three axes (batch, tokens, vocab); got {shape}. "
                "For one row of logits a text use mcld_core.mcld_loss"
            )
    if not fits(ours[2:], theirs[2:]):
        raise ValueError(
            f"{function}: student_logits and teacher_logits need the same vocabulary; got {ours} "
            f"and {theirs}. Map the teacher's first: mcld_core.extensions.nlp.align_vocabulary"
        )
    if not fits(ours, theirs):
        raise ValueError(
            f"{function}: student_logits and teacher_logits need the same shape; got {ours} and "
            f"{theirs}"
        )
