"""The tensorflow backend."""

from mcld_core.backends.tensorflow.distributed import gather_keys as gather_keys
