"""The jax backend."""

from mcld_core.jax.distributed import gather_keys as gather_keys
