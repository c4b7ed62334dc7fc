"""The frameworks behind one small interface, and which of them this run tests.

`MCLD_TEST_BACKENDS` (a comma list of numpy, torch, tensorflow, jax, keras) chooses; unset, it
is all that are installed. A framework asked for but missing fails the run, it never skips.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache"
QUICK_XLA = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
KNOWN = ("numpy", "torch", "tensorflow", "jax", "keras")  # torch is imported before tensorflow


def _requested() -> list[str]:
    chosen = os.environ.get("MCLD_TEST_BACKENDS", "")
    if not chosen.strip():
        return [name for name in KNOWN if is_installed(name)]
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    unknown = sorted(set(names) - set(KNOWN))
    if unknown:
        raise ValueError(f"MCLD_TEST_BACKENDS: choose from {', '.join(KNOWN)}; got {unknown}.")
    return [name for name in KNOWN if name in names]


def is_installed(name: str) -> bool:
    """Whether the framework can be found, without importing it."""
    return importlib.util.find_spec(name) is not None


WITHOUT = """
import importlib.machinery as machinery
real = machinery.PathFinder.find_spec
machinery.PathFinder.find_spec = lambda name, *rest: (
    None if name.partition(".")[0] == {missing!r} else real(name, *rest)
)
import numpy, mcld_core
try:
    {action}
except ImportError as error:
    print(error)
"""

REQUESTED = _requested()
ARRAY_BACKENDS = [name for name in REQUESTED if name != "keras"]
DIFFERENTIABLE = [name for name in ARRAY_BACKENDS if name != "numpy"]
COMPILES = not {"numpy", "torch"}.issuperset(ARRAY_BACKENDS)
"""Whether JAX, which compiles every operation once a shape, or TensorFlow is tested."""


def only(*names: str) -> list[str]:
    """Return those of the names that this run tests: for parametrisation."""
    return [name for name in names if name in REQUESTED]


def run_without(missing: str, action: str, **environment: str) -> str:
    """Run an action in a fresh interpreter without a framework; return the ImportError's text."""
    program = WITHOUT.format(missing=missing, action=action)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=True,
    )
    return done.stdout


