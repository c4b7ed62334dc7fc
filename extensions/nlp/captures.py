"""Teachers that DistillKit captured: its packed columns, as a stored teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mcld_core.extensions.nlp.stored import TopKLogits, with_rest


def read_distillkit(
    rows: Mapping[str, Sequence[Any]], settings: Mapping[str, Any], *, logits: bool = False
) -> TopKLogits:
    """Read a batch of samples that DistillKit captured, in NumPy; it needs PyTorch.

    Both of its formats are read: ``compressed_logprobs`` and ``bytepacked_indices`` (exact values,
    a polynomial, quantised residuals), and the older ``packed_indices``, ``exact_values`` and
    ``coeffs``. The values are those of its own decoder. Row i speaks of the token after i, for
    ``shift=True``; a capture of vLLM has none of the last token, whose row holds zeros.

    Args:
        rows: a batch of columns, with ``input_ids``, as a function of ``Dataset.map`` gets it.
        settings: what it was captured with: ``compression_config.yaml`` of its folder, or
            ``logprob_compressor`` or ``legacy_logit_compression`` of a training file, as a dict.
        logits: whether the values are logits and not log-probabilities, as in some of the older
            format: all mass is then of the k.

    Returns:
        `TopKLogits` of (samples, tokens of the longest, k), float32 and int32, which
        `teacher_columns` takes.

    Raises:
        ValueError: other columns; bytes, values or ids that are not of these settings.

    Example::

        settings = yaml.safe_load(open("captures/compression_config.yaml"))
        data = load_dataset("parquet", data_files="captures/*.parquet", split="train")

        def convert(rows):
            stored = read_distillkit(rows, settings)
            lengths = np.array([len(ids) for ids in rows["input_ids"]])
            return teacher_columns(stored, np.arange(lengths.max()) < lengths[:, None])

        data = data.map(convert, batched=True, remove_columns=["compressed_logprobs", …])
    """
    names = ("compressed_logprobs", "bytepacked_indices", "packed_indices")
    first = next((x for x in (names[0], names[2]) if x in rows), None)
    if first is None:
        raise ValueError(
            f"read_distillkit: rows need the columns {names[:2]}, or {names[2]!r}, 'exact_values' "
            f"and 'coeffs'; got {sorted(rows)}"
        )
    k, read = int(settings["k"]), _quantised if first == names[0] else _older
    shape = (len(rows["input_ids"]), max(map(len, rows["input_ids"]), default=0), k)
    values, indices = np.zeros(shape, "float32"), np.zeros(shape, "int32")
    for b, packed in enumerate(rows[first]):
        if len(packed):
            ids, logprobs = read({x: rows[x][b] for x in rows}, settings)
            size = int(settings["d" if first == names[0] else "vocab_size"])
            if ids.max() >= size or (not logits and np.exp(logprobs).sum(-1).max() > 1.1):
                raise ValueError(
                    f"read_distillkit: settings need to be those of the capture; got ids up to "
                    f"{ids.max()} of {size}, and probabilities that sum to "
                    f"{np.exp(logprobs).sum(-1).max():.3g} in sample {b}. Captured logits: "
                    "logits=True"
                )
            values[b, : len(ids)], indices[b, : len(ids)] = logprobs, ids
    if logits:
        peak = values.max(-1, keepdims=True)
        values = values - peak - np.log(np.exp(values - peak).sum(-1, keepdims=True))
    return with_rest(values, indices)


def _quantised(row: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return ids and values of a sample's rows."""
    import torch

    k, exact, terms = settings["k"], settings["exact_k"], settings["polynomial_terms"] or []
    bins, bits = settings["residual_bins"], int(settings["d"] - 1).bit_length()
    packed = torch.as_tensor(np.asarray(row["compressed_logprobs"], "uint8"))
    dtype, of_terms = (getattr(torch, settings[x]) for x in ("exact_dtype", "term_dtype"))
    scales = [getattr(torch, x["scale_dtype"]) for x in bins]
    sizes = [exact * dtype.itemsize, len(terms) * of_terms.itemsize]
    for scale, x in zip(scales, bins, strict=True):
        sizes += [scale.itemsize, -(-x["element_bits"] * x["num_elements"] // 8)]
    ids = np.asarray(row["bytepacked_indices"], "uint8")
    if packed.shape[1] != sum(sizes) or ids.shape != (len(packed), -(-k * bits // 8)):
        raise ValueError(
            f"read_distillkit: settings need {packed.shape[1]} and {ids.shape[-1]} bytes a token; "
            f"got settings of {sum(sizes)} and {-(-k * bits // 8)}. They are those that the capture"
            " was made with"
        )
    first, coefficients, *rest = (x.contiguous() for x in packed.split(sizes, 1))
    residual, start = torch.zeros(len(packed), k - exact), 0
    for i, (scale, x) in enumerate(zip(scales, bins, strict=True)):
        end, width = start + x["num_elements"], x["element_bits"]
        number = torch.as_tensor(_unpacked(rest[2 * i + 1].numpy(), width, end - start)).float()
        number = 2 * number - 1 if width == 1 else number - 2 ** (width - 1)
        residual[:, start:end] = number * rest[2 * i].view(scale)
        start = end
    values = residual.to(dtype)
    if terms:
        place = torch.arange(k - exact, dtype=of_terms)
        if settings.get("normalize_t", False):
            place = torch.linspace(0, 1, k - exact, dtype=of_terms)
        powers = [place**x if isinstance(x, int) else getattr(torch, x)(place) for x in terms]
        fit = (torch.stack(powers, -1) * coefficients.view(of_terms)[:, None]).sum(-1)
        values = fit + values
    values = torch.cat([first.view(dtype), values], 1)
    if settings["delta_encoding"]:
        values = values.float().cumsum(1).to(dtype)
    return _unpacked(ids, bits, k), values.float().numpy()


def _older(row: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return ids and values of a sample's rows, of the older format."""
    import torch

    k, bits = settings["k"], int(settings["vocab_size"] - 1).bit_length()
    each = 64 // bits  # ids in a word of 64 bits, the first in the lowest
    exact, coefficients = (
        torch.as_tensor(np.asarray(row[x], "float32")) for x in ("exact_values", "coeffs")
    )
    place = torch.arange(1.0, k - settings["exact_k"] + 1)
    sign = -1 if settings.get("invert_polynomial", True) else 1
    powers = [place ** (sign * i) for i in range(settings["polynomial_degree"] + 1)]
    powers += [place.sqrt()] if settings.get("with_sqrt_term") else []
    words = np.asarray(row["packed_indices"]).astype("uint64")
    came = exact.shape[1], coefficients.shape[1], words.shape[1]
    needed = settings["exact_k"], len(powers) * (len(place) > 0), -(-k // each)
    if came != needed:
        raise ValueError(
            f"read_distillkit: settings need {came} exact values, coefficients and words a token; "
            f"got settings of {needed}"
        )
    if len(place):
        fit = (torch.stack(powers, -1) * coefficients[:, None]).sum(-1)
        exact = torch.cat([exact, fit], 1)
    ids = words[..., None] >> np.arange(0, each * bits, bits, dtype="uint64")
    ids = ids & np.uint64((1 << bits) - 1)
    return ids.reshape(len(words), -1)[:, :k].astype("int64"), exact.numpy()


def _unpacked(packed: np.ndarray[Any, Any], bits: int, count: int) -> np.ndarray[Any, Any]:
    """Return so many numbers of so many bits, the highest bit first, of each row of bytes."""
    each = np.unpackbits(packed, axis=1)[:, : count * bits].reshape(-1, count, bits)
    return each.astype("int64") @ (1 << np.arange(bits - 1, -1, -1, dtype="int64"))
