"""A stored teacher as columns of a Hugging Face ``datasets`` dataset, beside ``input_ids``.

| column | of a sample of n tokens |
|---|---|
| ``teacher_ids`` | int32, the ids of all tokens one after the other: n · k of them |
| ``teacher_logprobs`` | float16, their log-probabilities |
| ``teacher_tail`` | float32, n: log-probability of all other ids; no such column: draws |
| ``teacher_offsets`` | int32, n + 1: where each token begins; no such column: k a token |
| ``teacher_fingerprint`` | a text: of which teacher and tokenizer; no such column: not checked |

Row i is what the teacher says after token i: for ``shift=True``. DistillKit's packed columns, which
`read_distillkit` unpacks, become such too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mcld_core.arguments import Checks, to_numpy
from mcld_core.extensions.nlp.stored import TopKLogits, is_drawn, with_rest

IDS, LOGPROBS, TAIL, OFFSETS, FINGERPRINT = TEACHER_COLUMNS = (
    *("teacher_ids", "teacher_logprobs", "teacher_tail", "teacher_offsets", "teacher_fingerprint"),
)


def teacher_columns(
    teacher: TopKLogits, attention_mask: Any, *, fingerprint: str | None = None
) -> dict[str, list[Any]]:
    """Return the columns of a batch of samples: what a function of ``Dataset.map`` returns.

    A teacher of draws (`TopKLogits.from_samples`) has as many entries a token as it has distinct
    ids; every other one has k. NumPy, so that ``datasets`` infers the types of the table above.

    Args:
        teacher: `TopKLogits` with a tail, of NumPy or a framework: ``from_logits``,
            ``from_samples``, or as a server said.
        attention_mask: (batch, tokens), 1 where a token is one: padding is not stored.
        fingerprint: what `TeacherCollator` compares: a text of teacher and tokenizer, such as
            ``mcld_core.cache.fingerprint("name@revision", json.dumps(tokenizer.get_vocab()))``.

    Raises:
        ValueError: a teacher without a tail; a mask of another shape.

    Example:
        >>> import numpy as np
        >>> stored = TopKLogits.from_logits(np.log([[[0.5, 0.3, 0.2]] * 2]), k=2)
        >>> columns = teacher_columns(stored, np.array([[1, 0]]))
        >>> columns["teacher_ids"][0].tolist(), round(float(columns["teacher_tail"][0][0]), 2)
        ([0, 1], -1.61)
    """
    values, ids, where = (to_numpy(x) for x in (teacher.values, teacher.indices, attention_mask))
    drawn, shape = is_drawn(teacher), values.shape[:2]
    has_tail = drawn or getattr(teacher.tail, "shape", None) == shape
    if not has_tail or values.ndim != 3 or where.shape != shape:
        needs = "teacher needs a tail and values (batch, tokens, k), attention_mask (batch, tokens)"
        came = f"tail {type(teacher.tail).__name__}, {values.shape}, {where.shape}"
        cure = "Make the teacher by TopKLogits.from_logits or from_samples"
        raise Checks("teacher_columns").wrong(needs, came, cure)
    columns: dict[str, list[Any]] = {name: [] for name in (IDS, LOGPROBS)}
    rest = columns.setdefault(OFFSETS if drawn else TAIL, [])
    tails = None if drawn else to_numpy(teacher.tail)
    for b, counts in enumerate(where != 0):
        kept: Any = np.isfinite(values[b, counts]) if drawn else np.s_[:]
        columns[IDS].append(ids[b, counts][kept].ravel().astype("int32"))
        columns[LOGPROBS].append(values[b, counts][kept].ravel().astype("float16"))
        if tails is None:
            rest.append(np.append(0, kept.sum(-1).cumsum()).astype("int32"))
        else:
            rest.append(tails[b, counts].astype("float32"))
    if fingerprint is not None:
        columns[FINGERPRINT] = [fingerprint] * len(values)
    return columns


class TeacherCollator:
    """Collate texts by another collator, and pad their teacher columns to `TopKLogits` beside them.

    A batch holds what the other collator returns, and ``"teacher"``, tensors of PyTorch: each
    sample's rows stand where its attention mask does, so padding may be on either side.

    Args:
        collator: of the columns without the teacher's, such as ``DataCollatorForLanguageModeling``;
            it pads, and does not pack.
        fingerprint: the one that the columns must have. None: any, but one for all.

    Raises:
        ValueError: columns of another teacher or tokenizer, or of two; rows that do not fit.

    Example::

        collate = TeacherCollator(DataCollatorForLanguageModeling(tokenizer, mlm=False), mark)
        batch = collate([dataset[0], dataset[1]])
        token_kd_loss(logits, batch["teacher"], batch["labels"], shift=True)
    """

    def __init__(self, collator: Callable[[Any], Any], fingerprint: str | None = None) -> None:
        self.collator, self.fingerprint = collator, fingerprint

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return a batch of samples."""
        import torch

        checks = Checks("TeacherCollator")
        missing = [x for x in (IDS, LOGPROBS) if x not in rows[0]]
        if missing:
            needs, cure = f"samples need {missing}", "In a Trainer pass remove_unused_columns=False"
            raise checks.wrong(f"{needs} of teacher_columns", sorted(rows[0]), cure)
        found = {row.get(FINGERPRINT) for row in rows}
        if len(found) > 1 or (self.fingerprint is not None and found != {self.fingerprint}):
            needs = f"{FINGERPRINT} needs to be {self.fingerprint or 'one for all'!r}"
            cure = "The columns are of another teacher or tokenizer: write them again"
            raise checks.wrong(needs, sorted(map(str, found)), cure)
        plain = [{k: v for k, v in row.items() if k not in TEACHER_COLUMNS} for row in rows]
        batch = dict(self.collator(plain))
        mask = batch.get("attention_mask")
        if mask is None or tuple(mask.shape) != (len(rows), batch["input_ids"].shape[1]):
            came = None if mask is None else tuple(mask.shape)
            needs = "the collator needs to return an attention_mask of one row a sample"
            cure = "One that packs samples in a row cannot place the teacher's rows: pad instead"
            raise checks.wrong(needs, f"{came} for {len(rows)} samples", cure)
        padded: Any = pad_teacher(rows, to_numpy(mask) != 0)
        padded = (torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in padded)
        return batch | {"teacher": TopKLogits(*padded)}


