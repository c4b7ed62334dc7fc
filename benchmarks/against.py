"""The loss of another revision beside this one's, in one process: old and new in turns.

    python benchmarks/against.py 4b88544 --framework torch

The other revision's library is unpacked into a temporary folder under the name `mcld_other`.
"""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
import tarfile
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import measure

ROOT = Path(__file__).parent.parent
SHAPES = measure.SHAPES[:5]


def unpack(revision: str, folder: Path) -> None:
    """Write the library of a revision into a folder, renamed throughout."""
    parts = ("mcld_core", "backends", "extensions")
    command = ["git", "archive", revision, *parts]
    archive = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    (folder / "mcld_core").rename(folder / "mcld_other")
    for part in parts[1:]:
        (folder / "mcld_other" / part).unlink(missing_ok=True)  # a link, from version 0.3 on
        (folder / part).rename(folder / "mcld_other" / part)
    for path in folder.rglob("*.py"):
        text = path.read_text("utf-8")
        path.write_text(text.replace("mcld_core", "mcld_other"), "utf-8")


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = measure.timing_arguments(__doc__.split("\n", 1)[0])
    parser.add_argument("revision", help="the other revision, as git names it")
    options = parser.parse_args()
    measure.limit_threads(options.threads)
    cases = importlib.import_module(f"benchmarks.candidates.{options.framework}")
    with tempfile.TemporaryDirectory() as folder:
        unpack(options.revision, Path(folder))
        sys.path.insert(0, folder)
        if options.framework == "torch":
            import torch

            torch.set_num_threads(options.threads)
        import mcld_other  # type: ignore[import-not-found]

        import mcld_core

        libraries = {f"at {options.revision}": mcld_other, "here": mcld_core}
        candidates = partial(cases.by_library, libraries=libraries)
        for times in measure.timed(options, SHAPES, candidates, [options.framework]):
            old, new = (min(times[name]) for name in libraries)
            print(f"here {new / old:.2f} × {options.revision}", flush=True)


if __name__ == "__main__":
    main()
