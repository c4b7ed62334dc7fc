"""The method's own regime in miniature: a teacher trained on the same data, crops and flips, steps.

    python -m benchmarks.regime --data FOLDER            a core and about 20 hours
    python -m benchmarks.regime --data FOLDER --full     an accelerator

trains what is not yet in ``benchmarks/results/regime_SCALE.json``, one run after the other: the
teacher, three trials of each row of the registered differences, their tests, seed by seed, then
the same of the other rows. A second scale (``--scale fifty``) tests the rows of the registered
differences alone, with the settings of the first. It may be killed at any time and goes on with the
same command; ``--abreast 2`` (or a second start) shares the runs between processes. ``--page``
writes the tables into ``regime_SCALE.md`` and trains nothing.

FOLDER is Tiny-ImageNet (``train/<wnid>/images/*.JPEG``), or a git clone that has it, bare or not.
Classes are every third of the sorted names (``--full``: every second); a picture is shrunk by the
mean of blocks. Of a class, the first pictures in a shuffled order train; the others are validation
and test, halved.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.fit import InMemory, Rows, accuracy, device, fit, predict, steps
from benchmarks.imagenet import Crops, pictures
from benchmarks.losses import loss_of
from benchmarks.networks import resnet
from benchmarks.record import Record, locked, replaced

RESULTS = Path(__file__).parent / "results"
WEIGHTS = (0.2, 0.6, 1.8)
RATE, TRIAL_SEED = 0.05, 100


@dataclass(frozen=True)
class Scale:
    """Data, networks and lengths of one table."""

    classes: int = 60
    every: int = 3
    pictures: int = 200
    held_out: int = 200  # the first picture of a class that is for validation or test
    side: int = 16
    teacher: tuple[int, int] = (20, 1)
    student: tuple[int, int] = (8, 1)
    trial_epochs: int = 80
    epochs: int = 240
    seeds: int = 6  # at most
    stores: bool = True  # the teacher's logits of all variants; else it runs in each step
    trials_of: str = ""  # the scale whose chosen settings are used


SCALES = {
    "small": Scale(),
    "fifty": Scale(pictures=50, trials_of="small"),
    "wide": Scale(teacher=(20, 2), student=(8, 2), trials_of="small"),
    "full": Scale(100, 2, 400, 400, side=32, teacher=(32, 4), student=(8, 4), stores=False),
    "tiny": Scale(3, 1, 8, 8, teacher=(8, 1), trial_epochs=1, epochs=2, seeds=1),
}
"""ResNets by depth and width; "tiny" is for tests."""


class Row(NamedTuple):
    """A row: the losses of its three trials, their rates, and how many seeds test it."""

    texts: tuple[str, str, str]
    seeds: int = 3
    rates: tuple[float, float, float] = (RATE, RATE, RATE)


def three(text: str, seeds: int = 3) -> Row:
    """Return a row whose text has the weight as ``{w}``, and a quarter of it as ``{q}``."""
    return Row(tuple(text.format(w=w, q=round(w / 4, 4)) for w in WEIGHTS), seeds)


MCLD_CE = "mcld-ce:weight_instance={w},weight_sample={q},weight_category={w}"
SOFT = "CE + sample-wise + soft"
ROWS = {
    "CE + sample-wise": three("sample:weight_sample={w}", 6),
    "MCLD + CE": three(MCLD_CE, 6),
    "MCLD": three("mcld:weight_sample={w}", 6),
    "CE + KD": three("kd:temperature=4,weight_ce=1,weight={w}", 6),
    SOFT: three("sample:soft_targets=True,weight_sample={{sample}},weight_instance={w}", 6),
    "CE": Row(("ce", "ce", "ce"), 3, (0.02, RATE, 0.125)),
    "CE + DKD": Row(("dkd:weight=0.2,beta=8", "dkd:weight=0.6,beta=4", "dkd:weight=1.8,beta=2")),
    "CE + NKD": three("nkd:weight={w}"),
    "MCLD + CE, no ramp": three(MCLD_CE + ",category_warmup=0"),
}
"""KD at T = 4; DKD at T = 4 with its ramp over the first twelfth; NKD at gamma 1.5, T = 1."""


class Job(NamedTuple):
    """A run: its name in the record is all that tells it from others."""

    row: str
    seed: int
    trial: int | None = None  # 0, 1, 2; None is a test

    @property
    def name(self) -> str:
        """The key in the record."""
        part = "test" if self.trial is None else f"trial {self.trial}"
        return f"{part}|{self.row}|{self.seed}"


def jobs(scale: Scale) -> list[Job]:
    """Return all runs but the teacher's, in the order in which they are trained."""
    found, counts = [], sorted({row.seeds for row in ROWS.values()}, reverse=True)
    # the rows of the registered differences, which have the most seeds, first; a second scale has
    # these alone
    for seeds in counts[:1] if scale.trials_of else counts:
        rows = [row for row in ROWS if ROWS[row].seeds == seeds]
        if not scale.trials_of:
            found += [Job(row, TRIAL_SEED, k) for row in rows for k in range(3)]
        found += [Job(row, seed) for seed in range(min(seeds, scale.seeds)) for row in rows]
    return found


