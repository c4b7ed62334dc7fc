"""The last layer of a language model: what makes logits of hidden states."""

from __future__ import annotations

from typing import NamedTuple

from mcld_core.arguments import fits
from mcld_core.extensions._sequences import SequenceArguments
from mcld_core.typing import Array, Float, Scalar


class LastLayer(NamedTuple):
    """Hidden states and the layer of which they make logits: ``c tanh(a (W h + b) / c)``.

    Args:
        hidden: (batch, tokens, width), what the layer takes.
        weight: (vocab, width), as a linear layer of torch has it.
        bias: (vocab,).
        softcap: c, as in Gemma 2; None: none.
        scale: a, as in Cohere; Granite's ``logits_scaling`` is 1/a.
    """

    hidden: Float[Array, "batch tokens width"]
    weight: Float[Array, "vocab width"]
    bias: Float[Array, " vocab"] | None = None
    softcap: float | None = None
    scale: Scalar = 1.0


def checked_layer(arguments: SequenceArguments, of: str, layer: LastLayer) -> LastLayer:
    """Return a layer, converted; raise unless shapes, dtypes, devices and numbers fit."""
    function, ops = arguments.function, arguments.ops
    names = [f"{of}{name}" for name in ("hidden", "weight", "bias")]
    hidden = arguments.array(names[0], layer.hidden, arguments.like)
    weight = _gathered(arguments, names[1], arguments.array(names[1], layer.weight, hidden))
    ours, theirs = tuple(hidden.shape), tuple(weight.shape)
    if len(ours) != 3 or len(theirs) != 2 or not theirs[0] or not fits(ours[2:], theirs[1:]):
        raise ValueError(
            f"{function}: {names[0]} and {names[1]} need shapes (batch, tokens, width) and (vocab, "
            f"width), as a linear layer of torch has them; got {ours} and {theirs}"
        )
    bias = layer.bias
    if bias is not None:
        each = f"one entry a row of {names[1]}"
        bias = arguments.shaped(names[2], bias, hidden, theirs[:1], each)
        bias = _gathered(arguments, names[2], bias)
    for name, x in zip(names, (hidden, weight, bias), strict=True):
        if x is not None and "float" not in ops.dtype(x):
            raise TypeError(f"{function}: {name} needs a float dtype; got {ops.dtype(x)}")
        if x is not None:
            arguments.device(name, x, hidden, names[0])
    if layer.softcap is not None:
        arguments.number(f"{of}softcap", layer.softcap, above=0.0)
    arguments.number(f"{of}scale", layer.scale)
    return LastLayer(hidden, weight, bias, layer.softcap, layer.scale)


def _gathered(arguments: SequenceArguments, name: str, x: Array) -> Array:
    """Return a parameter that ranks share (FSDP2) as a whole, its gradient the ranks' mean."""
    if not hasattr(x, "full_tensor"):
        return x
    from torch.distributed.tensor import Partial

    if x.device_mesh.ndim != 1:
        raise TypeError(
            f"{arguments.function}: {name} is a DTensor on a mesh of {x.device_mesh.ndim} axes; "
            "pass its full_tensor(), with the grad_placements that the mesh needs"
        )
    whole, ranks = x.full_tensor(grad_placements=[Partial()]), x.device_mesh.size()
    if whole.requires_grad:
        whole.register_hook(lambda gradient: gradient / ranks)
    return whole
