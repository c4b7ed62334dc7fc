"""What a comparison trains: the teacher of each seed, trials, and each method with each seed."""

from __future__ import annotations

import argparse
import functools
import importlib
import statistics
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes import say
from recipes.comparing.paired import words_of
from recipes.comparing.spaces import search_space
from recipes.comparing.tuning import tune
from recipes.data import Dataset
from recipes.data.load import load_data
from recipes.files import DataError, write_json
from recipes.methods import METHODS, settings
from recipes.run import Diverged, Run, validation_score
from recipes.teachers import is_own
from recipes.watching import duration

from benchmarks.comparison.line import Line
from benchmarks.comparison.tables import spread, test_score

PRESETS: dict[str, list[str]] = tomllib.loads(Path(__file__).with_name("presets.toml").read_text())
"""Named lists for ``--preset``."""


@dataclass(frozen=True)
class Variant:
    """A method with settings of its own, written ``METHOD`` or ``METHOD:KEY=VALUE,KEY=VALUE``."""

    name: str

    @property
    def method(self) -> str:
        """The method's name."""
        return self.name.partition(":")[0]

    def words(self) -> list[str]:
        """Return what the script's command line says for it."""
        pairs = [pair for pair in self.name.partition(":")[2].split(",") if pair]
        bank = [pair.partition("=")[2] for pair in pairs if pair.startswith("bank_size=")]
        loss = [pair for pair in pairs if not pair.startswith("bank_size=")]
        words = ["--method", self.method]
        words += ["--bank-size", bank[0]] if bank else []
        return words + (["--loss", *loss] if loss else [])


def variant(text: str) -> Variant:
    """Check the method of a variant's text.

    Raises:
        argparse.ArgumentTypeError: an unknown method.
    """
    found = Variant(text)
    if found.method not in METHODS:
        raise argparse.ArgumentTypeError(f"{text!r}: unknown method; known: {', '.join(METHODS)}")
    return found


