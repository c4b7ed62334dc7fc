"""The settings of the objective."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from mcld_core.arguments import Checks, plain_number
from mcld_core.formulas.similarity import SIMILARITIES
from mcld_core.typing import Scalar

CATEGORY_CONTRASTS = ("labels", "prototypes", "columns")


@dataclass(frozen=True)
class MCLDConfig:
    """The settings of the objective. Frozen and hashable: under ``jax.jit`` it is static.

    Numbers of NumPy become Python's.

    Args:
        weight_instance: weight of the instance-wise term; a weight of 0 skips its term.
        weight_sample: weight of the sample-wise term, the loss of DKD.
        weight_category: weight of the category-wise term, before its warm-up.
        weight_ce: weight of the cross-entropy with the labels (off by default).
        similarity: ``"probability"`` (raw student logits against teacher probabilities),
            ``"pearson"``, ``"cosine"`` or ``"dot"``.
        temperature: τ of the similarity; None: 1, 0.1, 0.1 and the number of classes.
        key_temperature: temperature of the teacher's probabilities as keys.
        sample_temperature: T of the sample-wise term (its rows carry T²).
        target_mask: leave same-label keys out of the instance-wise negatives.
        soft_targets: the instance-wise term has the teacher's similarity of two samples as its
            targets, and not the own sample alone; labels, ``target_mask`` and a class prior then
            play no part in it.
        sample_target_mask: split the label's entry off in the sample-wise term.
        beta: weight of the non-target part of the sample-wise term.
        category_contrast: ``"labels"``, ``"prototypes"`` or ``"columns"``.
        category_warmup: the part of the training over which the category-wise term comes in
            (above 1: it is not all in at the end).
        ignore_index: rows with this int label are dropped.
        block_size: anchor rows evaluated at once where the gradient is formed in the forward
            pass; ``"auto"`` chooses, None takes all rows and lets the framework differentiate.
            A weight or temperature that is a trained tensor, or a tracer, takes all rows at once
            whatever this says. JAX's forward mode (``jax.jvp``, ``jacfwd``) needs None.

    Raises:
        ValueError: a value out of its range or not finite (checked where it is a Python number).
        TypeError: None (but for ``temperature``), a text or a list where a number belongs.
    """

    weight_instance: Scalar = 1.0
    weight_sample: Scalar = 0.25
    weight_category: Scalar = 1.0
    weight_ce: Scalar = 0.0
    similarity: str = "probability"
    temperature: Scalar | None = None
    key_temperature: Scalar = 1.0
    sample_temperature: Scalar = 4.0
    target_mask: bool = True
    soft_targets: bool = False
    sample_target_mask: bool = True
    beta: Scalar = 1.0
    category_contrast: str = "labels"
    category_warmup: Scalar = 1.0
    ignore_index: int = -100
    block_size: int | str | None = "auto"

    def __post_init__(self) -> None:
        checks = Checks("MCLDConfig")
        for field in fields(self):
            name, value = field.name, plain_number(getattr(self, field.name))
            object.__setattr__(self, name, value)
            if name.startswith(("weight_", "beta", "category_warmup")):
                checks.number(name, value, minimum=0.0)
            elif name.endswith("temperature") and not (name == "temperature" and value is None):
                checks.number(name, value, above=0.0)
            elif isinstance(field.default, bool):
                checks.flag(name, value)
        checks.choice("similarity", self.similarity, tuple(SIMILARITIES))
        checks.choice("category_contrast", self.category_contrast, CATEGORY_CONTRASTS)
        checks.integer("ignore_index", self.ignore_index)
        size = self.block_size
        rows = isinstance(size, int) and not isinstance(size, bool) and size > 0
        if size != "auto" and size is not None and not rows:
            raise checks.wrong("block_size needs 'auto', None or an int > 0", repr(size))

    def only(self, **weights: Scalar) -> MCLDConfig:
        """Return the settings with these weights, such as ``ce=1.0``, and 0 for all others."""
        names = [field.name for field in fields(self) if field.name.startswith("weight_")]
        return replace(self, **{name: weights.get(name[len("weight_") :], 0.0) for name in names})

    @property
    def compares_distributions(self) -> bool:
        """Whether the keys are distributions, ``softmax(t / T_key)``: the similarity says it."""
        return SIMILARITIES[self.similarity].of_distributions
