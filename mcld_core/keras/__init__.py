"""MCLD in Keras' idiom, on each of Keras' backends (TensorFlow, JAX, PyTorch).

Keras is imported when one of the names is first used: the exporter of this package needs none.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mcld_core.backends import how_to_install

if TYPE_CHECKING:
    from mcld_core.keras.distiller import MCLDDistiller as MCLDDistiller
    from mcld_core.keras.loss import MCLDLoss as MCLDLoss

_FRAMEWORKS = ("jax", "torch", "tensorflow")

__all__ = ["MCLDDistiller", "MCLDLoss"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_keras()
    home = "distiller" if name == "MCLDDistiller" else "loss"
    return getattr(import_module(f"{__name__}.{home}"), name)


def import_keras() -> Any:
    """Return Keras, which needs one of its three frameworks beside it; or say what to install."""
    try:
        import keras
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        framework = missing if missing in _FRAMEWORKS else "jax"
        others = [name for name in _FRAMEWORKS if name != missing and find_spec(name)]
        line = f'import os; os.environ.setdefault("KERAS_BACKEND", "{[*others, framework][0]}")'
        raise ImportError(
            f"mcld_core.keras needs {missing}, which is not installed: "
            f"{how_to_install('keras', framework)}. Keras computes on the framework that "
            "KERAS_BACKEND names: tensorflow (the default), jax or torch. Choose it in the first "
            f"line of the program, before keras is imported: {line}"
        ) from error
    return keras
