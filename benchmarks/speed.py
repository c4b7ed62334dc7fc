"""How long the losses take, as ratios to the matrix products that they cannot avoid.

    python benchmarks/speed.py --framework torch --json benchmarks/results/speed-torch.json

LIMIT is ``exp(s Kᵀ) K``: the two products and one pass of exp that the instance- and
category-wise terms must do, measured in the same process, in turn with everything else.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import measure


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = measure.arguments(__doc__.split("\n", 1)[0])
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=6.0, help="per shape, at least")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--names", nargs="+", help="only these candidates, and the limit")
    options = parser.parse_args()
    measure.limit_threads(options.threads)
    cases = importlib.import_module(f"benchmarks.speed_{options.framework}")
    shapes = options.shapes or (measure.QUICK_SHAPES if options.quick else measure.SHAPES)
    rows: list[measure.Row] = []
    for shape in shapes:
        found = cases.candidates(
            shape, options.device, options.threads, not (options.no_compile or options.quick)
        )
        if options.names:
            found = {name: found[name] for name in (measure.LIMIT, *options.names) if name in found}
        times = measure.interleaved(
            found,
            3 if options.quick else options.repetitions,
            0 if options.quick else options.seconds,
        )
        rows += measure.to_rows(options.framework, options.device, shape, times)
        print(f"\n{options.framework}, {shape} (batch, keys, classes)")
        for row in rows[-len(times) :]:
            print(
                f"  {row.name:<42}{row.ratio_min:7.2f} x LIMIT (median {row.ratio_median:6.2f},"
                f" spread {row.spread:4.0%})  {row.seconds_min * 1e3:9.3f} ms"
            )
    if options.json:
        measure.write_rows(options.json, options, cases.PACKAGES, rows)


if __name__ == "__main__":
    main()
