"""Teachers that are weak, noisy, several, or the student itself.

What is measured: `TeacherQuality`. Several teachers as one: `ensemble`, `quality_weights`. Trust by
row and class: `reliability_weights`, `repair_rows`, `adaptive_mcld_loss`. Robust contrast:
`bounded_loss`, `outlier_weights`. What names no paper is a form of this library's own.
"""

from mcld_core.extensions.teachers.quality import TeacherQuality as TeacherQuality
from mcld_core.extensions.teachers.quality import ensemble as ensemble
from mcld_core.extensions.teachers.quality import quality_weights as quality_weights
from mcld_core.extensions.teachers.robust import adaptive_mcld_loss as adaptive_mcld_loss
from mcld_core.extensions.teachers.robust import bounded_loss as bounded_loss
from mcld_core.extensions.teachers.robust import outlier_weights as outlier_weights
from mcld_core.extensions.teachers.robust import reliability_weights as reliability_weights
from mcld_core.extensions.teachers.robust import repair_rows as repair_rows
