"""The jax backend."""

from mcld_core.backends.jax.distributed import gather_keys as gather_keys
