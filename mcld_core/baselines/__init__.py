"""Baselines to compare with, each credited to its authors."""

from mcld_core.baselines.decoupled import dkd_loss as dkd_loss
from mcld_core.baselines.decoupled import nkd_loss as nkd_loss
from mcld_core.baselines.decoupled import rld_loss as rld_loss
from mcld_core.baselines.dist import dist_loss as dist_loss
from mcld_core.baselines.kd import kd_loss as kd_loss
from mcld_core.baselines.ttm import ttm_loss as ttm_loss
