"""Where else the numbers of a training go: TensorBoard's files, Weights & Biases, MLflow."""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .run import Row


def open_sinks(name: str, options: argparse.Namespace) -> list[Any]:
    """Return what ``--tensorboard`` and ``--track`` ask for, of the run ``name``."""
    sinks: list[Any] = [Scalars(options.out / "tensorboard")] if options.tensorboard else []
    return [*sinks, Tracker(options.track, name, vars(options))] if options.track else sinks


class Scalars:
    """TensorBoard's scalars, by the package `tensorboard` without TensorFlow."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"events.out.tfevents.{time.time_ns()}"
        self._records = RecordWriter(open(path, "wb"))  # noqa: SIM115  (close() closes it)
        self._write(file_version="brain.Event:2")

    def add(self, row: Row) -> None:
        """Add an epoch's numbers."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=key, simple_value=value)
            for key, value in row.items()
            if key != "epoch"
        ]
        self._write(step=row["epoch"], summary=Summary(value=values))

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())
        self._records.flush()

    def close(self) -> None:
        """Finish the file."""
        self._records.close()


class Tracker:
    """A run at Weights & Biases or MLflow, as far as their package is set up."""

    def __init__(self, track: str, name: str, options: Mapping[str, Any]) -> None:
        self._package = importlib.import_module(track)
        noted = {key: str(value) for key, value in options.items()}
        self._wandb = track == "wandb"
        if self._wandb:
            self._run = self._package.init(name=name, config=noted)
        else:
            self._run = self._package.start_run(run_name=name)
            self._package.log_params(noted)

    def add(self, row: Row) -> None:
        """Send an epoch's numbers."""
        numbers = {key: value for key, value in row.items() if key != "epoch"}
        if self._wandb:
            self._run.log(numbers, step=row["epoch"])
        else:
            self._package.log_metrics(numbers, step=row["epoch"])

    def close(self) -> None:
        """End the run."""
        if self._wandb:
            self._run.finish()
        else:
            self._package.end_run()
