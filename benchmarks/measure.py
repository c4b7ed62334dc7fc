"""How the benchmarks measure: interleaved repetitions in one process, ratios to the limit."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.record import write_json

RESULTS = Path(__file__).parent / "results"
LIMIT = "LIMIT: two products, one exp"


class Shape(NamedTuple):
    """Anchors, keys and classes of a case; keys == anchors means that the batch is its own keys."""

    batch: int
    keys: int
    classes: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read ``batch,keys,classes``."""
        return cls(*map(int, text.split(",")))

    def __str__(self) -> str:
        return ",".join(str(n) for n in self)


SHAPES = [
    Shape(8, 8, 10),
    Shape(512, 512, 1000),
    Shape(1024, 1024, 1000),
    Shape(256, 16640, 1000),
    Shape(4096, 4096, 1000),
    Shape(2048, 2048, 32000),
]
QUICK_SHAPES = [Shape(8, 8, 10), Shape(256, 256, 100)]


def timing_arguments(description: str) -> argparse.ArgumentParser:
    """Return the options of the benchmarks of speed."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--framework", choices=["torch", "jax", "tensorflow"], default="torch")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--shapes", type=Shape.parse, nargs="+", help="batch,keys,classes ...; default: the page's")
    add("--threads", type=int, default=1)
    add("--json", type=Path, help="also write the rows here")
    add("--quick", action="store_true", help="small shapes, few repetitions")
    add("--repetitions", type=int, default=10)
    add("--seconds", type=float, default=6.0, help="per shape, at least")
    return parser


def limit_threads(threads: int) -> None:
    """Fix the number of threads and of cores; call it before a framework is imported."""
    if hasattr(os, "sched_setaffinity"):  # XLA's own threads heed no variable
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ[variable] = str(threads)
    os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if threads == 1:
        os.environ["XLA_FLAGS"] = (
            os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
        )


def interleaved(
    candidates: dict[str, Callable[[], Any]], repetitions: int, seconds: float
) -> dict[str, list[float]]:
    """Time each candidate in turn, over and over, so that noise meets all of them alike.

    Runs at least ``repetitions`` rounds, and more until ``seconds`` have passed (at most 200).
    Each candidate returns once its result is ready.
    """
    for run in candidates.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    began = time.perf_counter()
    rounds = 0
    while rounds < repetitions or (rounds < 200 and time.perf_counter() - began < seconds):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
        rounds += 1
    return times


def timed(
    options: argparse.Namespace,
    shapes: Sequence[Shape],
    candidates: Callable[[Shape], dict[str, Callable[[], Any]]],
    packages: list[str],
) -> Iterator[dict[str, list[float]]]:
    """Yield the times of each shape's candidates, print them, and write them all where asked."""
    rows: list[dict[str, Any]] = []
    for shape in options.shapes or (QUICK_SHAPES if options.quick else shapes):
        effort = (3, 0.0) if options.quick else (options.repetitions, options.seconds)
        times = interleaved(candidates(shape), *effort)
        about = {"framework": options.framework, "device": options.device, "shape": str(shape)}
        rows += summary(times, about)
        print(f"\n{options.framework}, {shape} (batch, keys, classes)")
        for row in rows[-len(times) :]:
            print(
                f"  {row['name']:<42}{row['ratio_min']:7.2f} x LIMIT (median"
                f" {row['ratio_median']:6.2f}, spread {row['spread']:4.0%})"
                f"  {row['seconds_min'] * 1e3:9.3f} ms"
            )
        yield times
    if options.json:
        write_rows(options.json, options, packages, rows)


def summary(times: dict[str, list[float]], about: dict[str, str]) -> list[dict[str, Any]]:
    """Return the times of one shape, a candidate a row; ratios are to the limit beside it.

    ``spread`` is the interquartile range over the median.
    """
    limit, rows = times[LIMIT], []
    for name, values in times.items():
        quartiles, median = statistics.quantiles(values, n=4), statistics.median(values)
        least = {"seconds_min": min(values), "ratio_min": min(values) / min(limit)}
        middle = {"seconds_median": median, "ratio_median": median / statistics.median(limit)}
        spread = {"spread": (quartiles[2] - quartiles[0]) / median}
        rows.append(about | {"name": name} | least | middle | spread)
    return rows


def environment(threads: int, packages: list[str]) -> dict[str, str]:
    """Describe the machine and the versions."""
    import mcld_core  # and so NumPy, after `limit_threads`

    about = Path("/proc/cpuinfo")  # Linux
    named = re.search(r"model name\s*: (.*)", about.read_text() if about.is_file() else "")
    versions = {name: importlib.metadata.version(name) for name in ["numpy", *packages]}
    return {
        "processor": named[1] if named else platform.machine(),
        "python": platform.python_version(),
        "threads": str(threads),
        "load": f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        "mcld": mcld_core.__version__,
        **versions,
    }


def write_rows(path: Path, options: argparse.Namespace, packages: list[str], rows: Any) -> None:
    """Write what a script found, with its command, machine and versions."""
    script = f"benchmarks/{Path(sys.argv[0]).name}"
    content = {
        "command": shlex.join(["python", script, *sys.argv[1:]]),
        "environment": environment(options.threads, packages),
        "rows": rows,
    }
    write_json(path, content)
