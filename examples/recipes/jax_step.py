"""One step of a training, compiled as a whole: teacher, student, loss, optimiser, bank."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import optax

from mcld_core import TeacherBank

from .data import Dataset
from .jax_network import Network, Variables, normalise
from .old_methods import method_loss


class State(NamedTuple):
    """What a step takes and gives back."""

    variables: Variables
    moments: Any
    bank: TeacherBank | None


class Teaching(NamedTuple):
    """What a step knows of the teacher: its arrays, or the logits of all training images."""

    variables: Variables | None = None
    table: jax.Array | None = None
    whole_set: TeacherBank | None = None


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the mean over the rows."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def optimizer(options: argparse.Namespace) -> optax.GradientTransformation:
    """Return SGD with momentum and weight decay, up to the factor −rate."""
    return optax.chain(
        optax.add_decayed_weights(options.weight_decay), optax.trace(options.momentum)
    )


def make_step(
    method: str,
    network: Network,
    teacher: Network | None,
    data: Dataset,
    options: argparse.Namespace,
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """Return ``step(state, teaching, images, labels, index, progress, rate)``.

    It gives the next state and the sums over the batch of loss, terms and right answers. The
    state is donated: its memory is used for the next one.
    """
    loss_of = method_loss(method, options, cross_entropy)
    update = optimizer(options).update

    @partial(jax.jit, donate_argnums=0)
    def step(
        state: State,
        teaching: Teaching,
        images: jax.Array,
        labels: jax.Array,
        index: jax.Array,
        progress: jax.Array,
        rate: jax.Array,
    ) -> tuple[State, dict[str, jax.Array]]:
        pixels = normalise(data, images)
        keys, bank = None, state.bank
        teacher_logits = None
        if teacher is not None:
            if teaching.table is None:
                assert teaching.variables is not None
                teacher_logits = teacher.logits(teaching.variables, pixels)
            else:
                teacher_logits = teaching.table[index]
            if teaching.whole_set is not None:
                keys = teaching.whole_set.keys(teacher_logits, labels, index=index)
            elif bank is not None:
                keys = bank.keys(teacher_logits, labels)
                bank = bank.push(teacher_logits, labels)

        def objective(params: Any) -> Any:
            variables = Variables(params, state.variables.statistics)
            logits, statistics = network.train(variables, pixels)
            loss, terms = loss_of(logits, teacher_logits, labels, progress, keys)
            return loss, (logits, statistics, terms)

        params = state.variables.params
        (loss, (logits, statistics, terms)), gradient = jax.value_and_grad(objective, has_aux=True)(
            params
        )
        directions, moments = update(gradient, state.moments, params)
        params = jax.tree.map(lambda x, direction: x - rate * direction, params, directions)
        rows = float(len(labels))
        sums = {"loss": rows * loss} | {f"term_{key}": rows * x for key, x in terms.items()}
        sums["train_accuracy"] = (logits.argmax(1) == labels).sum().astype("float32")
        return State(Variables(params, statistics), moments, bank), sums

    return step
