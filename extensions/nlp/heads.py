"""The last layer inside a model of transformers, taken out for `linear_token_kd_loss`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mcld_core.backends import torch as backend
from mcld_core.extensions.nlp.kd import LastLayer
from mcld_core.extensions.nlp.tokens import Head
from mcld_core.extensions.nlp.tokens import product as linear


def plain_head(model: Any) -> nn.Linear | None:
    """Return the layer that makes logits; None where it is more than a product."""
    try:
        head = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return head if type(head) is nn.Linear else None  # adapters and quantised layers are others


@contextmanager
def cut_before(head: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect what goes into a layer, and let the layer see the first token alone."""
    found = list[torch.Tensor]()

    def cut(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0]
        device = hidden.device.type
        if torch.is_autocast_enabled(device):
            hidden = hidden.to(torch.get_autocast_dtype(device))
        found.append(hidden)
        return (hidden[:, :1], *args[1:])

    handle = head.register_forward_pre_hook(cut)
    try:
        yield found
    finally:
        handle.remove()


def last_layer(head: nn.Linear, found: list[torch.Tensor], config: Any) -> LastLayer:
    """Return the last layer with what the configuration says of the logits."""
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
    scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
    return LastLayer(found[0], head.weight, head.bias, softcap, scale)


def product(layer: LastLayer) -> torch.Tensor:
    """Return the logits of a layer."""
    hidden, weight, bias, softcap, scale = layer
    return Head(scale, softcap).logits(backend, linear(backend, hidden, weight, bias))


def whole(layer: LastLayer) -> LastLayer:
    """Return a layer with what ranks share of it (FSDP2) gathered."""
    parts: Any = layer
    return LastLayer(*(x.full_tensor() if hasattr(x, "full_tensor") else x for x in parts))


@torch.no_grad()
def is_like(layer: LastLayer, logits: torch.Tensor) -> bool:
    """Whether the first token's logits are those of the layer."""
    layer = whole(layer)
    ours, theirs = product(layer._replace(hidden=layer.hidden[:, :1])).float(), logits.float()
    return ours.shape == theirs.shape and bool(
        (ours - theirs).abs().max() <= 0.02 * theirs.abs().max()
    )
