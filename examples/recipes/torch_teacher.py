"""The frozen teacher's side of a training: its logits of a batch, and the keys to contrast with."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mcld_core import TeacherBank, TeacherCache, TeacherKeys
from mcld_core.backends.torch import gather_keys
from mcld_core.cache import fingerprint

from .data import Dataset
from .files import DataError
from .torch_inference import Pixels, predict
from .torch_ranks import Ranks


class Teacher:
    """A teacher over one training set.

    Without augmentation every epoch shows it the same images, so it answers once, from
    ``--teacher-cache`` if that has the answers; with augmentation it runs in every step.

    Args:
        model: returns logits; frozen here.
        data: the training split is used.
        options: ``crop``, ``flip``, ``teacher_cache``, ``bank_size``, ``eval_batch_size``.
        pixels: bytes to tensors.
        ranks: the processes that share each batch.
        autocast: the context of the forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        options: argparse.Namespace,
        pixels: Pixels,
        ranks: Ranks,
        autocast: Callable[[], Any],
    ) -> None:
        self.model = model.to(ranks.device).eval().requires_grad_(False)
        self.ranks, self.autocast = ranks, autocast
        self.bank: TeacherBank | None = None
        self.whole_set = options.bank_size == "all"
        self.table: Tensor | None = None
        still = not options.crop and not options.flip
        if still or self.whole_set:
            table = self._answers(data, options, pixels)
            self.table = table if still else None
            if self.whole_set:
                labels = torch.from_numpy(data.train.labels).to(ranks.device)
                self.bank = TeacherBank.from_logits(table, labels)
        if not self.whole_set and options.bank_size:
            like = torch.empty(0, device=ranks.device)
            self.bank = TeacherBank.empty(options.bank_size, data.classes, like=like)

    def _answers(self, data: Dataset, options: argparse.Namespace, pixels: Pixels) -> Tensor:
        """Return the logits of all training images, through the cache where there is one."""

        def compute() -> Tensor:
            return predict(self.model, data.train, pixels, options.eval_batch_size)

        if options.teacher_cache is None:
            return compute()
        weights = [value.cpu() for value in self.model.state_dict().values()]
        mark = fingerprint(data.name, data.train.images, data.train.labels, *weights)
        path = Path(options.teacher_cache) / f"{data.name}-{mark[:16]}.npy"
        if self.ranks.first and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = np.arange(len(data.train))
            TeacherCache.write(path, [(rows, compute())], len(rows), data.classes, fingerprint=mark)
        self.ranks.agree(None)  # wait for the file
        try:
            cache = TeacherCache.open(path, fingerprint=mark)
        except ValueError as error:
            raise DataError(str(error)) from error
        return torch.from_numpy(cache[:]).to(self.ranks.device)

    @torch.no_grad()
    def logits(self, images: Tensor, index: Tensor) -> Tensor:
        """Return the logits of this rank's images, rows ``index`` of the training split."""
        if self.table is not None:
            return self.table[index]
        with self.autocast():
            result: Tensor = self.model(images)
        return result

    def keys(self, logits: Tensor, labels: Tensor, index: Tensor) -> TeacherKeys | None:
        """Return the keys of this step, and move on the bank; None: the batch alone."""
        gathered: TeacherKeys | None = None
        rows: tuple[Any, ...] = (logits, labels, None)
        if self.ranks.world > 1:
            gathered = gather_keys(logits, labels, rows=len(logits))
            rows = gathered[:3]
        if self.bank is None:
            return gathered
        where = rows[2]
        if self.whole_set:
            keys = self.bank.keys(rows[0], rows[1], where=where, index=self._all(index))
        else:
            keys = self.bank.keys(rows[0], rows[1], where=where)
            self.bank = self.bank.push(rows[0], rows[1], where=where)
        if gathered is None:
            return keys
        return keys._replace(own_start=gathered.own_start, normalizer=gathered.normalizer)

    def _all(self, index: Tensor) -> Tensor:
        """Return the row numbers of all ranks, rank by rank."""
        if self.ranks.world == 1:
            return index
        parts = [torch.empty_like(index) for _ in range(self.ranks.world)]
        torch.distributed.all_gather(parts, index)
        return torch.cat(parts)

    def state(self) -> dict[str, Tensor] | None:
        """Return what a checkpoint has to hold: the rows of a bank that moves."""
        return None if self.bank is None or self.whole_set else self.bank._asdict()

    def restore(self, state: dict[str, Tensor] | None) -> None:
        """Take the bank back."""
        if state is not None:
            moved = {name: value.to(self.ranks.device) for name, value in state.items()}
            self.bank = TeacherBank(**moved)
