"""Run the code of the guides, each block where its page's install line alone was run.

    python .ci/guides.py [GUIDE ...]

An install line with extras (`'.[torch]'`) opens an environment, packages that the page names later
(`pip install optax`) are added to the newest. A block runs in the first environment that has what
the line above its fence asks for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PINS = PROJECT["dependency-groups"]["torch"]  # the newest PyTorch may not be had without CUDA
PROVIDED_BY = {"export": "onnx", "litert": "tensorflow", "torchrun": "torch"}
JOINED = ("", "export")  # blocks that use the names of those before them
PART = re.compile(
    r"pip install\s+'\.\[(?P<extras>[\w,]+)\]'(?P<beside>[ \w-]*)|`'\.\[(?P<other>[\w,]+)\]'`"
    r"|pip install (?P<packages>[\w -]+)`"
    r"|(?:<!-- \w+: (?P<need>\w+) -->\n)?```python\n(?P<code>.*?)```",
    re.DOTALL,
)
# the index has torchvision for CUDA alone, which a PyTorch for the CPU cannot load
UNFIT = "operator torchvision::nms does not exist"
Step = tuple[str, tuple[str, ...], str, str, str]  # extras, packages, guide, need, code


def steps(guide: Path) -> Iterator[Step]:
    """Read the blocks of a guide, each with what its environment holds."""
    environments: list[tuple[str, list[str]]] = []
    for part in PART.finditer(guide.read_text("utf-8")):
        if extras := part["extras"] or part["other"]:
            environments.append((extras, (part["beside"] or "").split()))
        elif part["packages"]:
            environments[-1][1].extend(part["packages"].split())
        else:
            need = part["need"] or ""
            wanted = {PROVIDED_BY.get(need, need)} - {"", "numpy"}
            has = (each for each in environments if wanted <= {*each[0].split(","), *each[1]})
            extras, packages = next(has)
            yield extras, tuple(sorted({*packages})), guide.stem, need, part["code"]


def run(*command: str | Path, folder: Path) -> str:
    """Run a command; return what it said if it failed."""
    names = ("KERAS_BACKEND", "MCLD_BACKEND", "PYTHONPATH")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    environment = inherited | {"HOME": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return (done.stdout + done.stderr)[-3000:] if done.returncode else ""


def install(folder: Path, extras: str, packages: tuple[str, ...], is_new: bool) -> None:
    """Make the environment, or add to it."""
    if is_new:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    (folder / "pins.txt").write_text("\n".join(PINS), "utf-8")
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
    command = [*pip, "--constraint", folder / "pins.txt", f".[{extras}]", *packages]
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # what is deleted would be installed from it
    subprocess.run(command, cwd=ROOT, check=True)


def main(names: list[str]) -> int:
    """Run the guides of these names, or all."""
    guides = sorted((ROOT / "docs" / "guides").glob("*.md"))
    found = [step for guide in guides if not names or guide.stem in names for step in steps(guide)]
    found.sort(key=lambda step: (step[0], len(step[1]), step[1], step[2]))  # stable: page by page
    held, before, failed = ("", ()), {}, []
    with tempfile.TemporaryDirectory() as work:
        environment = Path(work, "environment")
        for number, (extras, packages, guide, need, code) in enumerate(found):
            if held != (extras, packages):
                started = time.monotonic()
                is_new = held[0] != extras or not {*held[1]} <= {*packages}
                install(environment, extras, packages, is_new)
                held, seconds = (extras, packages), time.monotonic() - started
                print(f"== .[{extras}] {' '.join(packages)}: {seconds:.0f} s", flush=True)
            before[guide, need] = before.get((guide, need), "") * (need in JOINED) + code
            folder = Path(work, f"block{number}")
            folder.mkdir()
            (folder / "block.py").write_text(before[guide, need], "utf-8")
            command = ["torchrun", "--nproc-per-node=2"] if need == "torchrun" else ["python"]
            command[0] = str(environment / "bin" / command[0])
            started = time.monotonic()
            said = run(*command, "block.py", folder=folder)
            result = "not tried: " + UNFIT if UNFIT in said else "failed" if said else "passed"
            if result == "failed":
                failed.append(f"{guide} ({need})")
                print(said, flush=True)
            seconds = time.monotonic() - started
            print(f"{guide} ({need}): {result}, {seconds:.0f} s", flush=True)
    print(f"{len(found) - len(failed)} passed, {len(failed)} failed {failed or ''}")
    return len(failed) > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