def chosen(row: str, runs: dict[str, Any]) -> int | None:
    """Return the trial with the best validation accuracy (the first of equals), None until all."""
    scores = [runs.get(Job(row, TRIAL_SEED, k).name) for k in range(3)]
    if None in scores:
        return None
    return max(range(3), key=lambda k: scores[k]["validation"])


def setting(job: Job, runs: dict[str, Any]) -> tuple[str, float] | None:
    """Return a run's loss and rate; None while they wait for trials."""
    row, trial = ROWS[job.row], job.trial if job.trial is not None else chosen(job.row, runs)
    if trial is None:
        return None
    text = row.texts[trial]
    if "soft_targets" in text:
        if (sample := chosen("CE + sample-wise", runs)) is None:
            return None
        text = text.format(sample=WEIGHTS[sample])
    return text, row.rates[trial]


def runs_of(trials: Record, record: Record) -> dict[str, Any]:
    """Return the trials of one record and all runs of another."""
    found = trials.runs().items()
    return {name: run for name, run in found if name.startswith("trial")} | record.runs()


def digest(path: Path) -> str:
    """Return twelve digits that tell a file from others."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


class Regime:
    """The runs of one scale: their data, teacher, record and checkpoints."""

    def __init__(self, name: str, data: Path, work: Path, results: Path) -> None:
        self.scale, self.work, self.device = SCALES[name], work / name, device()
        self.record = Record(results / f"regime_{name}.json")
        before = self.scale.trials_of
        self.trials = Record(results / f"regime_{before}.json") if before else self.record
        self.work.mkdir(parents=True, exist_ok=True)
        with locked(self.work):
            self.splits = pictures(data, self.scale, self.work / "pictures.npz")
        self.crops = Crops(self.scale.side)
        train = self.splits["train"]
        self.train = Rows(self.crops.padded(train.x).to(self.device), train.y)
        for part in ("validation", "test"):
            rows = self.splits[part]
            self.splits[part] = Rows(rows.x.permute(0, 3, 1, 2), rows.y)

    def fit(self, name: str, net: tuple[int, int], text: str, epochs: int, **options: Any) -> Any:
        """Train a network with a checkpoint of its own."""
        gpu = self.device.type != "cpu"
        options.setdefault("lr", RATE)
        return fit(
            lambda: resnet(*net, self.scale.classes),
            InMemory(options.pop("rows", self.train), 64, self.crops),
            loss_of(text),
            epochs=epochs,
            schedule=steps,
            checkpoint=self.work / f"{name.replace('|', '-').replace(' ', '_')}.pt",
            where=self.device,
            autocast=torch.bfloat16 if gpu else None,
            **options,
        )

    def teacher(self) -> str:
        """Train the teacher where there is none, and load it; return what tells it from others."""
        path, scale = self.work / "teacher.pt", self.scale
        self.network = resnet(*scale.teacher, scale.classes)
        if not path.is_file():
            started = time.process_time()
            model = self.fit("teacher-run", scale.teacher, "ce", scale.epochs, seed=1000)
            self.network.load_state_dict(model.state_dict())
            scores = self.scores(self.network.eval())
            scores["train"] = round(accuracy(self.network, self.plain()), 3)
            with replaced(path) as new:
                torch.save(self.network.state_dict(), new)
            minutes = round((time.process_time() - started) / 60, 1)
            self.record.add(f"teacher|{digest(path)}", scores | {"cpu_minutes": minutes})
        self.network.load_state_dict(torch.load(path, weights_only=True))
        self.network.eval()
        return digest(path)

    def plain(self) -> Rows:
        """Return the training pictures without crops and flips."""
        return Rows(self.splits["train"].x.permute(0, 3, 1, 2), self.splits["train"].y)

    def scores(self, model: torch.nn.Module) -> dict[str, float]:
        """Return validation and test accuracy."""
        parts = ("validation", "test")
        return {part: round(accuracy(model, self.splits[part]), 3) for part in parts}

    def taught(self) -> Rows:
        """Return the training rows with the teacher's logits of every variant, stored once."""
        path, rows, crops = self.work / "teacher_logits.npy", len(self.train.y), self.crops
        if not path.is_file():
            shape = (rows, crops.variants, self.scale.classes)
            stored = np.empty(shape, np.float16)
            index = torch.arange(rows)
            for variant in range(crops.variants):
                which = torch.full((rows,), variant)
                found = [
                    predict(self.network, crops.cut(self.train.x, part, which[part]))
                    for part in index.split(2000)
                ]
                stored[:, variant] = torch.cat(found).numpy()
            with replaced(path) as new, new.open("wb") as file:
                np.save(file, stored)
        return self.train._replace(teacher=torch.from_numpy(np.load(path, mmap_mode="c")))

    def run(self, job: Job, text: str, lr: float) -> None:
        """Train and record one run."""
        scale, options, started = self.scale, {}, time.process_time()
        taught_by = None if text == "ce" else self.teacher()
        if taught_by:
            if scale.stores:
                with locked(self.work):  # one process makes what all read
                    options["rows"] = self.taught()
            else:
                options["teacher"] = self.network.to(self.device)
        epochs = scale.epochs if job.trial is None else scale.trial_epochs
        model = self.fit(job.name, scale.student, text, epochs, lr=lr, seed=job.seed, **options)
        scores = self.scores(model)
        if job.trial is not None:
            del scores["test"]
        minutes = round((time.process_time() - started) / 60, 1)
        known = {"loss": text, "lr": lr, "epochs": epochs, "cpu_minutes": minutes}
        self.record.add(job.name, scores | known | {"teacher": taught_by})

    def queue(self, say: Any = print) -> None:
        """Train all that is not there and can be, one run after the other."""
        self.work.joinpath("locks").mkdir(exist_ok=True)
        while True:
            waiting = False
            for job in [Job("teacher", 1000), *jobs(self.scale)]:
                teacher = job.row == "teacher"
                done = (self.work / "teacher.pt").is_file() if teacher else job.name in self.runs()
                found = ("ce", RATE) if teacher else setting(job, self.runs())
                if done or found is None:
                    continue
                if not (teacher or found[0] == "ce" or (self.work / "teacher.pt").is_file()):
                    continue
                lock = self.work / "locks" / job.name.replace("|", "-").replace(" ", "_")
                lock.touch()
                with locked(lock, wait=False) as mine:
                    if not mine:
                        waiting = True
                        continue
                    say(f"{time.strftime('%H:%M:%S')} {job.name}: {found}", flush=True)
                    started = time.monotonic()
                    if teacher:
                        self.teacher()
                    else:
                        self.run(job, *found)
                    spent = (time.monotonic() - started) / 60
                    say(f"  {spent:.1f} min: {self.runs().get(job.name, '')}", flush=True)
                    break  # trials may have made an earlier one possible
            else:
                if not waiting:
                    return
                time.sleep(20)

    def runs(self) -> dict[str, Any]:
        """Return the runs of this scale, and the trials that it uses, maybe another scale's."""
        return runs_of(self.trials, self.record)


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not there yet, or write the page; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.regime",
        description="Train what is not yet in the record, also after a kill.",
    )
    parser.add_argument("--data", type=Path, help="Tiny-ImageNet, or a git clone that has it")
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--full", action="store_const", dest="scale", const="full")
    parser.add_argument("--work", type=Path, default=Path("runs", "regime"), help="checkpoints")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the record's folder")
    parser.add_argument("--abreast", type=int, default=1, help="processes that share the runs")
    parser.add_argument("--page", action="store_true", help="write the page's tables, no training")
    options = parser.parse_args(argv)
    if options.page:
        from benchmarks.pages.regime import write

        print(write(options.scale, options.results))
        return 0
    if options.data is None:
        parser.error("--data: name the folder of Tiny-ImageNet")
    words = ["--data", str(options.data), "--scale", options.scale]
    words += ["--work", str(options.work), "--results", str(options.results)]
    command = [sys.executable, "-m", "benchmarks.regime", *words]
    others = [subprocess.Popen(command) for _ in range(options.abreast - 1)]
    Regime(options.scale, options.data, options.work, options.results).queue()
    return max((other.wait() for other in others), default=0)


if __name__ == "__main__":
    sys.exit(main())
