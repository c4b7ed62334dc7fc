"""MCLD in Keras' idiom, on each of Keras' backends (TensorFlow, JAX, PyTorch)."""

from importlib.util import find_spec as _find_spec

from mcld_core.backends import how_to_install as _how_to_install

try:
    import keras as keras
except ModuleNotFoundError as error:  # Keras needs one of three frameworks beside it
    _frameworks, _missing = ("jax", "torch", "tensorflow"), str(error.name).partition(".")[0]
    _framework = _missing if _missing in _frameworks else "jax"
    _others = [name for name in _frameworks if name != _missing and _find_spec(name)]
    _line = f'import os; os.environ.setdefault("KERAS_BACKEND", "{[*_others, _framework][0]}")'
    raise ImportError(
        f"mcld_core.keras needs {_missing}, which is not installed: "
        f"{_how_to_install('keras', _framework)}. Keras computes on the framework that "
        "KERAS_BACKEND names: tensorflow (the default), jax or torch. Choose it in the first "
        f"line of the program, before keras is imported: {_line}"
    ) from error

from mcld_core.keras.distiller import MCLDDistiller as MCLDDistiller
from mcld_core.keras.loss import MCLDLoss as MCLDLoss
