"""How long the losses take, as ratios to the matrix products that they cannot avoid.

    python benchmarks/speed.py --framework torch --json benchmarks/results/speed-torch.json

LIMIT is ``exp(s Kᵀ) K``: the two products and one pass of exp that the instance- and
category-wise terms must do, measured in the same process, in turn with everything else.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import measure


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = measure.timing_arguments(__doc__.split("\n", 1)[0])
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--names", nargs="+", help="only these candidates, and the limit")
    options = parser.parse_args()
    measure.limit_threads(options.threads)
    cases = importlib.import_module(f"benchmarks.candidates.{options.framework}")
    compiled = not (options.no_compile or options.quick)

    def candidates(shape: measure.Shape) -> dict[str, Any]:
        found = cases.candidates(shape, options.device, options.threads, compiled)
        names = (measure.LIMIT, *(options.names or found))
        return {name: found[name] for name in names if name in found}

    list(measure.timed(options, measure.SHAPES, candidates, cases.PACKAGES))


if __name__ == "__main__":
    main()
