"""The objective as a PyTorch module: `MCLDLoss`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mcld_core.adapters import first_look, loss_of_step, start
from mcld_core.arguments import Arguments, Checks
from mcld_core.backends.torch import asarray
from mcld_core.bank import TeacherBank
from mcld_core.config import MCLDConfig
from mcld_core.keys import ClassMeans, TeacherKeys
from mcld_core.torch.distributed import gather_with_index, world_size
from mcld_core.typing import Array, Bool, Float, Int, Labels, Logits, Reduction, Scalar


class MCLDLoss(nn.Module):
    """`mcld_core.mcld_loss` with what a training loop has to carry: steps, a bank, other ranks.

    - **Steps.** Call `step` after ``optimizer.step()``, as you do for a learning rate scheduler:
      once per optimiser step, however many batches were accumulated. With ``total_steps`` it
      drives the warm-up of the category-wise term, ``progress = steps / total_steps``.
    - **Bank.** With ``bank_size`` the batch is also contrasted with the last ``bank_size`` rows
      of the teacher; in train mode each batch's rows then take the place of the oldest.
    - **Ranks.** Where ``torch.distributed`` runs with more than one rank, every batch is contrasted
      with the rows of all ranks, and the bank takes those of all ranks, so that it is the same on
      each. The mean over the ranks of loss and gradient, as DDP and FSDP take it, equals the
      result of one process on the joined batch. Call it on every rank, in eval mode too.
    - **First look.** The first training batch on a CPU is looked at, unless the loss is compiled:
      a warning tells of rows that look like probabilities, and of logits that are not finite; and
      another, later, of a `step` never called.

    Steps and bank are buffers: ``state_dict`` holds them, and a training resumed between two
    optimiser steps gives bit-equal losses. A call that raises changes neither. ``loss.to(device)``
    moves them with the model, and ``loss.half()`` or ``loss.bfloat16()`` stores the bank's logits
    in half precision; all else stays float32, and so does the loss, under autocast too.

    Args:
        config: the settings.
        total_steps: the optimiser steps of the whole training. None: progress is 1, that is, no
            warm-up, unless `forward` is given a progress.
        bank_size: how many teacher rows the bank holds; 0: no bank. A `TeacherBank`: its rows, such
            as those of the whole training set (`TeacherBank.from_logits`), and they stay.
        classes: the width of a row; a bank and class means need it.
        class_means: whether `mcld_core.ClassMeans` follow the batches of the training (those of all
            ranks), as keys of ``category_contrast="prototypes"``: every class in every step. Two
            buffers.
        soft_labels: whether the bank stores labels as (batch, classes), for mixed labels.
        class_prior: (classes,) counts or probabilities of the labels, see `mcld_core.mcld_loss`; a
            buffer.
        balanced: whether to train a balanced classifier: the student's logits are adjusted by the
            prior, see `mcld_core.adjust_logits`, so that the raw ones treat all classes alike.
        rows_per_rank: the largest batch of a rank, where it is known. It saves the exchange of
            sizes in each step; ``torch.compile(fullgraph=True)`` with several ranks needs it.
        dealt_in_turn: whether rank r of R has the rows r, r + R, … of the joined batch, as
            ``DistributedSampler`` deals them; False: the joined batch is the rows of rank 0, then
            those of rank 1, as accelerate has it. The bank is then that of one process, which lets
            go of its oldest rows first; all else is the same either way.

    Raises:
        ValueError, TypeError: a number out of its range, a bank without ``classes``, ``balanced``
            without a prior, a ``config`` that is not an `MCLDConfig`.

    Example:
        >>> loss_function = MCLDLoss(total_steps=100, bank_size=64, classes=10)
        >>> student, teacher = torch.randn(8, 10, requires_grad=True), torch.randn(8, 10)
        >>> loss = loss_function(student, teacher, torch.arange(8))
        >>> loss.backward()
        >>> loss_function.step()
        >>> loss_function.steps.item(), loss_function.bank.where.sum().item()
        (1, 8)
    """

    gathers = True
    """Whether other ranks' rows are keys too."""
    steps: torch.Tensor
    class_prior: torch.Tensor | None

    def __init__(
        self,
        config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
        *,
        total_steps: int | None = None,
        bank_size: int | TeacherBank = 0,
        classes: int | None = None,
        class_means: bool = False,
        soft_labels: bool = False,
        class_prior: Float[Array, " classes"] | None = None,
        balanced: bool = False,
        rows_per_rank: int | None = None,
        dealt_in_turn: bool = True,
    ) -> None:
        super().__init__()
        checks = Checks("MCLDLoss")
        prior, bank, means = start(
            "MCLDLoss", config, class_prior, balanced, total_steps=total_steps,
            bank_size=bank_size, class_means=class_means, soft_labels=soft_labels,
            classes=classes, like=torch.empty(0),
        )  # fmt: skip
        if rows_per_rank is not None:
            checks.integer("rows_per_rank", rows_per_rank, minimum=1)
        checks.flag("dealt_in_turn", dealt_in_turn)
        self.config = config
        self.total_steps = total_steps
        self.bank_size = 0 if bank is None else int(bank.vectors.shape[0])
        self.bank_moves = not isinstance(bank_size, TeacherBank)
        self.has_class_means = class_means
        self.rows_per_rank = rows_per_rank
        self.dealt_in_turn = dealt_in_turn
        self._uncounted: int | None = 0
        """Training batches before the first `step`; None after it."""
        self._has_looked = False
        self.balanced = balanced
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("class_prior", None if prior is None else torch.tensor(prior))
        for name, rows in _buffers(bank, means):
            self.register_buffer(name, asarray(rows, torch.empty(0)).clone())

    @property
    def bank(self) -> TeacherBank:
        """The bank as it stands, for its `class_means` or a look.

        Raises:
            AttributeError: there is none.
        """
        return TeacherBank(*(getattr(self, f"bank_{name}") for name in TeacherBank._fields))

    def step(self) -> None:
        """Count an optimiser step (in train mode; in eval mode it does nothing)."""
        if self.training:
            self.steps += 1
            self._uncounted = None

    def forward(
        self,
        student: Logits,
        teacher: Logits,
        labels: Labels | None = None,
        *,
        sample_weight: Float[Array, " batch"] | None = None,
        where: Bool[Array, " batch"] | None = None,
        progress: Scalar | None = None,
        index: Int[Array, " batch"] | None = None,
        pairs: Bool[Array, "batch batch"] | None = None,
        reduction: Reduction = "mean",
    ) -> torch.Tensor:
        """Return the loss of the batch, float32 (or float64).

        Args:
            student: (batch, classes), any float dtype.
            teacher: (batch, classes), any float dtype; never receives a gradient.
            labels: (batch,) int, or (batch, classes) soft, or None: the teacher's arg max.
            sample_weight: (batch,) ≥ 0.
            where: (batch,) bool, True = keep.
            progress: the part of the training that is done, 0 to 1, instead of the counted steps.
            index: (batch,) int sample ids; rows of the same sample in the bank are then left out.
            pairs: (batch, batch) bool, True = this row is compared with that one, see
                `mcld_core.mcld_loss`. All are compared with the rows of the bank and other ranks.
            reduction: ``"mean"``, ``"sum"`` or ``"none"``.

        Raises:
            ValueError, TypeError: as `mcld_core.mcld_loss`.
        """
        if progress is None:
            progress = 1.0
            if self.total_steps is not None:
                progress = (self.steps / self.total_steps).clamp(max=1.0)
        rows = student, teacher, labels, sample_weight, where
        gathered, order = None, None
        if self.gathers and world_size() > 1:
            gathered, index = gather_with_index(
                teacher,
                rows[2:],
                index if self.bank_size else None,
                ignore_index=self.config.ignore_index,
                rows=self.rows_per_rank,
                student_and_progress=(student, progress),
            )
            if self.dealt_in_turn:
                logits: Any = gathered.logits
                places = torch.arange(len(logits), device=logits.device)
                order = places.reshape(world_size(), -1).mT.reshape(-1)
        bank = self.bank if self.bank_size else None
        means = ClassMeans(self.class_means, self.class_counts) if self.has_class_means else None
        result, moved = loss_of_step(
            self,
            rows,
            gathered,
            (bank, means),
            training=self.training,
            index=index,
            order=order,
            progress=progress,
            pairs=_pairs_of_all(pairs, student, gathered, bank),
            reduction=reduction,
        )
        if self.training and not torch.compiler.is_compiling():
            if self.total_steps is not None and self._uncounted is not None:
                self._uncounted += 1
                if self._uncounted == min(max(self.total_steps, 100), 1000):
                    warnings.warn(
                        "MCLDLoss: step() needs a call after each optimizer.step(); got none in "
                        f"{self._uncounted} training batches, so the warm-up of the category-wise "
                        "term stands still",
                        UserWarning,
                        stacklevel=4,
                    )
            if torch.is_grad_enabled() and not self._has_looked:
                self._has_looked = first_look("MCLDLoss", *rows[:3], where, self.config, 4)
        with torch.no_grad():  # only now, so that a call that raises leaves nothing behind
            for name, value in _buffers(*moved):
                getattr(self, name).copy_(value)
        return result

    if TYPE_CHECKING:  # a module's says Any

        def __call__(
            self, student: Logits, teacher: Logits, labels: Labels | None = None, **settings: Any
        ) -> torch.Tensor:
            """As `forward`."""

    def extra_repr(self) -> str:
        """Return what ``print(loss)`` shows."""
        return f"{self.config}, total_steps={self.total_steps}, bank_size={self.bank_size}"

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> MCLDLoss:
        """Move the buffers; of half precision are the bank's logits alone."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in self._buffers.items():
            is_half = buffer is not None and buffer.dtype in (torch.float16, torch.bfloat16)
            if is_half and name != "bank_vectors":
                self._buffers[name] = before[name].to(buffer.device)
        return self


def _buffers(bank: TeacherBank | None, means: ClassMeans | None) -> list[tuple[str, Any]]:
    """Return the names that `MCLDLoss` gives to what there is of a bank and class means."""
    states = ("class", means), ("bank", bank)
    parts = [(prefix, state._asdict()) for prefix, state in states if state is not None]
    return [(f"{prefix}_{name}", x) for prefix, fields in parts for name, x in fields.items()]


def _pairs_of_all(
    pairs: Any, student: Logits, gathered: TeacherKeys | None, bank: TeacherBank | None
) -> torch.Tensor | None:
    """Return the pairs of the batch's rows as those of all keys: with all others, yes."""
    if pairs is None or (gathered is None and bank is None):
        return pairs
    rows, start = len(student), 0
    like: Any = None if bank is None else bank.vectors
    others = 0 if bank is None else len(like)
    if gathered is not None:
        like, start = gathered.logits, gathered.own_start
        others += len(like) - start - rows
    arguments, each = Arguments("MCLDLoss", like), "(batch, batch), one entry a pair"
    pairs = arguments.mask("pairs", pairs, like, (rows, rows), each, "compared")
    return nn.functional.pad(pairs, (start, others), value=True)
