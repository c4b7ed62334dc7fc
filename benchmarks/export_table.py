"""Export students of every framework to ONNX: error, size, latency against a teacher's.

    python benchmarks/export_table.py

A process for each framework (Keras cannot change its backend). The students are those of the export
tests (`tests/export`), random, beside the same networks with 8 times the width. Both run in turns
in one process, so that other work on the machine meets both alike; only the ratios are worth
comparing. Writes ``benchmarks/results/export.json`` and ``export.md``.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.measure import (  # noqa: E402
    RESULTS,
    environment,
    in_own_process,
    limit_threads,
    write_json,
)
from benchmarks.pages.numbers import markdown  # noqa: E402

FRAMEWORKS = ("torch", "tensorflow", "jax", "keras-torch", "keras-tensorflow", "keras-jax")
PACKAGES = ["torch", "tensorflow", "jax", "flax", "keras", "onnx", "onnxruntime", "onnxscript",
            "tf2onnx", "jax2onnx"]  # fmt: skip
TEACHER_SCALE, BATCH, REPEATS = 8, 32, 200
HEAD = ["framework", "model", "exporter", "opset", "max relative error", "student bytes",
        "teacher bytes", "latency ratio"]  # fmt: skip
PAGE = (ROOT / "benchmarks" / "pages" / "export.md").read_text("utf-8")


def main() -> None:
    """Measure each framework in a process of its own and write the table."""
    limit_threads(1)
    if sys.argv[1:]:
        print(json.dumps(measure(sys.argv[1])))
        return
    rows = [row for name in FRAMEWORKS for row in worker(__file__, name)]
    content = {"environment": environment(1, PACKAGES), "rows": rows}
    write_json(RESULTS / "export.json", content)
    (RESULTS / "export.md").write_text(page(content), "utf-8")


def worker(script: str, framework: str) -> Any:
    """Run the worker of one framework, on its Keras backend; return what it found."""
    backend = {"KERAS_BACKEND": framework.removeprefix("keras-")}
    return json.loads(in_own_process(script, framework, **backend))


def measure(framework: str) -> list[dict[str, Any]]:
    """Export each kind of student of one framework and its teacher, and time them."""
    from mcld_core import export_onnx
    from tests.export.families import FAMILIES, arguments, feeds

    warnings.simplefilter("ignore")
    name = framework.partition("-")[0]
    students = importlib.import_module(f"tests.export.{name}_students")
    build = students.Student if name == "tensorflow" else students.build
    layout = (name != "torch", "int64" if name == "torch" else "int32")
    found = []
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            student, teacher = (
                export_onnx(
                    build(family, scale=scale),
                    Path(folder) / f"{scale}.onnx",
                    **arguments(family, *layout),
                )
                for scale in (1, TEACHER_SCALE)
            )
            inputs = feeds(family, *layout, rows=BATCH)
            seconds = fastest([student.path, teacher.path], inputs)
        row = [student.framework, family, student.exporter, student.opset]
        error = max(student.max_relative_error, teacher.max_relative_error)
        row += [error, student.size, teacher.size, seconds[0] / seconds[1]]
        found.append(dict(zip(HEAD, row, strict=True)))
    return found


def fastest(paths: list[Path], inputs: dict[str, Any]) -> list[float]:
    """Seconds of each file's fastest call, in turns, by onnxruntime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    runners = [onnxruntime.InferenceSession(str(path), options) for path in paths]
    times: list[list[float]] = [[], []]
    for _ in range(REPEATS):
        for runner, spent in zip(runners, times, strict=True):
            start = time.perf_counter()
            runner.run(None, inputs)
            spent.append(time.perf_counter() - start)
    return [min(spent) for spent in times]


def page(content: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows = []
    for row in content["rows"]:
        *words, error, student, teacher, ratio = row.values()
        sizes = f"{student:,}", f"{teacher:,}"
        rows.append([*words, f"{error:.1e}", *sizes, f"{ratio:.2f}"])
    versions = ", ".join(f"{name} {value}" for name, value in content["environment"].items())
    return PAGE.format(
        versions=versions, teacher_scale=TEACHER_SCALE, batch=BATCH, repeats=REPEATS,
        students=markdown(HEAD, rows),
    )  # fmt: skip


if __name__ == "__main__":
    main()
