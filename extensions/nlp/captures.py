"""Teachers that DistillKit captured: its packed columns, as a stored teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mcld_core.arguments import Checks
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
        lengths = np.array([len(ids) for ids in rows["input_ids"]])  # rows: of Dataset.map
        stored = read_distillkit(rows, settings)
        return teacher_columns(stored, np.arange(lengths.max()) < lengths[:, None])
    """
    first = next((x for x in ("compressed_logprobs", "packed_indices") if x in rows), None)
    if first is None:
        raise ValueError(
            "read_distillkit: rows need 'compressed_logprobs' and 'bytepacked_indices', "
            f"or 'packed_indices', 'exact_values' and 'coeffs'; got {sorted(rows)}"
        )
    read, name = (_quantised, "d") if first == "compressed_logprobs" else (_older, "vocab_size")
    shape = (len(rows["input_ids"]), max(map(len, rows["input_ids"]), default=0), settings["k"])
    values, indices = np.zeros(shape, "float32"), np.zeros(shape, "int32")
    for b, packed in enumerate(rows[first]):
        if not len(packed):
            continue
        bits = int(settings[name] - 1).bit_length()
        ids, found = read({x: rows[x][b] for x in rows}, settings, bits)
        mass = np.exp(found).sum(-1).max()
        if ids.max() >= settings[name] or (mass > 1.1 and not logits):
            raise ValueError(
                f"read_distillkit: settings need to be those of the capture; got ids up to "
                f"{ids.max()} of {settings[name]}, and probabilities that sum to {mass:.3g} in "
                f"sample {b}. Captured logits: logits=True"
            )
        values[b, : len(ids)], indices[b, : len(ids)] = found, ids
    if logits:
        values = values - np.logaddexp.reduce(values, -1, keepdims=True)
    return with_rest(values, indices)


def _quantised(row: Mapping[str, Any], settings: Mapping[str, Any], bits: int) -> tuple[Any, Any]:
    """Return ids and values of a sample's rows."""
    import torch

    k, exact = settings["k"], settings["exact_k"]
    terms, bins = settings["polynomial_terms"] or [], settings["residual_bins"]
    parts = [(settings["exact_dtype"], exact), (settings["term_dtype"], len(terms))]
    for x in bins:
        parts.append((x["scale_dtype"], 1))
        parts.append(("uint8", -(-x["element_bits"] * x["num_elements"] // 8)))
    dtypes = [getattr(torch, name) for name, _ in parts]
    sizes = [n * dtype.itemsize for (_, n), dtype in zip(parts, dtypes, strict=True)]
    ids, packed = (
        np.asarray(row[x], "uint8") for x in ("bytepacked_indices", "compressed_logprobs")
    )
    _compare("bytes of ids and values", (ids, packed), (-(-k * bits // 8), sum(sizes)))
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


def _older(row: Mapping[str, Any], settings: Mapping[str, Any], bits: int) -> tuple[Any, Any]:
    """Return ids and values of a sample's rows, of the older format."""
    import torch

    k, exact, each = settings["k"], settings["exact_k"], 64 // bits  # so many ids in a word
    values, coefficients = (np.asarray(row[x], "float32") for x in ("exact_values", "coeffs"))
    place, sign = torch.arange(1.0, k - exact + 1), -1 if settings["invert_polynomial"] else 1
    powers = [place ** (sign * i) for i in range(settings["polynomial_degree"] + 1)]
    powers += [place.sqrt()] if settings["with_sqrt_term"] else []
    powers = powers if exact < k else []
    words = np.asarray(row["packed_indices"]).astype("uint64")
    came, needed = (values, coefficients, words), (exact, len(powers), -(-k // each))
    _compare("exact values, coefficients and words of ids", came, needed)
    if powers:
        fit = (torch.stack(powers, -1) * torch.as_tensor(coefficients)[:, None]).sum(-1)
        values = np.concatenate([values, fit.numpy()], 1)
    ids = words[..., None] >> np.arange(0, each * bits, bits, dtype="uint64")  # lowest bits first
    ids = ids & np.uint64((1 << bits) - 1)
    return ids.reshape(len(words), -1)[:, :k].astype("int64"), values


def _compare(what: str, arrays: Sequence[Any], needed: tuple[int, ...]) -> None:
    came = tuple(x.shape[-1] for x in arrays)
    if came != needed:
        needs = f"settings need to be those of the capture, {came} {what} a token"
        raise Checks("read_distillkit").wrong(needs, f"settings of {needed}")


def _unpacked(packed: np.ndarray[Any, Any], bits: int, count: int) -> np.ndarray[Any, Any]:
    """Return so many numbers of so many bits, the highest bit first, of each row of bytes."""
    each = np.unpackbits(packed, axis=1)[:, : count * bits].reshape(-1, count, bits)
    return each.astype("int64") @ (1 << np.arange(bits - 1, -1, -1, dtype="int64"))
