"""Peak memory of `token_mcld_loss` in PyTorch, forward and backward, beyond its inputs.

    python benchmarks/token_memory.py

Each shape runs in a process of its own; the peak is the process's largest resident set, less what
it held with both arrays of logits made. The line of 8,192 tokens shows that no array of tokens ×
tokens (256 MiB here) outlives its block.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

SHAPES = [(4, 512, 32_000), (16, 512, 256), (4, 512, 256)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run every shape, or in a process of its own the one that is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, metavar=("SEQUENCES", "TOKENS", "VOCABULARY"))
    options = parser.parse_args(argv)
    if options.shape is not None:
        print(measure(*options.shape), flush=True)
        return 0
    print("| sequences × tokens, vocabulary | logits MiB | tokens² MiB | peak beyond MiB | CPU s |")
    print("|---|---|---|---|---|", flush=True)
    for shape in SHAPES:
        command = [sys.executable, __file__, "--shape", *map(str, shape)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="")
    import torch

    print(
        f"\ntorch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}, float32, 1 thread"
    )
    return 0


def measure(sequences: int, tokens: int, vocabulary: int) -> str:
    """Return the table line of one shape."""
    import torch

    from mcld_core.extensions.nlp import token_mcld_loss

    torch.set_num_threads(1)
    warm = torch.randn(2, 300, 4, requires_grad=True)
    token_mcld_loss(warm, torch.randn(2, 300, 4)).backward()  # allocates what is made once
    generator = torch.Generator().manual_seed(0)
    shape = (sequences, tokens, vocabulary)
    student = torch.randn(shape, generator=generator).requires_grad_()
    teacher = torch.randn(shape, generator=generator)
    labels = torch.randint(vocabulary, shape[:2], generator=generator)
    before, start = _peak(), time.process_time()
    token_mcld_loss(student, teacher, labels, shift=True).backward()
    seconds, mebi = time.process_time() - start, 2.0**20
    rows = sequences * tokens
    return (
        f"| {sequences} × {tokens}, {vocabulary:,} | {4 * rows * vocabulary / mebi:.0f} | "
        f"{4 * rows * rows / mebi:.0f} | {(_peak() - before) / mebi:.0f} | {seconds:.1f} |"
    )


def _peak() -> float:
    """Return the largest resident set so far in bytes (Linux counts it in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)


if __name__ == "__main__":
    raise SystemExit(main())
