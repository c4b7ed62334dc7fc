"""How a script ends: its exit status, one line for an error, and how to go on after Ctrl-C."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence

from . import is_first, say
from .files import DataError
from .run import Diverged, Run, Stopped


def exit_status(
    train: Callable[[argparse.Namespace], Run],
    options: argparse.Namespace,
    argv: Sequence[str] | None = None,
    program: str | None = None,
    models: Callable[[], str] = str,
) -> int:
    """Run ``train(options)``, print what it returns; return the exit status.

    0: done; 2: bad input, or a loss that is not finite, which one line says; 130: the user stopped.

    Args:
        train: of a script.
        options: its argument.
        argv: the command line, for the word on how to go on; None: the process's own.
        program: what Python runs; default: the script.
        models: what ``--list-models`` prints instead of a training.
    """
    if getattr(options, "list_models", False):
        print(models())
        return 0
    try:
        result = train(options)
    except (DataError, Diverged, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        if is_first():
            words = [*(sys.argv[1:] if argv is None else argv)]
            command = command_to_resume(program or shlex.quote(sys.argv[0]), words)
            print(f"{stopped}\nGo on with: {command}", file=sys.stderr)
        return 130
    say(str(result))
    return 0


def command_to_resume(program: str, words: Sequence[str]) -> str:
    """Return what goes on with the run of these words, by ``torchrun`` where that runs it."""
    launcher = "python"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local, world = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        nodes = f"--nnodes {world // local} " if world > local else ""
        launcher = f"torchrun {nodes}--nproc-per-node {local}"
    kept = [word for word in words if word not in ("--overwrite", "--resume")]
    return f"{launcher} {program} {shlex.join([*kept, '--resume'])}"
