"""Teachers that are weak, noisy, several, or the student itself.

What is measured: `TeacherQuality`, `TeacherAgreement`, `agreement`. Several teachers as one:
`ensemble`, `quality_weights`. Trust by row, class and schedule: `reliability_weights`,
`repair_rows`, `adaptive_mcld_loss`, `adapt_config`, `anneal`. Robust contrast: `bounded_loss`,
`trimmed_loss`, `outlier_weights`. Self-distillation: `ema_update`, `ema_decay`, `generations`,
`deep_supervision_loss`. What names no paper is a form of this library's own.
"""

from mcld_core.ema import ema_decay as ema_decay
from mcld_core.ema import ema_update as ema_update
from mcld_core.extensions.teachers.agreement import TeacherAgreement as TeacherAgreement
from mcld_core.extensions.teachers.agreement import agreement as agreement
from mcld_core.extensions.teachers.ensemble import ensemble as ensemble
from mcld_core.extensions.teachers.ensemble import quality_weights as quality_weights
from mcld_core.extensions.teachers.quality import TeacherQuality as TeacherQuality
from mcld_core.extensions.teachers.reliability import adapt_config as adapt_config
from mcld_core.extensions.teachers.reliability import adaptive_mcld_loss as adaptive_mcld_loss
from mcld_core.extensions.teachers.reliability import anneal as anneal
from mcld_core.extensions.teachers.reliability import reliability_weights as reliability_weights
from mcld_core.extensions.teachers.reliability import repair_rows as repair_rows
from mcld_core.extensions.teachers.robust import bounded_loss as bounded_loss
from mcld_core.extensions.teachers.robust import outlier_weights as outlier_weights
from mcld_core.extensions.teachers.robust import trimmed_loss as trimmed_loss
from mcld_core.extensions.teachers.self_distillation import (
    deep_supervision_loss as deep_supervision_loss,
)
from mcld_core.extensions.teachers.self_distillation import generations as generations
