"""Every check and conversion of arguments: what each public function does first.

`Checks` knows the function's name and looks at settings; `Arguments` knows the backend too and
looks at arrays. Each error says which argument, what came, and what to do. Values of arrays are
read only where that costs no wait for a device: eager, on the CPU (``ops.host_values``).
"""

from mcld_core.arguments.arrays import MAP_CLASSES as MAP_CLASSES
from mcld_core.arguments.arrays import Arguments as Arguments
from mcld_core.arguments.arrays import reduce_rows as reduce_rows
from mcld_core.arguments.arrays import whole_weight as whole_weight
from mcld_core.arguments.checks import REDUCTIONS as REDUCTIONS
from mcld_core.arguments.checks import Checks as Checks
from mcld_core.arguments.checks import is_number as is_number
from mcld_core.arguments.checks import is_plain as is_plain
from mcld_core.arguments.checks import plain_number as plain_number
from mcld_core.arguments.rows import MASKED as MASKED
from mcld_core.arguments.rows import Batch as Batch
from mcld_core.arguments.rows import TeacherBatch as TeacherBatch
from mcld_core.arguments.rows import as_number as as_number
from mcld_core.arguments.rows import both_kept as both_kept
from mcld_core.arguments.rows import class_labels as class_labels
from mcld_core.arguments.rows import clip01 as clip01
from mcld_core.arguments.rows import fits as fits
from mcld_core.arguments.rows import keep_rows as keep_rows
from mcld_core.arguments.rows import log_of as log_of
from mcld_core.arguments.rows import one_hot as one_hot
from mcld_core.arguments.rows import ratio as ratio
from mcld_core.arguments.rows import sizes_differ as sizes_differ
from mcld_core.arguments.rows import target_class as target_class
from mcld_core.arguments.rows import to_numpy as to_numpy
from mcld_core.arguments.rows import wide_dtype as wide_dtype
