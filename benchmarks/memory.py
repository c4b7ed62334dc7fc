"""How much memory the losses take at their peak, besides the logits that they are given.

    python benchmarks/memory.py --framework torch --json benchmarks/results/memory-torch.json

torch on the CPU: the largest sum of live tensor bytes that the allocator reports while one loss
runs forward and backward. torch on CUDA: ``max_memory_allocated``. JAX: the temporaries of the
compiled step, as XLA plans them. TensorFlow does not report its CPU allocations; there the row is
the growth of the process' peak resident memory in a process of its own.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import resource
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import measure
from benchmarks.measure import Shape

SHAPES = [Shape(1024, 1024, 1000), Shape(4096, 4096, 1000), Shape(8192, 8192, 1000)]
QUICK_SHAPES = [Shape(512, 512, 100)]
NAMES = {
    "torch": ["mcld_loss", "mcld_loss, plain form", "three terms by hand", "one KD loss by hand"],
    "jax": ["mcld_loss", "mcld_loss, plain form", "kd_loss"],
    "tensorflow": ["mcld_loss", "mcld_loss, plain form", "kd_loss"],
}


@dataclasses.dataclass
class Row:
    """One candidate at one shape."""

    framework: str
    device: str
    shape: str
    name: str
    peak_mib: float


def torch_peak(run: Any, device: str) -> float:
    """Return the peak of live bytes while ``run`` works."""
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before)
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    live = peak = 0
    for event in sorted(record.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return float(peak)


def jax_temporaries(shape: Shape, name: str) -> float:
    """Return the bytes of temporaries of the compiled step."""
    import jax
    import numpy as np

    from mcld_core import MCLDConfig, kd_loss, mcld_loss

    config = MCLDConfig(block_size=None if "plain" in name else "auto")

    def loss(student: Any, teacher: Any, labels: Any) -> Any:
        if name == "kd_loss":
            return kd_loss(student, teacher)
        return mcld_loss(student, teacher, labels, config=config)

    logits = jax.ShapeDtypeStruct((shape.batch, shape.classes), np.float32)
    labels = jax.ShapeDtypeStruct((shape.batch,), np.int32)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(logits, logits, labels).compile()
    return float(compiled.memory_analysis().temp_size_in_bytes)


def tensorflow_growth(shape: Shape, name: str, device: str) -> float:
    """Run this script in a process of its own, which prints the growth of its peak memory."""
    words = ["--framework", "tensorflow", "--device", device, "--shapes", shape, "--only", name]
    return float(measure.in_own_process(__file__, *words))


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = measure.arguments(__doc__.split("\n", 1)[0])
    parser.add_argument("--only", default=None, help="one candidate, printed in bytes")
    options = parser.parse_args()
    measure.limit_threads(options.threads)
    cases = importlib.import_module(f"benchmarks.candidates.{options.framework}")
    shapes = options.shapes or (QUICK_SHAPES if options.quick else SHAPES)
    if options.only:
        # a small run first: what the framework loads once is not the loss's
        small = Shape(64, 64, shapes[0].classes)
        cases.candidates(small, options.device, options.threads)[options.only]()
        run = cases.candidates(shapes[0], options.device, options.threads)[options.only]
        gc.collect()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run()
        print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
        return
    rows: list[Row] = []
    for shape in shapes:
        print(f"\n{options.framework}, {shape} (batch, keys, classes)")
        for name in NAMES[options.framework]:
            if options.framework == "jax":
                peak = jax_temporaries(shape, name)
            elif options.framework == "tensorflow":
                peak = tensorflow_growth(shape, name, options.device)
            else:
                run = cases.candidates(shape, options.device, options.threads, compiled=False)[name]
                run()
                peak = torch_peak(run, options.device)
            rows.append(Row(options.framework, options.device, str(shape), name, peak / 2**20))
            print(f"  {name:<28}{rows[-1].peak_mib:9.1f} MiB")
    if options.json:
        measure.write_rows(options.json, options, cases.PACKAGES, rows)


if __name__ == "__main__":
    main()
