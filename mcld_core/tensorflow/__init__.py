"""The tensorflow backend."""

from mcld_core.tensorflow.distributed import gather_keys as gather_keys
