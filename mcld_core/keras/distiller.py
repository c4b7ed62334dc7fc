"""`MCLDDistiller`: MCLD with Keras' ``fit``, with labels, weights, the warm-up and a bank."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import Any

import keras
from keras import ops

from mcld_core.adapters import first_look, loss_of_step, start
from mcld_core.arguments.checks import Checks, is_number
from mcld_core.bank import TeacherBank
from mcld_core.config import MCLDConfig
from mcld_core.formulas.objective import TERMS
from mcld_core.keras.loss import as_rows, prior_config
from mcld_core.losses import mcld_loss
from mcld_core.typing import Array, Float, Labels, Logits

_SAME_ON_REPLICAS: dict[str, Any] = {"trainable": False, "aggregation": "only_first_replica"}


@keras.saving.register_keras_serializable("mcld")
class MCLDDistiller(keras.distillation.Distiller):
    """Train a student with ``fit`` to match a teacher by MCLD.

    A `keras.distillation.Distiller` whose loss gets what Keras' own do not: the labels (int,
    (batch,) or (batch, 1), or one-hot or soft, (batch, classes)), ``sample_weight`` and
    ``class_weight``. Without labels the teacher's arg max stands for them. Both models return
    logits, (batch, classes); a float32 teacher may teach a half-precision student.

    The log shows, with each batch weighted by its rows:

    - ``loss`` and ``total_loss``: what is minimised, MCLD and the student's regularisers;
    - ``distillation_loss``: MCLD alone, `mcld_core.mcld_loss` with ``reduction="mean"``;
    - ``student_loss``: the loss given to ``compile``, or the cross-entropy of the logits, with the
      student's regularisers. It is shown and not minimised (``student_loss_weight`` is 0; set
      ``config.weight_ce`` to add cross-entropy).

    ``evaluate`` with labels does not run the teacher: its ``loss`` is the ``student_loss``; without
    any it is MCLD. ``fit`` changes nothing of the student but its trained weights and its layers'
    own statistics, ``evaluate`` nothing at all. After training use ``distiller.student``.

    Under a ``tf.distribute`` strategy (the models and the distiller made in its scope) each replica
    contrasts with the teacher's rows of all replicas, and the training is that of the joined batch
    on one device.

    Args:
        teacher: a model that returns logits; frozen, always called with ``training=False``.
        student: a model that returns logits of the same classes.
        config: the settings; None: ``MCLDConfig()``.
        total_steps: training steps (batches) of the whole training; the category-wise term ramps
            up over the part ``config.category_warmup`` of them. The steps done are a variable of
            the model, saved with it. None: no warm-up.
        bank_size: teacher rows of earlier batches to contrast with as well, in a `TeacherBank`
            that is saved with the model. 0: the batch's own rows only. A `TeacherBank`: its rows,
            such as those of the whole training set (`TeacherBank.from_logits`), and they stay.
        class_means: whether `mcld_core.ClassMeans` follow the batches of the training, as keys of
            ``category_contrast="prototypes"``: every class in every step. Saved with the model.
        soft_labels: whether the bank stores soft labels; needed where ``y`` is one-hot or soft.
        show_terms: also log the parts of MCLD, unweighted: ``term_instance``, ``term_sample``,
            ``term_category`` (``term_ce`` where it is used) and ``term_ramp``.
        evaluate_distillation: also run the teacher in ``evaluate``; its ``loss`` is then MCLD.
        class_prior: (classes,) counts or probabilities of the labels, see `mcld_core.mcld_loss`.
        balanced: whether to train a balanced classifier, see `mcld_core.adjust_logits`.
        name: the model's name.
        **kwargs: as for every `keras.Model`.

    Raises:
        ValueError: models whose shapes do not fit each other, ``total_steps`` < 1,
            ``bank_size`` < 0, class means without prototypes, or a bank or class means for a
            student whose output shape is not known yet.

    Warns:
        UserWarning: a model that ends in a softmax, as those of keras.applications do; at the
            first eager training step on a CPU, logits that are not finite or look like
            probabilities.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from mcld_core.keras import MCLDDistiller
        >>> def model(units):
        ...     return keras.Sequential(
        ...         [keras.Input((4,)), keras.layers.Dense(units), keras.layers.Dense(3)]
        ...     )
        >>> distiller = MCLDDistiller(model(32), model(2), total_steps=2)
        >>> distiller.compile("sgd")
        >>> x, y = np.eye(4, dtype="float32"), np.array([0, 1, 2, 0])
        >>> history = distiller.fit(x, y, epochs=2, verbose=0)
        >>> sorted(history.history)
        ['distillation_loss', 'loss', 'student_loss', 'total_loss']
    """

    # Keras' Distiller demands a student loss and cannot be compiled again after loading.
    compile = keras.Model.compile

    def __init__(
        self,
        teacher: keras.Model,
        student: keras.Model,
        config: MCLDConfig | None = None,
        *,
        total_steps: int | None = None,
        bank_size: int | TeacherBank = 0,
        class_means: bool = False,
        soft_labels: bool = False,
        show_terms: bool = False,
        evaluate_distillation: bool = False,
        class_prior: Any = None,
        balanced: bool = False,
        name: str = "mcld_distiller",
        **kwargs: Any,
    ) -> None:
        checks = Checks("MCLDDistiller")
        checks.flag("show_terms", show_terms)
        checks.flag("evaluate_distillation", evaluate_distillation)
        for side, model in (("teacher", teacher), ("student", student)):
            count = len(getattr(model, "outputs", None) or [0])
            if count > 1:
                cure = "Take one: keras.Model(model.input, model.outputs[0])"
                raise checks.wrong(f"{side} needs one output, of logits", count, cure)
            if _ends_in_softmax(model):
                warnings.warn(
                    f"MCLDDistiller: the {side} ends in a softmax, and the loss takes logits. "
                    "Build it without (keras.applications: classifier_activation=None)",
                    UserWarning,
                    stacklevel=2,
                )
        config = MCLDConfig() if config is None else config
        prior, bank, means = start(
            "MCLDDistiller", config, class_prior, balanced, total_steps=total_steps,
            bank_size=bank_size, class_means=class_means, soft_labels=soft_labels,
            classes=getattr(student, "output_shape", (None,))[-1], like=ops.zeros((), "float32"),
        )  # fmt: skip
        super().__init__(
            teacher,
            student,
            distillation_losses=keras.distillation.LogitsDistillation(),  # Keras asks for one
            student_loss_weight=0.0,
            name=name,
            **kwargs,
        )
        self._has_looked = False
        self.config = config
        self.total_steps = total_steps
        self.bank_size = 0 if bank is None else int(bank.vectors.shape[0])
        self.bank_moves = not isinstance(bank_size, TeacherBank)
        self.soft_labels = bank is not None and len(bank.labels.shape) == 2
        self.show_terms = show_terms
        self.evaluate_distillation = evaluate_distillation
        self.class_prior = prior
        self.balanced = balanced
        self.steps_done = self.add_weight(
            (), "zeros", dtype="int32", name="steps_done", **_SAME_ON_REPLICAS
        )
        self.bank = None if bank is None else State(bank)
        self.class_means = None if means is None else State(means)
        has_ce = not (is_number(config.weight_ce) and config.weight_ce == 0)
        names = [name for name in TERMS if name != "ce" or has_ce]
        names = [*names, "ramp"] if show_terms else []
        self.term_trackers = {name: keras.metrics.Mean(name=f"term_{name}") for name in names}
        self._not_computed: tuple[str, ...] = ()
        self.built = teacher.built and student.built  # so that weights can be loaded at once

    def compute_loss(
        self,
        x: Any = None,
        y: Labels | None = None,
        y_pred: Logits | None = None,
        sample_weight: Float[Array, " batch"] | None = None,
        training: bool = True,
    ) -> Array:
        """Return the loss to minimise, and update the three trackers and the step counter.

        Args:
            x: the models' input.
            y: (batch,) or (batch, 1) int, (batch, classes) one-hot or soft, or None.
            y_pred: (batch, classes), the student's logits; None: it is called.
            sample_weight: (batch,) ≥ 0; ``class_weight`` of ``fit`` arrives here too.
            training: whether this is a training step.
        """
        if y_pred is None:
            y_pred = self(x, training=training)
        regularisers = self.losses  # before the teacher adds its own
        labels = None if y is None else as_rows(ops.convert_to_tensor(y))
        if sample_weight is not None:
            sample_weight = as_rows(ops.convert_to_tensor(sample_weight))
        rows = ops.shape(y_pred)[0]

        if y is not None:
            if self.loss is not None:
                given = (x, y, y_pred, sample_weight, training)
                loss = keras.Model.compute_loss(self, *given) * replicas()
            else:
                config = self.config.only(ce=1.0)  # no teacher: its terms weigh nothing
                loss = mcld_loss(y_pred, y_pred, labels, config=config, sample_weight=sample_weight)
                loss = _add_losses(loss, regularisers)
            self.student_loss_tracker.update_state(loss, rows)
            if not (training or self.evaluate_distillation):
                names = (tracker.name for tracker in self.term_trackers.values())
                self._not_computed = ("distillation_loss", "total_loss", *names)
                return loss / replicas()  # Keras adds the replicas up
        self._not_computed = ("student_loss",) if y is None else ()
        loss, terms = self._distilled(x, y_pred, labels, sample_weight, training)
        total_loss = _add_losses(loss, regularisers)
        rows = _mean_over_replicas(rows)  # as each loss is a part of their mean
        self.distillation_loss_tracker.update_state(loss, rows)
        self.total_loss_tracker.update_state(total_loss, rows)
        for name, tracker in self.term_trackers.items():
            tracker.update_state(terms[name], rows)
        return total_loss / replicas()

    def get_metrics_result(self) -> dict[str, Any]:
        """Return the metrics, without the trackers that this pass does not compute."""
        results = super().get_metrics_result()
        return {name: value for name, value in results.items() if name not in self._not_computed}

    def get_config(self) -> dict[str, Any]:
        """Return what the constructor needs to make this model again."""
        config = super().get_config()
        for fixed in ("distillation_losses", "distillation_loss_weights", "student_loss_weight"):
            del config[fixed]
        names = ("total_steps", "bank_size", "bank_moves", "soft_labels", "show_terms")
        own = {name: getattr(self, name) for name in (*names, "evaluate_distillation")}
        own |= {"config": asdict(self.config), "class_means": self.class_means is not None}
        return {**config, **own, **prior_config(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MCLDDistiller:
        """Make the model that `get_config` described."""
        settings = {**config, "config": MCLDConfig(**config["config"])}
        for name in ("teacher", "student"):
            settings[name] = keras.saving.deserialize_keras_object(config[name])
        moves = settings.pop("bank_moves", True)
        distiller = cls(**settings)
        distiller.bank_moves = moves
        return distiller

    def _distilled(
        self, x: Any, y_pred: Logits, labels: Labels | None, weight: Array | None, training: bool
    ) -> tuple[Array, dict[str, Array]]:
        """Return MCLD and its terms; a training step moves bank, means and the step counter."""
        teacher_logits = self.teacher(x, training=False)
        progress: Any = 1.0
        if self.total_steps is not None:
            progress = ops.minimum(ops.cast(self.steps_done, "float32") / self.total_steps, 1.0)
        gathered = None
        if replicas() > 1:
            from mcld_core.tensorflow.distributed import gather_keys

            given: Any = {"sample_weight": weight, "ignore_index": self.config.ignore_index}
            gathered = gather_keys(teacher_logits, labels, **given)
        bank, means = (None if x is None else x.value for x in (self.bank, self.class_means))
        rows = y_pred, teacher_logits, labels, weight, None
        settings = {"training": training, "progress": progress, "return_terms": True}
        (loss, terms), moved = loss_of_step(self, rows, gathered, (bank, means), **settings)
        if training and not self._has_looked:
            self._has_looked = first_look("MCLDDistiller", *rows[:3], None, self.config, 2)
        # only now, so that a call that raises leaves nothing behind; all replicas hold the same
        for state, new in zip((self.bank, self.class_means), moved, strict=True):
            if state is not None and new is not None:
                state.assign(new)
        if training:
            self.steps_done.assign_add(1)
        return loss, terms

    def _validate_dtype_compatibility(self, teacher: keras.Model, student: keras.Model) -> None:
        """Accept models of two dtypes (Keras refuses them): the loss converts to float32."""


class State(keras.layers.Layer):
    """Variables that are neither trained nor cast, and are the same on every replica.

    Args:
        start: the `TeacherBank` or the `ClassMeans` that they hold at first, numbers in float32.
    """

    def __init__(self, start: Any) -> None:
        super().__init__(name=type(start).__name__.lower(), trainable=False)
        self._kind = type(start)
        self._fields = []
        for name, value in start._asdict().items():
            dtype = keras.backend.standardize_dtype(value.dtype)
            variable = self.add_weight(
                shape=value.shape,
                initializer=lambda shape, dtype, value=value: ops.cast(value, dtype),
                dtype="float32" if "float" in dtype else dtype,
                autocast=False,
                name=name,
                **_SAME_ON_REPLICAS,
            )
            self._fields.append(variable)
        self.built = True

    @property
    def value(self) -> Any:
        """The bank or the means, in tensors of Keras' backend, in TensorFlow's graphs too."""
        return self._kind(*(ops.convert_to_tensor(field.value) for field in self._fields))

    def assign(self, state: Any) -> None:
        """Take over a bank or means of the same shape."""
        for field, new in zip(self._fields, state, strict=True):
            field.assign(new)


def _add_losses(loss: Array, more: list[Array]) -> Array:
    for other in more:
        loss = loss + ops.cast(ops.sum(other), loss.dtype)
    return loss


def replicas() -> int:
    """How many replicas run this step together: those of the ``tf.distribute`` strategy."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def _mean_over_replicas(rows: Any) -> Any:
    if replicas() == 1:
        return rows
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, tf.cast(rows, "float32"))


def _ends_in_softmax(model: Any) -> bool:
    """Whether a model's output is seen to come from a softmax."""
    outputs = getattr(model, "outputs", None)
    while outputs:
        history = outputs[0]._keras_history
        last = history.operation
        if not isinstance(last, keras.Model):
            activation = getattr(last, "activation", None)
            return activation is keras.activations.softmax or type(last).__name__ == "Softmax"
        outputs = (last.outputs or ())[history.tensor_index :]
    return False
