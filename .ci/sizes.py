"""Measure README's install lines, each in a new environment: ``python .ci/sizes.py``.

Writes benchmarks/results/install.json: MB on the disk, and seconds of computing by pip, to which
the download is added. The first line takes the PyTorch that pip finds first, the second the one
of the suites, which is a build for CPUs where such a one can be had.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]["torch"]
LINES = (("torch", ()), ("torch", PINS), ("jax", ()), ("tensorflow", ()), ("keras,jax", ()))


def main() -> None:
    """Install, measure, write."""
    rows = []
    for extras, more in LINES:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            pip = [f"{folder}/bin/python", "-m", "pip"]
            before = os.times()
            command = [*pip, "install", "--quiet", f".[{extras}]", *more]
            subprocess.run(command, cwd=ROOT, check=True)
            after = os.times()
            used = sum(after[2:4]) - sum(before[2:4])
            size = sum(path.lstat().st_size for path in Path(folder).rglob("*"))
            listed = subprocess.run([*pip, "freeze"], capture_output=True, text=True, check=True)
            names = [f"{name}==" for name in (*extras.split(","), "nvidia-cudnn-cu13")]
            found = [line for line in listed.stdout.split() if line.startswith(tuple(names))]
        rows.append({"extras": extras, "mb": round(size / 1e6), "pip_cpu_seconds": round(used)})
        rows[-1]["packages"] = found
        print(rows[-1], flush=True)
    content = {"command": "python .ci/sizes.py", "python": sys.version.split()[0], "rows": rows}
    path = ROOT / "benchmarks" / "results" / "install.json"
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
