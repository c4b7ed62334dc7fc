"""The image example ends with a verified ONNX student, which ``predict`` reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> str:
    finished = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_the_example_exports_its_student_and_predict_reads_it(tmp_path: Path) -> None:
    options = ["--dataset", "digits", "--teacher-epochs", "1", "--epochs", "6", "--methods", "mcld"]
    printed = run(ROOT / "examples" / "torch_cifar100.py", *options, "--out", tmp_path / "run")
    assert "relative error" in printed
    assert "latency ratio" in printed
    right = 0
    digits = load_digits()
    for row in range(5):
        picture = tmp_path / f"{row}.png"
        Image.fromarray((digits.images[row] * 255 / 16).astype(np.uint8)).save(picture)
        answer = run("-m", "mcld_core", "predict", tmp_path / "run" / "student.onnx", picture)
        right += f" {digits.target[row]} " in " ".join(answer.split()[:4]) + " "
    assert right >= 3