class Trainings:
    """The trainings of one comparison, by one script.

    Args:
        options: the comparison's own.
        words: the script's options.
        variants: what is compared.

    Raises:
        DataError: an option that the comparison sets itself.
        SystemExit: an option that the script refuses, with its one line.
    """

    def __init__(
        self, options: argparse.Namespace, words: Sequence[str], variants: Sequence[Variant]
    ) -> None:
        self.options, self.words, self.variants = options, list(words), variants
        for own in ("--method", "--seed", "--out"):
            if any(word == own or word.startswith(f"{own}=") for word in words):
                raise DataError(f"{own}: the comparison sets it; see --methods, --seeds, --results")
        self.script: Any = importlib.import_module(options.script)
        self.rates: dict[str, list[str]] = {item.name: [] for item in variants}
        self.base = self.parse(["--method", "mcld"], options.seeds[0], "base")
        for item in variants:
            self.parse(item.words(), options.seeds[0], "check")
        teachers = self.base.teacher
        self.trains_teacher = not self.base.teacher_weights and not any(map(is_own, teachers))
        tuning = options.trials * len(variants) * len(options.tune_seeds)
        per_seed = len(variants) + self.trains_teacher
        self.left = len(options.seeds) * per_seed + tuning
        self.left += len(options.tune_seeds) * self.trains_teacher * bool(tuning)
        self.spent: list[float] = []
        self.teachers: dict[int, Run] = {}
        self.chosen: dict[str, dict[str, Any]] = {}
        self.width = max(len(name) for name in ("teacher", *self.rates))

    @functools.cached_property
    def data(self) -> Dataset:
        """The data set, read once for all trainings."""
        return load_data(self.base)

    def parse(self, words: Sequence[str], seed: int, folder: str) -> argparse.Namespace:
        """Return the script's options for one training."""
        switches = ["--resume"] if self.options.resume else []
        switches += ["--overwrite"] if self.options.overwrite else []
        out = str(self.options.out / folder)
        found: argparse.Namespace = self.script.parse(
            [*self.words, *words, "--seed", str(seed), "--out", out, *switches]
        )
        return found

    def train(self, words: Sequence[str], seed: int, folder: str) -> Run:
        """Train once, and count it."""
        started = time.monotonic()
        options = self.parse(words, seed, folder)
        own = (self.data,) if self.options.script != "tf_imagenet" else ()  # it reads files
        result: Run = self.script.train(options, *own)
        self.spent.append(time.monotonic() - started)
        self.left -= 1
        return result

    def line(self, name: str) -> Line:
        """Return the line that shows the trainings of this name."""
        return Line(f"{name:<{self.width}}")

    def rest(self) -> str:
        """Return how long the trainings that are left will take; nothing after the last."""
        return f"  ({duration(statistics.fmean(self.spent) * self.left)} left)" * bool(self.left)

    def teacher(self, seed: int) -> list[str]:
        """Train the seed's teacher unless it is given; return the words that name its weights.

        Every method is taught by the same weights.
        """
        if not self.trains_teacher:
            return []
        names: list[str] = self.base.teacher
        files = []
        for number, name in enumerate(names):
            folder = f"seed{seed}/teacher{number or ''}"
            words = ["--method", "ce", "--student", name, "--epochs", str(self.base.teacher_epochs)]
            words += ["--lr", str(self.base.teacher_lr), "--no-onnx"]
            result = self.train(words, seed + 1000 * number, folder)
            self.teachers.setdefault(seed, result)
            files.append(str(next((self.options.out / folder).glob("last.*"))))
        return ["--teacher-weights", *files]

    def teach(self, seeds: Iterable[int]) -> dict[int, list[str]]:
        """Train the teachers of the seeds; return for each the words that name its weights."""
        taught, accuracies = {}, []
        with self.line("teacher") as line:
            for seed in seeds:
                taught[seed] = self.teacher(seed)
                if self.trains_teacher:
                    accuracies.append(test_score(self.teachers[seed].rows[-1], self.base.balanced))
                    line.show(self.found(accuracies))
        return taught

    def found(self, accuracies: Sequence[float]) -> str:
        """Return what a line says of the accuracies so far."""
        seeds = f"{len(accuracies)} seed{'s' * (len(accuracies) > 1)}"
        balanced = "balanced " * self.base.balanced
        return f"{spread(accuracies)} % {balanced}of the test split, {seeds}{self.rest()}"

    def tune(self) -> None:
        """Choose each method's values on the validation split, with as many trials for each."""
        options = self.options
        if not options.trials:
            return
        if not self.base.validation_size:
            raise DataError("--trials chooses on the validation split; set --validation-size too")
        taught = self.teach(options.tune_seeds)
        record: dict[str, Any] = {"seeds": options.tune_seeds, "methods": self.chosen}
        for item in self.variants:
            space, start = self.space(item)
            with self.line(item.name) as line:

                def score(
                    values: dict[str, float], item: Variant = item, line: Line = line
                ) -> float:
                    found = self.score(item, values, taught)
                    validated = f"{100 * found:.2f} % of the validation split"
                    line.show(f"{words_of(values)}: {validated}{self.rest()}")
                    return found

                found = tune(score, space, options.trials, first=start)
                chosen = f"{100 * found.score:.2f} % of the validation split"
                line.show(f"chosen: {words_of(found.best)}, {chosen}{self.rest()}")
            self.rates[item.name] = self.tuned(item, found.best)
            self.chosen[item.name] = found.record()
            write_json(options.out / "tuning.json", record)

    def score(
        self, item: Variant, values: Mapping[str, float], taught: dict[int, list[str]]
    ) -> float:
        """Return the validation accuracy of values, the mean over the seeds; diverged counts 0."""
        words, scores = [*item.words(), *self.tuned(item, values), "--no-onnx"], []
        at = "-".join(f"{name}{value:.6g}" for name, value in values.items())
        for seed in self.options.tune_seeds:
            folder = f"trials/{folder_name(item.name)}/{at}-seed{seed}"
            try:
                rows = self.train([*words, *taught[seed]], seed, folder).rows
                scores.append(validation_score(rows[-1]))
            except Diverged as error:
                self.left -= 1
                say(str(error))
                scores.append(0.0)
        return statistics.fmean(scores)

    def space(self, item: Variant) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
        """Return what trials search, name → (lowest, highest), and the values of the first.

        A constant that the variant's text names stays as it is.
        """
        options, first = self.options, self.parse(item.words(), 0, "check")
        return search_space(item.name, settings(first), first.lr, options.span, options.constants)

    def tuned(self, item: Variant, values: Mapping[str, float]) -> list[str]:
        """Return the words of chosen values; they stand behind the variant's own."""
        words = ["--lr", repr(values["lr"])]
        own = [f"{name}={value!r}" for name, value in values.items() if name != "lr"]
        known = self.parse(item.words(), 0, "check").loss
        return words + (["--loss", *known, *own] if own else [])

    def run(self) -> dict[tuple[str, int], Run]:
        """Train each variant with each seed, a line a variant; return results by (name, seed)."""
        results: dict[tuple[str, int], Run] = {}
        taught, last = self.teach(self.options.seeds), self.variants[-1].name
        for item in self.variants:
            accuracies: list[float] = []
            with self.line(item.name) as line:
                for seed in self.options.seeds:
                    first = seed == self.options.seeds[0]
                    exports = first and item.name == last and self.base.onnx
                    words = [*item.words(), *self.rates[item.name], *taught[seed]]
                    words += [] if exports else ["--no-onnx"]
                    folder = f"seed{seed}/{folder_name(item.name)}"
                    result = results[item.name, seed] = self.train(words, seed, folder)
                    accuracies.append(test_score(result.rows[-1], self.base.balanced))
                    line.show(self.found(accuracies))
        return results

    def untrained(self) -> Run:
        """Return the student of the first seed before its training."""
        seed, words = self.options.seeds[0], ["--method", "ce", "--epochs", "0"]
        options = self.parse(words, seed, f"seed{seed}/untrained")
        with self.line("report"):
            result: Run = self.script.train(options)
        return result


def folder_name(name: str) -> str:
    """Return a variant's name as a folder may be called."""
    return "".join(letter if letter.isalnum() or letter in "-_.=" else "_" for letter in name)
