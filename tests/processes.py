"""Python processes that tests start: some that meet at free ports, and ranks of torchrun."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
Started = subprocess.Popen[str]
QUIET = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
"""For every process, unless a test says otherwise."""


def addresses(count: int) -> list[str]:
    """Return ``host:port`` of so many ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return found


def start(*words: object, **environment: str) -> Started:
    """Start ``python words …`` in the repository's root."""
    return subprocess.Popen(
        [sys.executable, *map(str, words)], cwd=ROOT, env=os.environ | QUIET | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ends(processes: Sequence[Started], timeout: float = 240) -> list[tuple[int, str, str]]:
    """Wait; return exit status, output and errors of each; leave none behind."""
    try:
        said = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def finish(*processes: Started) -> list[str]:
    """Wait until all have ended well; return what each printed."""
    found = ends(processes)
    for status, output, errors in found:
        assert status == 0, output + errors
    return [output for _, output, _ in found]


def torchrun(
    ranks: int, *words: object, cwd: Path = ROOT, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script, or ``-m module``, on so many ranks."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.run(
        [sys.executable, *launcher, *map(str, words)], cwd=cwd,
        env=os.environ | QUIET | environment, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip


def leave_group() -> None:
    """End PyTorch's process group before Python ends.

    A thread of gloo that still frees the last rows it gathered aborts a process that is ending
    (``terminate called without an active exception``): the pause lets it finish.
    """
    import torch.distributed as dist

    dist.destroy_process_group()
    time.sleep(0.5)
