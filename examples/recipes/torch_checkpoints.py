"""Checkpoints in PyTorch: atomic to write, safe to read (tensors and plain values only)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .files import DataError, write_atomically


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the previous one stays whole until the new one is."""
    buffer = io.BytesIO()  # where a disk is full, torch.save would raise a RuntimeError of its own
    torch.save(state, buffer)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()) and None)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. No code in it can run: ``weights_only=True``.

    Raises:
        DataError: no file, or a damaged one.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except Exception as error:  # torch raises a dozen types for a damaged file
        raise DataError(
            f"{path} is no readable checkpoint ({error}); delete it or pass another file"
        ) from error
    return state


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a model from a student-only checkpoint, a training checkpoint or a bare state dict."""
    state = load(path)
    weights = state.get("model", state)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{path} does not fit the model: {error}") from error
