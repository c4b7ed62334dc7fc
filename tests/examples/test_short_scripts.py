"""Texts, series, modalities and wrong teachers: each script on a small file of the same format."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from types import ModuleType

import multimodal_emoji
import nlp_newsgroups
import noisy_teacher
import numpy as np
import pytest
import timeseries_vowels
import torch
from PIL import Image


def run(script: ModuleType, out: Path, *words: object) -> dict[str, list[float]]:
    """Run a script; return its numbers after a look at its files."""
    script.main([*map(str, words), "--seeds", "0", "--out", str(out)])
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    if script is not noisy_teacher:
        assert (out / "student.onnx").stat().st_size > 1000
    return json.loads((out / "numbers.json").read_text())


def test_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for part, rows in (("train", 240), ("test", 90)):
        lines = ["class\ttext", "discrete\tstring", "class\t"]
        for row in range(rows):  # three classes, each with words of its own
            words = [f"{'abc'[row % 3]}{'xyz'[i]}" for i in rng.integers(0, 3, 60)]
            lines.append(f"group.{row % 3}\t{' '.join(words)}")
        (tmp_path / f"20newsgroups-{part}.tab").write_text("\n".join(lines) + "\n", "utf-8")
    letters = lambda texts: torch.tensor([[t.count(x) / 60 for x in "abc"] for t in texts])  # noqa: E731
    monkeypatch.setattr(nlp_newsgroups, "embed", letters)  # the encoder's package is 84 MB
    found = run(nlp_newsgroups, tmp_path / "out", "--data-dir", tmp_path, "--epochs", 2)
    assert set(found) == {"the teacher", "CE", "KD + CE", "MCLD + CE"}
    assert min(score for scores in found.values() for score in scores) > 90


def test_series(tmp_path: Path) -> None:
    rng, folder = np.random.default_rng(0), tmp_path / "JapaneseVowels"
    folder.mkdir()
    for part, rows in (("TRAIN", 60), ("TEST", 30)):
        lines = ["@problemName Waves", "@data"]
        for row in range(rows):  # three classes of other frequencies, of other lengths
            time = np.arange(rng.integers(12, 30))
            waves = [np.sin((1 + row % 3) * time / 3 + phase) for phase in (0, 1)]
            noisy = [wave + rng.normal(0, 0.1, len(time)) for wave in waves]
            cells = [",".join(f"{x:.3f}" for x in channel) for channel in noisy]
            lines.append(":".join([*cells, f"speaker{row % 3}"]))
        (folder / f"JapaneseVowels_{part}.ts").write_text("\n".join(lines) + "\n")
    found = run(timeseries_vowels, tmp_path / "out", "--data-dir", tmp_path, "--epochs", 6)
    assert set(found) == {"CE", "KD + CE", "MCLD + CE"}
    assert min(curve[-1] for curves in found.values() for curve in curves) > 80


def test_modalities(tmp_path: Path) -> None:
    for vendor in ("google", "twitter"):
        rng, entries, files = np.random.default_rng(0), [], {}
        for number in range(40):  # the last class has too few members
            label = number // 12
            name = f"{number:04x}.png"
            entry = {"name": f"kind{label} thing{number}", "short_names": [f"k{label}"]}
            entries.append(entry | {"subcategory": f"class {label}", "image": name})
            pixels = rng.integers(0, 120, (64, 64, 4))
            pixels[..., label] += 120
            pixels[..., 3] = 255
            buffer = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8), "RGBA").save(buffer, "PNG")
            files[f"package/img/{vendor}/64/{name}"] = buffer.getvalue()
        files["package/emoji.json"] = json.dumps(entries).encode()
        path = tmp_path / f"emoji-datasource-{vendor}-16.0.0.tgz"
        with tarfile.open(path, "w:gz") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    x, texts, y, tests = multimodal_emoji.read_emoji(tmp_path)
    assert (len(x), set(y.tolist()), int(tests.sum())) == (72, {0, 1, 2}, 18)
    assert torch.equal(tests[::2], tests[1::2])  # both drawings of an emoji on one side
    torch.testing.assert_close(texts.norm(dim=1), torch.full((72,), 4.0))
    found = run(multimodal_emoji, tmp_path / "out", "--data-dir", tmp_path, "--epochs", 80)
    assert len(found) == 6
    assert min(score for scores in found.values() for score in scores) > 60


def test_wrong_teachers(tmp_path: Path) -> None:
    found = run(noisy_teacher, tmp_path, "--epochs", 2, "--teacher-epochs", 4)
    assert len(found) == 6
    assert found["the teacher"]["0"][0] > found["the teacher"]["60"][0] + 5
    for name in ("MCLD + CE", "MCLD + CE, repaired rows", "CE, no teacher"):
        assert min(scores[0] for scores in found[name].values()) > 60, name  # chance: 10


def test_corrupted_labels_are_of_another_class_and_as_many_as_asked_for() -> None:
    labels = torch.arange(10).repeat(1000)
    for percent in (0, 40):
        wrong = noisy_teacher.corrupted(labels, percent, 10, seed=3)
        assert abs(float((wrong != labels).float().mean()) - percent / 100) < 0.02
        assert wrong.min() >= 0
        assert wrong.max() <= 9


@pytest.mark.parametrize("script", [nlp_newsgroups, timeseries_vowels, multimodal_emoji])
@pytest.mark.parametrize("given", [False, True])
def test_data_that_are_missing_are_said_in_one_line(
    script: ModuleType, given: bool, tmp_path: Path
) -> None:
    words = ["--data-dir", str(tmp_path)] if given or script is multimodal_emoji else []
    with pytest.raises(SystemExit, match=r"error: .*(pip install|npm pack)"):
        script.main([*words, "--out", str(tmp_path)])
