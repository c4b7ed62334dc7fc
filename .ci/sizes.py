"""Write what README's install lines put on the disk, and how long they take.

    python .ci/sizes.py [--seconds]

Run in an environment that holds every framework, such as ``.nox/frameworks``: the size of an extra
is that of the files of its packages and of all that they need, in MB. With ``--seconds`` each line
is run in a new environment too, by the pins of the tests: the time holds the download, of which
pip's cache may spare a part. A row of another build of PyTorch stays in
benchmarks/results/install.json, and so do seconds that are not measured again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
FILE = ROOT / "benchmarks" / "results" / "install.json"
LINES = ("torch", "jax", "tensorflow", "keras,jax")


def needed(names: list[str]) -> dict[str, Distribution]:
    """Return the distributions of these requirements and of all that they require."""
    found: dict[str, Distribution] = {}
    seen: set[str] = set()
    while names:
        wanted = Requirement(names.pop())
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        found[wanted.name] = distribution(wanted.name)
        for text in found[wanted.name].requires or ():
            marker, extras = Requirement(text).marker, wanted.extras or {""}
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                names.append(text)
    return {each.metadata["Name"].lower(): each for each in found.values()}


def seconds(extras: str) -> int:
    """Return how long pip takes for an install line in a new environment."""
    groups = PYPROJECT["dependency-groups"].values()
    pins = [each for group in groups for each in group if "==" in each]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        constraint = Path(folder, "pins.txt")
        constraint.write_text("\n".join(pins), "utf-8")
        pip = [Path(folder, "bin", "python"), "-m", "pip", "install", "--quiet"]
        started = time.monotonic()
        command = [*pip, "--constraint", constraint, f".[{extras}]"]
        subprocess.run(command, cwd=ROOT, check=True)
        return round(time.monotonic() - started)


def main() -> None:
    """Measure and write."""
    rows = {row["build"]: row for row in (json.loads(FILE.read_text()) if FILE.is_file() else [])}
    for extras in LINES:
        names = [
            name for each in extras.split(",") for name in PROJECT["optional-dependencies"][each]
        ]
        held = needed([*PROJECT["dependencies"], *names])
        files = {
            Path(file.locate()).resolve() for each in held.values() for file in each.files or ()
        }
        size = sum(path.stat().st_size for path in files if path.is_file())
        build = ", ".join(f"{each} {held[each].version}" for each in extras.split(","))
        command = "python .ci/sizes.py --seconds"
        found = {"extras": extras, "build": build, "mb": round(size / 1e6), "command": command}
        if "--seconds" in sys.argv:
            found |= {"seconds": seconds(extras), "cores": os.cpu_count()}
        rows[build] = rows.get(build, {}) | found
    FILE.write_text(json.dumps(list(rows.values()), indent=1) + "\n", "utf-8")
    print(FILE.read_text("utf-8"))


if __name__ == "__main__":
    main()
