"""MCLD: multi-perspective contrastive logit distillation, for every framework."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from mcld_core.backends import get_backend as get_backend
from mcld_core.backends import set_backend as set_backend
from mcld_core.bank import TeacherBank as TeacherBank
from mcld_core.baselines.decoupled import dkd_loss as dkd_loss
from mcld_core.baselines.decoupled import nkd_loss as nkd_loss
from mcld_core.baselines.decoupled import rld_loss as rld_loss
from mcld_core.baselines.dist import dist_loss as dist_loss
from mcld_core.baselines.kd import kd_loss as kd_loss
from mcld_core.baselines.kd import ttm_loss as ttm_loss
from mcld_core.cache import TeacherCache as TeacherCache
from mcld_core.config import MCLDConfig as MCLDConfig
from mcld_core.keys import ClassMeans as ClassMeans
from mcld_core.keys import TeacherKeys as TeacherKeys
from mcld_core.logits import adjust_logits as adjust_logits
from mcld_core.logits import balance_logits as balance_logits
from mcld_core.logits import check_finite as check_finite
from mcld_core.logits import select_classes as select_classes
from mcld_core.losses import mcld_loss as mcld_loss
from mcld_core.terms import category_wise as category_wise
from mcld_core.terms import instance_wise as instance_wise
from mcld_core.terms import sample_wise as sample_wise

if _TYPE_CHECKING:
    from mcld_core.export import export_onnx as export_onnx

__version__ = "0.3.0"


def __getattr__(name: str) -> object:
    """Load the exporter when it is first used."""
    if name != "export_onnx":
        raise AttributeError(f"module 'mcld_core' has no attribute {name!r}")
    from mcld_core.export import export_onnx

    return export_onnx


def __dir__() -> list[str]:
    return [*globals(), "export_onnx"]
