"""The regime in miniature: its data, its order, a run that is killed, and what is concluded."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import regime
from benchmarks.imagenet import Crops, pictures
from benchmarks.pages import regime as pages
from benchmarks.pages.numbers import gaps
from benchmarks.record import Record

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 14 pictures of noise around a colour of their own."""
    top, rng = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    for number, wnid in enumerate(("n1", "n2", "n3")):
        images = top / "train" / wnid / "images"
        images.mkdir(parents=True)
        for k in range(14):
            pixels = rng.integers(0, 128, (64, 64, 3)) + 60 * (np.arange(3) == number)
            Image.fromarray(pixels.astype(np.uint8)).save(images / f"{wnid}_{k}.JPEG")
    return top


def command(folder: Path, out: Path) -> list[str]:
    words = ["--data", str(folder), "--scale", "tiny", "--work", str(out), "--results", str(out)]
    return [sys.executable, "-m", "benchmarks.regime", *words]


def without_times(path: Path) -> dict[str, object]:
    found = json.loads(path.read_text())
    return {name: run | {"cpu_minutes": 0} for name, run in found.items()}


def test_a_clone_has_the_pictures_of_the_folder(folder: Path, tmp_path: Path) -> None:
    clone, scale = tmp_path / "clone", regime.SCALES["tiny"]
    subprocess.run(["cp", "-r", str(folder), str(clone)], check=True)
    git = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], check=True)
    places = {"a.npz": folder, "b.npz": clone / ".git"}
    one, other = (pictures(x, scale, tmp_path / name) for name, x in places.items())
    torch.testing.assert_close(one, other)
    assert [len(rows.y) for rows in one.values()] == [24, 9, 9]
    assert one["train"].y.bincount().tolist() == [8, 8, 8]
    torch.testing.assert_close(one["train"].x.mean((0, 1, 2)), torch.zeros(3), atol=1e-5, rtol=0)


def test_a_variant_is_the_crop_and_flip_that_it_names() -> None:
    x = torch.arange(2.0 * 16 * 16 * 3).reshape(2, 16, 16, 3)
    crops = Crops(16)
    padded = torch.zeros(2, 20, 20, 3)
    padded[:, 2:18, 2:18] = x
    torch.testing.assert_close(crops.padded(x), padded)
    assert crops.variants == 50
    for variant in (0, 1, 2, 3, 24, 25, 49):
        top, left = divmod(variant // 2, 5)
        expected = padded[1, top : top + 16, left : left + 16]
        expected = expected.flip(1) if variant % 2 else expected
        found = crops.cut(padded, torch.tensor([1]), torch.tensor([variant]))
        torch.testing.assert_close(found[0], expected.permute(2, 0, 1))


def test_stored_logits_are_those_of_the_teacher_that_runs(folder: Path, tmp_path: Path) -> None:
    tiny = regime.Regime("tiny", folder, tmp_path, tmp_path)
    tiny.teacher()
    rows, index = tiny.taught(), torch.tensor([5, 0, 23])
    batch = tiny.crops(rows, index, torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        batch.teacher.float(), tiny.network(batch.x).detach(), atol=2e-2, rtol=1e-2
    )
    assert batch.y.tolist() == rows.y[index].tolist()
    seen = []
    for stores in (True, False):
        tiny.scale = dataclasses.replace(tiny.scale, stores=stores)
        tiny.run(regime.Job("CE + KD", 0, 1), "kd", 0.05)
        seen.append(tiny.runs()["trial 1|CE + KD|0"]["validation"])
    assert seen[0] == pytest.approx(seen[1], abs=12)  # one of nine pictures; float16


def test_the_best_trial_is_tested_and_none_before_all_are_there() -> None:
    job = regime.Job("CE + KD", 0)
    runs = {regime.Job("CE + KD", 100, k).name: {"validation": v} for k, v in enumerate((1, 3, 3))}
    assert regime.setting(job, runs) == ("kd:temperature=4,weight_ce=1,weight=0.6", 0.05)
    del runs["trial 2|CE + KD|100"]
    assert regime.setting(job, runs) is None


def test_a_killed_queue_ends_with_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    quiet = {"cwd": ROOT, "env": env, "stdout": subprocess.DEVNULL}
    for _ in range(3):
        process = subprocess.Popen(command(folder, killed), **quiet)
        before, path = time.monotonic(), killed / "regime_tiny.json"
        count = len(Record(path).runs())
        while time.monotonic() - before < 120 and process.poll() is None:
            time.sleep(0.2)
            if len(Record(path).runs()) > count + 2:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
    for out in (whole, killed):
        subprocess.run(command(folder, out), **quiet, check=True)
    found = without_times(killed / "regime_tiny.json")
    assert found == without_times(whole / "regime_tiny.json")
    assert len(found) == 1 + len(regime.jobs(regime.SCALES["tiny"]))


def test_a_second_scale_takes_the_trials_of_the_first_alone(tmp_path: Path) -> None:
    trials, own = (Record(tmp_path / f"{name}.json") for name in ("trials", "own"))
    for job in regime.jobs(regime.SCALES["small"]):
        trials.add(job.name, {"validation": 1.0})
    found = regime.runs_of(trials, own)
    assert len(found) == 3 * len(regime.ROWS)
    second = regime.jobs(regime.SCALES["fifty"])
    assert not any(job.name in found for job in second)
    assert {regime.ROWS[job.row].seeds for job in second} == {6}


def test_a_pair_has_the_teacher_in_common() -> None:
    runs = {
        regime.Job(row, seed).name: {"test": float(seed), "teacher": teacher}
        for row, taught in (("MCLD", "ab"), ("CE + KD", "aa"))
        for seed, teacher in enumerate(taught)
    }
    assert gaps(*(pages.scores(runs, row) for row in ("MCLD", "CE + KD"))) == [0.0]


def test_what_an_interval_says() -> None:
    ends = ((0.1, 0.9), (-0.9, -0.1), (-0.4, 0.4), (0.1, 0.4), (-0.6, 0.4), (-0.1, 0.7))
    found = [pages.verdict(low, high) for low, high in ends]
    assert found == ["better", "worse", "level", "level", "open", "open"]


def test_the_committed_page_is_made_of_the_committed_runs(tmp_path: Path) -> None:
    """If not: python -m benchmarks.regime --page."""
    for path in regime.RESULTS.glob("regime_*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for path in tmp_path.glob("regime_*.md"):
        pages.write(path.stem.removeprefix("regime_"), tmp_path)
        assert path.read_text("utf-8") == (regime.RESULTS / path.name).read_text("utf-8")
