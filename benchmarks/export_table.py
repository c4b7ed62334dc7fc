"""Export students of every framework to ONNX: error, size, latency against a teacher's.

    python benchmarks/export_table.py

A process for each framework (Keras cannot change its backend). The first table has the students of
the export tests (`tests/export`), random, beside the same networks with 8 times the width. The
second has a student that the framework's example distils by MCLD on scikit-learn's digits, in
float32, float16 and int8, beside the teacher that it trains: sizes, test accuracies, latency.
Student and teacher always run in turns in one process, so that other work on the machine meets both
alike; only the ratios are worth comparing. ``--json`` and ``--markdown`` name the files.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import shlex
import subprocess
import sys
import tempfile
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
from examples.recipes.files import write_text  # noqa: E402

FRAMEWORKS = ("torch", "tensorflow", "jax", "keras-torch", "keras-tensorflow", "keras-jax")
PACKAGES = ["torch", "tensorflow", "jax", "flax", "keras", "onnx", "onnxruntime", "onnxscript",
            "tf2onnx", "jax2onnx"]  # fmt: skip
TEACHER_SCALE = 8
BATCH = 32
CALIBRATION = 300
TRAINING = ["--dataset", "digits", "--teacher", "conv-32", "--teacher-epochs", "4",
            "--student", "conv-8", "--epochs", "10", "--no-onnx"]  # fmt: skip
_MODELS = "examples.recipes.models"
EXAMPLES = {
    "torch": ("torch_cifar100", "last.pt", {"model": f"{_MODELS}.torch:build"}),
    "tensorflow": ("tf_imagenet", "last.keras", {"load": f"{_MODELS}.keras_files:load_student"}),
    "jax": ("jax_cifar100", "last.npz", {"load": f"{_MODELS}.jax_files:load_student"}),
    "keras": ("keras_cifar100", "last.keras", {"load": f"{_MODELS}.keras_files:load_student"}),
}
"""The example of a framework, its checkpoint, and what `load_student` is told of it."""
PAGE = (ROOT / "benchmarks" / "pages" / "export.md").read_text("utf-8")


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
    trained: list[dict[str, Any]] = []
    for framework in options.frameworks:
        *others, pair = worker(__file__, framework, "--repeats", options.repeats)
        rows += others
        trained += pair["kinds"]
        print(*map(line, others), *map(trained_line, pair["kinds"]), sep="\n", flush=True)
    command = "python " + shlex.join([str(Path("benchmarks/export_table.py")), *sys.argv[1:]])
    content = {
        "command": command,
        "environment": environment(1, PACKAGES),
        "batch": BATCH,
        "teacher_scale": TEACHER_SCALE,
        "repeats": options.repeats,
        "rows": rows,
        "training": "python examples/EXAMPLE.py " + shlex.join(TRAINING),
        "calibration": CALIBRATION,
        "trained": trained,
    }
    write_json(options.json, content)
    write_text(options.markdown, page(content))


def worker(script: str, framework: str, *words: object) -> Any:
    """Run the worker of one framework, on its Keras backend; return what it found."""
    backend = {"KERAS_BACKEND": framework.removeprefix("keras-")}
    return json.loads(in_own_process(script, "--worker", framework, *words, **backend))


def measure(framework: str, repeats: int) -> list[dict[str, Any]]:
    """Export and time the four kinds of students of one framework, then the trained one."""
    warnings.simplefilter("ignore")
    from tests.export.families import FAMILIES

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [measure_one(framework, family, folder, repeats) for family in FAMILIES]
        return [*rows, {"kinds": measure_trained(framework, folder, repeats)}]


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


def measure_trained(framework: str, folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Distil by the framework's example; export, shrink and time the student: a row a file."""
    from examples.recipes.data.load import load_dataset
    from mcld_core.export import compare_latency, convert_float16, export_onnx, quantize_int8
    from mcld_core.export.deploy import accuracy
    from mcld_core.export.student import load_student

    script, file, loading = EXAMPLES[framework.partition("-")[0]]
    command = [sys.executable, str(ROOT / "examples" / f"{script}.py"), *TRAINING]
    subprocess.run([*command, "--out", str(folder / "run")], stdout=sys.stderr, check=True)
    data = load_dataset("digits", Path("data"))  # the test images are the same, whatever validates
    reports = {}
    for which, place in (("mcld", "."), ("teacher", "teacher")):
        model, _, known = load_student(folder / "run" / place / file, **loading)
        inputs = normalised(data.test.images, known)
        path = folder / f"{which}.onnx"
        reports[which] = export_onnx(model, path, example_input=inputs[:BATCH], metadata=known)
    source, teacher = (report.path for report in reports.values())
    evaluation = inputs, data.test.labels
    calibration = normalised(data.train.images[:CALIBRATION], known)
    limits: dict[str, Any] = {"evaluation": evaluation, "max_accuracy_drop": 1.0}  # it is shown
    half = convert_float16(source, folder / "half.onnx", **limits)
    int8 = quantize_int8(source, folder / "int8.onnx", calibration=calibration, **limits)
    kinds = {"float32": source, half.kind: half.path, int8.kind: int8.path, "teacher": teacher}
    errors = dict(
        zip(("float32", "teacher"), (r.max_relative_error for r in reports.values()), strict=True)
    )
    rows = []
    for kind, path in kinds.items():
        latency = compare_latency(path, teacher, inputs[:BATCH], repeats=repeats)
        rows.append(
            {
                "example": script,
                "framework": reports["mcld"].framework,
                "model": TRAINING[TRAINING.index("--student") + 1],
                "kind": kind,
                "max_relative_error": errors.get(kind),
                "bytes": path.stat().st_size,
                "test_accuracy": accuracy(path, *evaluation),
                "test_images": len(data.test),
                "latency_ratio": latency.ratio,
                "fastest_latency_ratio": latency.fastest_ratio,
            }
        )
    return rows


def normalised(images: Any, known: dict[str, Any]) -> Any:
    """Bytes (rows, height, width, channels) as the model takes them, by its metadata."""
    parts = known["normalization"]
    values = ((images / 255 - parts["mean"]) / parts["std"]).astype("float32")
    return values if known["layout"] == "NHWC" else values.transpose(0, 3, 1, 2).copy()


def trained_line(row: dict[str, Any]) -> str:
    """One row of the second table."""
    error = row["max_relative_error"]
    return (
        f"| {row['example']} | {row['framework']} | {row['model']} | {row['kind']} | "
        f"{'' if error is None else f'{error:.1e}'} | {row['bytes'] / 1e3:.1f} | "
        f"{100 * row['test_accuracy']:.2f} | {row['fastest_latency_ratio']:.2f} |"
    )


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
    images = content["trained"][0]["test_images"]
    return PAGE.format(
        **content,
        versions=", ".join(f"{name} {value}" for name, value in content["environment"].items()),
        students="\n".join(map(line, content["rows"])),
        trained_students="\n".join(map(trained_line, content["trained"])),
        images=images,
        one_image=f"{100 / images:.2f}",
    )


if __name__ == "__main__":
    main()
