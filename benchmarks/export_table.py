"""Export students of every framework to ONNX: error, size, latency against a teacher's.

    python benchmarks/export_table.py

A process for each framework (Keras cannot change its backend). Every student is one of the export
tests' (`tests/export`); the teacher is the same network with 8 times the width. Both go through
`export_onnx`, and onnxruntime runs them in turns. ``--json`` and ``--markdown`` name the files.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.measure import RESULTS, environment, limit_threads, write_json  # noqa: E402

FRAMEWORKS = ("torch", "tensorflow", "jax", "keras-torch", "keras-tensorflow", "keras-jax")
PACKAGES = ["torch", "tensorflow", "jax", "flax", "keras", "onnx", "onnxruntime", "onnxscript",
            "tf2onnx", "jax2onnx"]  # fmt: skip
TEACHER_SCALE = 8
BATCH = 32


def main() -> None:
    """Measure each framework in a process of its own and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS))
    parser.add_argument("--repeats", type=int, default=200, help="timed calls of each file")
    parser.add_argument("--json", type=Path, default=RESULTS / "export.json")
    parser.add_argument("--markdown", type=Path, default=RESULTS / "export.md")
    parser.add_argument("--worker", choices=FRAMEWORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    limit_threads(1)
    if options.worker:
        print(json.dumps(measure(options.worker, options.repeats)))
        return
    rows: list[dict[str, Any]] = []
    for framework in options.frameworks:
        rows += in_own_process(framework, options.repeats)
        print(*(line(row) for row in rows[-4:]), sep="\n", flush=True)
    command = "python " + shlex.join([str(Path("benchmarks/export_table.py")), *sys.argv[1:]])
    content = {
        "command": command,
        "environment": environment(1, PACKAGES),
        "batch": BATCH,
        "teacher_scale": TEACHER_SCALE,
        "repeats": options.repeats,
        "rows": rows,
    }
    write_json(options.json, content)
    temporary = options.markdown.with_suffix(".tmp")
    temporary.write_text(page(content), encoding="utf-8")
    os.replace(temporary, options.markdown)


def in_own_process(framework: str, repeats: int) -> list[dict[str, Any]]:
    """Run one framework's worker; its last line of output is its rows."""
    variables = dict(os.environ)
    if framework.startswith("keras-"):
        variables["KERAS_BACKEND"] = framework.removeprefix("keras-")
    command = [sys.executable, __file__, "--worker", framework, "--repeats", str(repeats)]
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def measure(framework: str, repeats: int) -> list[dict[str, Any]]:
    """Export and time the four kinds of students of one framework."""
    warnings.simplefilter("ignore")
    from tests.export.families import FAMILIES

    with tempfile.TemporaryDirectory() as folder:
        return [measure_one(framework, family, Path(folder), repeats) for family in FAMILIES]


def measure_one(framework: str, family: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Export one student and its teacher, and time them."""
    from mcld_core.export import compare_latency, export_onnx
    from tests.export.families import arguments, feeds

    name = framework.partition("-")[0]
    students = importlib.import_module(f"tests.export.{name}_students")
    build = students.Student if name == "tensorflow" else students.build
    layout = (name != "torch", "int64" if name == "torch" else "int32")
    reports = [
        export_onnx(
            build(family, scale=scale), folder / f"{scale}.onnx", **arguments(family, *layout)
        )
        for scale in (1, TEACHER_SCALE)
    ]
    paths = [report.path for report in reports]
    latency = compare_latency(*paths, feeds(family, *layout, rows=BATCH), repeats=repeats)
    return {
        "framework": reports[0].framework,
        "model": family,
        "exporter": reports[0].exporter,
        "opset": reports[0].opset,
        "max_relative_error": max(report.max_relative_error for report in reports),
        "student_bytes": latency.student_size,
        "teacher_bytes": latency.teacher_size,
        "student_seconds": latency.student,
        "teacher_seconds": latency.teacher,
        "student_fastest_seconds": latency.fastest_student,
        "teacher_fastest_seconds": latency.fastest_teacher,
        "latency_ratio": latency.ratio,
        "fastest_latency_ratio": latency.fastest_ratio,
    }


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    return (
        f"| {row['framework']} | {row['model']} | {row['exporter']} | {row['opset']} | "
        f"{row['max_relative_error']:.1e} | {row['student_bytes'] / 1e3:.1f} | "
        f"{row['teacher_bytes'] / 1e3:.1f} | {1e3 * row['student_fastest_seconds']:.3f} | "
        f"{1e3 * row['teacher_fastest_seconds']:.3f} | {row['fastest_latency_ratio']:.2f} |"
    )


def page(content: dict[str, Any]) -> str:
    """The results as Markdown."""
    versions = ", ".join(f"{name} {value}" for name, value in content["environment"].items())
    lines = [
        "# Students as ONNX files",
        "",
        f"`{content['command']}`",
        "",
        versions,
        "",
        f"The teacher is the same network with {content['teacher_scale']} times the width. Error: "
        "the larger of student's and teacher's, ONNX against the framework, as a share of the "
        "row's largest logit. Latency: onnxruntime on one thread, a batch of "
        f"{content['batch']}, the fastest of {content['repeats']} calls in turns, which other work "
        "on the machine disturbs least; the JSON file beside this one has the medians too. The "
        "networks are random: there is no accuracy here.",
        "",
        "| framework | model | exporter | opset | max relative error | student kB | teacher kB "
        "| student ms | teacher ms | latency ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(line(row) for row in content["rows"]),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