class Framework:
    """NumPy itself, and the base of the others."""

    name = "numpy"
    dtypes: tuple[str, ...] = ("float16", "float32", "float64")

    def array(self, values: Any, dtype: str | None = None) -> Any:
        """Return the values as this framework's array; None stays None.

        `dtype` applies to floating values; integers and booleans keep theirs.
        """
        if values is None:
            return None
        values = np.asarray(values)
        return self._array(values, dtype if np.issubdtype(values.dtype, np.floating) else None)

    def _array(self, values: np.ndarray, dtype: str | None) -> Any:
        return values if dtype is None else values.astype(dtype)

    def to_numpy(self, array: Any) -> np.ndarray:
        """Return an array of this framework as NumPy, floats as float64."""
        array = np.asarray(array)
        return array if array.dtype.kind in "biu" else array.astype(np.float64)

    def dtype(self, array: Any) -> str:
        """Return the name of the dtype, such as "float32"."""
        return str(array.dtype)

    def owns(self, array: Any) -> bool:
        """Return whether the array is one of this framework's."""
        return isinstance(array, (np.ndarray, np.generic))

    def gradient(self, function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
        """Return the scalar function's value and its gradient by the first argument."""
        raise NotImplementedError("NumPy has no gradient: use a `differentiable` backend.")

    def value_and_grad(
        self, function: Callable[[Any], Any], student: Any, dtype: str = "float64"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return value and gradient at `student` (NumPy in, NumPy out)."""
        value, gradient = self.gradient(function, self.array(student, dtype))
        return self.to_numpy(value), self.to_numpy(gradient)

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function compiled in this framework's usual way."""
        return function

    def as_one(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as one program, where else each operation would be compiled."""
        return function


class Torch(Framework):
    """PyTorch."""

    name = "torch"
    dtypes = ("float16", "bfloat16", "float32", "float64")

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.torch = torch

    def _array(self, values: np.ndarray, dtype: str | None) -> Any:
        tensor = self.torch.tensor(values)
        return tensor if dtype is None else tensor.to(getattr(self.torch, dtype))

    def to_numpy(self, array: Any) -> np.ndarray:
        array = array.detach().cpu()
        return (array.double() if array.is_floating_point() else array).numpy()

    def dtype(self, array: Any) -> str:
        return str(array.dtype).removeprefix("torch.")

    def owns(self, array: Any) -> bool:
        return isinstance(array, self.torch.Tensor)

    def gradient(self, function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
        first = arguments[0].detach().clone().requires_grad_()
        value = function(first, *arguments[1:])
        (gradient,) = self.torch.autograd.grad(value, first)
        return value.detach(), gradient

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        self.torch._dynamo.reset()
        return self.torch.compile(function, fullgraph=True, backend="aot_eager")


class TensorFlow(Framework):
    """TensorFlow."""

    name = "tensorflow"
    dtypes = ("float16", "bfloat16", "float32", "float64")

    def __init__(self) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(1)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
        tensorflow.config.experimental.enable_tensor_float_32_execution(False)
        self.tf = tensorflow

    def _array(self, values: np.ndarray, dtype: str | None) -> Any:
        tensor = self.tf.constant(values)
        return tensor if dtype is None else self.tf.cast(tensor, dtype)

    def to_numpy(self, array: Any) -> np.ndarray:
        return super().to_numpy(self.tf.convert_to_tensor(array).numpy())

    def dtype(self, array: Any) -> str:
        return str(array.dtype.name)

    def owns(self, array: Any) -> bool:
        return bool(self.tf.is_tensor(array))

    def gradient(self, function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
        with self.tf.GradientTape() as tape:
            tape.watch(arguments[0])
            value = function(*arguments)
        return value, self.tf.convert_to_tensor(tape.gradient(value, arguments[0]))

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self.tf.function(function, autograph=False)


class Jax(Framework):
    """JAX, with float64 on and every implicit conversion an error.

    Most of a suite's time is XLA's, for each operation is compiled once a shape: it optimises
    little here, by its quicker emitters, and what it compiled is kept for the next run.
    """

    name = "jax"
    dtypes = ("float16", "bfloat16", "float32", "float64")

    def __init__(self) -> None:
        os.environ.setdefault("XLA_FLAGS", QUICK_XLA)
        import jax

        # each program would hold the traceback of each of its operations
        jax.config.update("jax_traceback_in_locations_limit", 0)
        jax.config.update("jax_include_full_tracebacks_in_locations", False)
        jax.config.update("jax_compilation_cache_dir", str(CACHE / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        jax.config.update("jax_enable_x64", True)
        jax.config.update("jax_numpy_rank_promotion", "raise")
        jax.config.update("jax_numpy_dtype_promotion", "strict")
        self.jax = jax

    def _array(self, values: np.ndarray, dtype: str | None) -> Any:
        return self.jax.numpy.asarray(values, dtype)

    def owns(self, array: Any) -> bool:
        return isinstance(array, self.jax.Array)

    def gradient(self, function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
        return self.jax.value_and_grad(function)(*arguments)

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self.jax.jit(function)

    def as_one(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """For shapes that few tests have: a gradient is a hundred operations and more.

        Of the usual shapes other tests have compiled most operations, and these are quicker.
        """
        return self.jax.jit(function)


_LOADED: dict[str, Framework] = {}


def load(name: str) -> Framework:
    """Return the framework's interface; an ImportError if it is not installed."""
    if name not in _LOADED:
        kinds = {"numpy": Framework, "torch": Torch, "tensorflow": TensorFlow, "jax": Jax}
        _LOADED[name] = kinds[name]()
    return _LOADED[name]