def pad_teacher(rows: Sequence[Mapping[str, Any]], where: np.ndarray[Any, Any]) -> TopKLogits:
    """Return the teacher columns of samples as one `TopKLogits`, in NumPy.

    Args:
        rows: samples with the columns.
        where: (batch, tokens) bool, the places of each sample's tokens.

    Raises:
        ValueError: a sample of which the columns have another length than its tokens.
    """
    starts = [_starts(row, int(where[b].sum()), b) for b, row in enumerate(rows)]
    k = max((int(np.diff(x).max(initial=1)) for x in starts), default=1)
    values = np.full((*where.shape, k), -np.inf, "float32")
    indices, tail = np.zeros(values.shape, "int32"), np.full(where.shape, -np.inf, "float32")
    for b, row in enumerate(rows):
        token, column = np.nonzero(np.arange(k) < np.diff(starts[b])[:, None])
        at = b, np.flatnonzero(where[b])[token], column
        values[at], indices[at] = row[LOGPROBS], row[IDS]
        if row.get(TAIL) is not None:
            tail[b, where[b]] = np.asarray(row[TAIL])
    return TopKLogits(values, indices, -math.inf if rows[0].get(TAIL) is None else tail)


def _starts(row: Mapping[str, Any], tokens: int, b: int) -> np.ndarray[Any, Any]:
    """Return where the entries of each token begin, and the end."""
    entries, tail, offsets = len(row[IDS]), row.get(TAIL), row.get(OFFSETS)
    starts = np.arange(tokens + 1) * (entries // max(tokens, 1))
    starts = starts if offsets is None else np.asarray(offsets, "int64")
    fits = starts.size == tokens + 1 and starts[0] == 0 and (np.diff(starts) >= 0).all()
    lengths = {LOGPROBS: len(row[LOGPROBS]), TAIL: tokens if tail is None else len(tail)}
    if not fits or starts[-1] != entries or lengths != {LOGPROBS: entries, TAIL: tokens}:
        needs = f"sample {b} needs teacher columns of its {tokens} tokens"
        cure = "Cut the text before the teacher reads it, not after"
        raise Checks("TeacherCollator").wrong(needs, f"{entries} ids, lengths {lengths}", cure)
    return starts


def read_distillkit(rows: Mapping[str, Sequence[Any]], settings: Mapping[str, Any]) -> TopKLogits:
    """Read a batch of samples that DistillKit captured, in NumPy; it needs PyTorch.

    Its columns ``compressed_logprobs`` and ``bytepacked_indices`` hold exact values, a polynomial
    and quantised residuals; the values are those of its own decoder. Row i speaks of the token
    after i, for ``shift=True``; a capture of vLLM has none of the last token, whose row holds
    zeros. Its older columns (``packed_indices``) are not read.

    Args:
        rows: a batch of columns, with ``input_ids``, as a function of ``Dataset.map`` gets it.
        settings: what it was captured with: ``compression_config.yaml`` of its folder, or
            ``logprob_compressor`` of a training file, as a dict.

    Returns:
        `TopKLogits` of (samples, tokens of the longest, k), float32 and int32, which
        `teacher_columns` takes.

    Raises:
        ValueError: other columns; bytes, values or ids that are not of these settings.

    Example::

        settings = yaml.safe_load(open("captures/compression_config.yaml"))
        lengths = np.array([len(ids) for ids in rows["input_ids"]])  # rows: of Dataset.map
        stored = read_distillkit(rows, settings)
        return teacher_columns(stored, np.arange(lengths.max()) < lengths[:, None])
    """
    checks, needed = Checks("read_distillkit"), {"compressed_logprobs", "bytepacked_indices"}
    if not needed <= set(rows):
        cure = "Older captures (packed_indices) are for DistillKit's own decoder"
        raise checks.wrong(f"rows need the columns {sorted(needed)}", sorted(rows), cure)
    shape = (len(rows["input_ids"]), max(map(len, rows["input_ids"]), default=0), settings["k"])
    values, indices = np.zeros(shape, "float32"), np.zeros(shape, "int32")
    for b, packed in enumerate(rows["compressed_logprobs"]):
        if not len(packed):
            continue
        ids, found = _unpacked_row(checks, rows["bytepacked_indices"][b], packed, settings)
        mass = np.exp(found).sum(-1).max()
        if ids.max() >= settings["d"] or mass > 1.1:
            needs = "settings need to be those of the capture"
            came = f"ids up to {ids.max()} of {settings['d']}, and probabilities that sum to"
            raise checks.wrong(needs, f"{came} {mass:.3g} in sample {b}")
        values[b, : len(ids)], indices[b, : len(ids)] = found, ids
    return with_rest(values, indices)


def _unpacked_row(
    checks: Checks, ids: Any, packed: Any, settings: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Return ids and values of a sample's tokens."""
    import torch

    k, exact, bits = settings["k"], settings["exact_k"], int(settings["d"] - 1).bit_length()
    terms, bins = settings["polynomial_terms"] or [], settings["residual_bins"]
    parts = [(settings["exact_dtype"], exact), (settings["term_dtype"], len(terms))]
    for x in bins:
        parts.append((x["scale_dtype"], 1))
        parts.append(("uint8", -(-x["element_bits"] * x["num_elements"] // 8)))
    dtypes = [getattr(torch, name) for name, _ in parts]
    sizes = [n * dtype.itemsize for (_, n), dtype in zip(parts, dtypes, strict=True)]
    ids, packed = (np.asarray(x, "uint8") for x in (ids, packed))
    came, needed = (ids.shape[-1], packed.shape[-1]), (-(-k * bits // 8), sum(sizes))
    if came != needed:
        needs = f"settings need to be those of the capture, {came} bytes of ids and values a token"
        raise checks.wrong(needs, f"settings of {needed}")
    cut = zip(torch.as_tensor(packed).split(sizes, 1), dtypes, strict=True)
    values, coefficients, *rest = (x.contiguous().view(dtype) for x, dtype in cut)
    residual, start = torch.zeros(len(packed), k - exact), 0
    for x, scale, numbers in zip(bins, rest[::2], rest[1::2], strict=True):
        end, width = start + x["num_elements"], x["element_bits"]
        number = torch.as_tensor(_unpacked(numbers.numpy(), width, end - start)).float()
        number = 2 * number - 1 if width == 1 else number - 2 ** (width - 1)
        residual[:, start:end] = number * scale
        start = end
    fit = residual.to(dtypes[0])
    if terms:
        place = torch.arange(k - exact, dtype=dtypes[1])
        if settings.get("normalize_t"):
            place = torch.linspace(0, 1, k - exact, dtype=dtypes[1])
        powers = [place**x if isinstance(x, int) else getattr(torch, x)(place) for x in terms]
        fit = (torch.stack(powers, -1) * coefficients[:, None]).sum(-1) + fit
    values = torch.cat([values, fit], 1)
    if settings["delta_encoding"]:
        values = values.float().cumsum(1).to(dtypes[0])
    return _unpacked(ids, bits, k), values.float().numpy()


def _unpacked(packed: np.ndarray[Any, Any], bits: int, count: int) -> np.ndarray[Any, Any]:
    """Return so many numbers of so many bits, the highest bit first, of each row of bytes."""
    each = np.unpackbits(packed, axis=1)[:, : count * bits].reshape(-1, count, bits)
    return each.astype("int64") @ (1 << np.arange(bits - 1, -1, -1, dtype="int64"))
