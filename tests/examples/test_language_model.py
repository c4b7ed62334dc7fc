"""The script for language models: from text to a sample, killed, resumed, with bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import language_model
import pytest
import torch

from tests.examples.conftest import EXAMPLES

SMALL = (
    "--vocabulary 300 --length 16 --width 8 --teacher-steps 4 --steps 6 --save-steps 2 --words 4"
)


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_model, "ROWS", 48)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for name in sorted(topics)[:6]:
        (folder / f"{name}.txt").write_text(topics[name], "utf-8")
    return folder


def run(text: Path, out: Path, *more: object) -> int:
    words = [*SMALL.split(), "--data-dir", text, "--out", out, *more]
    return language_model.main(list(map(str, words)))


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def test_a_run_that_is_killed_twice_ends_as_one_that_is_not(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert run(text, whole) == 0
    found = results(whole)
    assert set(found["test"]) == {"teacher", "student", "student, without it"}
    assert 1 < found["test"]["teacher"]["perplexity"] < 300
    assert found["test"]["teacher"]["acceptance"] == pytest.approx(1.0, abs=1e-4)
    assert found["sample"].startswith("The ")
    assert len(list((whole / "stored").glob("*.parquet"))) == 2  # 96 windows are read

    code = f"""if True:
        import os, signal, sys
        sys.path[:0] = [{str(EXAMPLES)!r}, {str(EXAMPLES.parent)!r}]
        import datasets, language_model
        language_model.ROWS, write = 48, datasets.Dataset.to_parquet
        def killed(self, path, **options):
            write(self, path, **options)
            if path.endswith("00001.tmp"):
                os.kill(os.getpid(), signal.SIGKILL)
        datasets.Dataset.to_parquet = killed
        language_model.main({[*SMALL.split(), "--data-dir", str(text), "--out", str(torn)]!r})
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=600)
    assert done.returncode == -9, done.stderr.decode()[-2000:]
    assert sorted(x.name for x in (torn / "stored").iterdir()) == ["00000.parquet", "00001.tmp"]
    first = (torn / "stored" / "00000.parquet").stat().st_mtime_ns

    step, steps = torch.optim.AdamW.step, []

    def stopped(self: Any, *given: Any, **options: Any) -> Any:
        steps.append(0)
        if len(steps) == 11:  # the sixth and last of the second student, behind a checkpoint
            raise KeyboardInterrupt
        return step(self, *given, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", stopped)
    assert run(text, torn) == 2  # it has a run, and neither --resume nor --overwrite was said
    assert run(text, torn, "--resume") == 130
    assert (torn / "checkpoints" / "student" / "checkpoint-4").is_dir()
    assert run(text, torn, "--resume") == 0
    assert results(torn) == found
    assert (torn / "stored" / "00000.parquet").stat().st_mtime_ns == first


def test_a_teacher_of_ones_own_and_the_largest(text: Path, tmp_path: Path) -> None:
    assert run(text, tmp_path / "first", "--steps", 2) == 0
    teacher = tmp_path / "first" / "teacher"
    options = ("--teacher", teacher, "--keep", 500, "--ce-weight", 0.5)
    assert run(text, tmp_path / "second", *options) == 0
    first, second = (results(tmp_path / x)["test"]["teacher"] for x in ("first", "second"))
    assert first == second


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--data-dir", "{}"], "--data-dir: there is no .txt file in"),
        (["--data-dir", "{}/latin"], "latin1.txt is not UTF-8"),
        (["--data-dir", "{}/short"], "the text gives 1 windows of 48 tokens; give 40 or more"),
        (["--teacher", "{}/none"], "none"),
        (["--width", "12"], "--width needs a multiple of 8"),
        (["--prompt", ""], "--prompt a text"),
        (["--steps", "0"], "--steps needs at least 1"),
        (["--length", "0"], "--length needs at least 1"),
        (["--resume"], "there is no run in"),
    ],
)
def test_bad_input_is_said_in_one_line(
    words: list[str], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in (("latin/latin1.txt", b"\xe9t\xe9 "), ("short/a.txt", b"word " * 40)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
    os.environ["HF_HUB_OFFLINE"] = "1"
    folder = tmp_path / "empty"
    folder.mkdir()
    words = [
        x.format(folder if x == "{}" else tmp_path) for x in [*words, "--out", f"{tmp_path}/out"]
    ]
    assert language_model.main(words) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    assert said[0].startswith("error: ")
    assert error in said[0]
