"""Oracles: every formula as its definition, in loops over rows, keys and classes, in float64.

Nothing here is shaped like a vectorised implementation, so that a mistake of the library is
not repeated. `handwritten` is something else: the loss as a PyTorch user would write it, the
baseline of the benchmarks.
"""

from tests.oracles.baselines import dist_loss, dkd_loss, kd_loss, nkd_loss, rld_loss, ttm_loss
from tests.oracles.case import DEFAULTS, Case, Keys
from tests.oracles.objective import (
    category_wise,
    cross_entropy,
    instance_wise,
    mcld_loss,
    ramp,
    sample_wise,
    scale,
    terms,
)

__all__ = [
    "DEFAULTS",
    "Case",
    "Keys",
    "category_wise",
    "cross_entropy",
    "dist_loss",
    "dkd_loss",
    "instance_wise",
    "kd_loss",
    "mcld_loss",
    "nkd_loss",
    "ramp",
    "rld_loss",
    "sample_wise",
    "scale",
    "terms",
    "ttm_loss",
]
