"""MCLD in Keras' idiom, on each of Keras' backends (TensorFlow, JAX, PyTorch).

Keras is imported when one of the names is first used: the exporter of this package needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcld_core.backends.keras.distiller import MCLDDistiller as MCLDDistiller
    from mcld_core.backends.keras.loss import MCLDDistillation as MCLDDistillation
    from mcld_core.backends.keras.loss import MCLDLoss as MCLDLoss

__all__ = ["MCLDDistillation", "MCLDDistiller", "MCLDLoss"]


def __getattr__(name: str) -> Any:
    if name == "MCLDDistiller":
        from mcld_core.backends.keras.distiller import MCLDDistiller

        return MCLDDistiller
    if name in ("MCLDDistillation", "MCLDLoss"):
        from mcld_core.backends.keras import loss

        return getattr(loss, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
