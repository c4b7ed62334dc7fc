"""Further studies: wrong teachers, series, drawings with names, language models; readers."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import comparison, language_models, modalities, noisy_teacher, series
from benchmarks.fit import Rows
from mcld_core.extensions.nlp import TopKLogits, token_kd_loss
from mcld_core.extensions.teachers import repair_rows


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


@pytest.fixture
def emoji(tmp_path: Path) -> Path:
    """Two subcategories of ten emoji, one of two; the second vendor lacks the first emoji."""
    kinds = ["fruit"] * 10 + ["bird"] * 10 + ["rare"] * 2
    entries = [{"subcategory": kind, "image": f"{k}.png", "name": f"{kind} {k}", "short_names": []}
               for k, kind in enumerate(kinds)]  # fmt: skip
    for vendor in ("google", "twitter"):
        path = tmp_path / f"emoji-datasource-{vendor}-16.0.0.tgz"
        with tarfile.open(path, "w:gz") as archive:
            add(archive, "package/emoji.json", json.dumps(entries).encode())
            for k in range(1 if vendor == "twitter" else 0, len(entries)):
                file = io.BytesIO()
                Image.new("RGBA", (64, 64), (10 * k, 0, 0, 255)).save(file, "PNG")
                add(archive, f"package/img/{vendor}/64/{k}.png", file.getvalue())
    return tmp_path


@pytest.fixture
def leaf(tmp_path: Path) -> Path:
    """Ten series of two classes, of 128 to 300 steps."""
    rng = np.random.default_rng(0)
    (tmp_path / "OSULeaf").mkdir()
    for part in ("TRAIN", "TEST"):
        lines = ["# a comment", "@data"]
        for k in range(10):
            values = rng.normal(k % 2, 1, 128 + 19 * k)
            lines.append(",".join(f"{value:.3f}" for value in values) + f":{k % 2 + 1}")
        (tmp_path / "OSULeaf" / f"OSULeaf_{part}.ts").write_text("\n".join(lines) + "\n")
    return tmp_path


def run(name: str, folder: Path, out: Path) -> str:
    words = ["--dataset", name, "--data-dir", str(folder), "--epochs", "1", "--seeds", "0"]
    assert comparison.main([*words, "--out", str(out)]) == 0
    return (out / "results.md").read_text("utf-8")


def test_drawings_with_names(emoji: Path, tmp_path: Path) -> None:
    parts = modalities.read(emoji)
    assert {name: rows.y.unique().tolist() for name, rows in parts.items()} == {
        name: [0, 1] for name in ("train", "validation", "test")
    }
    assert sum(len(rows.y) for rows in parts.values()) == 39  # both drawings of an emoji, once each
    pixels = [set(rows.x[:, 0].tolist()) for rows in parts.values()]
    assert not pixels[0] & pixels[2]  # an emoji is on one side
    assert all(f"| {row} | " in run("emoji", emoji, tmp_path / "out") for row in modalities.ROWS)


def test_series(leaf: Path, tmp_path: Path) -> None:
    some = series.SETS["leaf"]
    rows, windows = series.read(some, leaf)["train"]
    assert rows.x.shape[1:] == (2, 128)
    assert len(set(windows.series.tolist())) == 8
    text = run("leaf", leaf, tmp_path / "out")
    assert all(f"| {row} | " in text for row in series.ROWS)
    assert "10 test rows alone" in text


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Thirty texts of made-up words, laid out as 20 Newsgroups."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(60)]
    for part in ("train", "test"):
        rows = [f"group\t{' '.join(rng.choice(words, 40))}\n" for _ in range(30)]
        lines = ["class\ttext\n", "discrete\tstring\n", "class\t\n", *rows]
        (tmp_path / f"20newsgroups-{part}.tab").write_text("".join(lines))
    return tmp_path


@pytest.mark.filterwarnings("ignore:TopKLogits. 8 classes hold")
def test_language_models(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, and trials that choose the lowest perplexity."""
    monkeypatch.setattr(
        language_models, "SIZES", language_models.Sizes(300, 16, 4, 3, 3, 4, 32, 32)
    )
    words = ["--dataset", "tokens", "--data-dir", str(texts), "--trials", "3"]
    words += ["--tune-seeds", "100", "--seeds", "0", "1", "--out", str(tmp_path / "out")]
    assert comparison.main(words) == 0
    text = (tmp_path / "out" / "results.md").read_text("utf-8")
    assert all(f"| {row} | lr " in text for row in language_models.ROWS)
    chosen = json.loads((tmp_path / "out" / "results.json").read_text())["chosen"]["tokens|CE"]
    assert chosen["validation"] == min(score for _, score in chosen["trials"])


def test_a_row_keeps_of_the_teacher_what_it_says() -> None:
    s, t = torch.randn(2, 3, 5, 20, generator=torch.Generator().manual_seed(0))
    y = torch.randint(20, (3, 5))
    top = TopKLogits.from_logits(t, 8)
    kept = {"all": t, "top": top, "bare": TopKLogits(top.values, top.indices)}
    for kind, teacher in kept.items():
        loss = language_models.row_loss("", f"{kind}:0.5", None)
        expected = token_kd_loss(s, teacher, y, ce_weight=0.5)
        torch.testing.assert_close(loss(s, t, y, 0.0), expected)
    draws = language_models.row_loss("", "draws:0", None)
    mean = torch.stack([draws(s, t, y, 0.0) for _ in range(2)])
    assert mean[0] != mean[1]  # others are drawn for each batch


def test_wrong_teachers(tmp_path: Path) -> None:
    text = run("noisy-40", tmp_path, tmp_path / "out")
    assert all(f"| {row} | " in text for row in noisy_teacher.ROWS)


def test_a_remedy_sees_the_columns_behind_the_logits() -> None:
    s, t = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    y, trust = torch.tensor([0, 0, 1, 1, 2, 2]), torch.rand(2, 6)
    rows = torch.cat([t, trust.T], 1)
    task = modalities.Task(Rows(s, y, rows), torch.nn.Identity, lambda *_: {}, {})
    for row, weights in (("repaired rows", trust[0]), ("repaired outliers", trust[1])):
        name, text = f"MCLD + CE, {row}", "mcld-ce:weight_sample=0.5"
        found = noisy_teacher.row_loss(name, text, task)(s, rows, y, 0.5)
        expected = noisy_teacher.loss_of(text)(s, repair_rows(t, y, weights), y, 0.5)
        torch.testing.assert_close(found, expected)
