"""The torch backend: its operations, `MCLDLoss`, and the keys of all ranks."""

from mcld_core.torch.distributed import gather_keys as gather_keys
from mcld_core.torch.loss import MCLDLoss as MCLDLoss
