"""Paths and class names that break careless code: spaces, quotes, commas, lines, other scripts."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from examples import predict
from examples.predict import Classifier
from mcld_core.export import cli, convert_float16, export_onnx, quantize_int8
from mcld_core.export.graph import drafted

NAMES = ["cat, tabby", "\"dog\" 'hound'", "größer\nkleiner", "猫", "null", "3", "", "a\tb"]
NAMES += ["é", "\\"]
SHAPE = (3, 8, 8)
ROWS = np.random.default_rng(0).normal(size=(32, *SHAPE)).astype(np.float32)
EVALUATION = ROWS, np.zeros(32, np.int64)

PATHS = ['größer, "it\'s"\n猫.onnx', "no suffix", "n" * 245 + ".onnx"]


def student() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source" / "größer 猫.onnx"
    path.parent.mkdir()
    export_onnx(student(), path, input_shape=SHAPE, metadata={"classes": NAMES})
    return path


def float16(source: Path, path: Path) -> Any:
    return convert_float16(source, path, evaluation=EVALUATION, max_accuracy_drop=1.0)


def int8(source: Path, path: Path) -> Any:
    return quantize_int8(
        source, path, evaluation=EVALUATION, calibration=ROWS, max_accuracy_drop=1.0
    )


def again(source: Path, path: Path) -> Any:
    return export_onnx(student(), path, input_shape=SHAPE, metadata={"classes": NAMES})


WRITERS = [again, float16, int8]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("write", WRITERS)
def test_any_path(write: Callable[..., Any], name: str, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "one more, größer" / name
    path.parent.mkdir()
    assert write(source, path).path == path
    assert Classifier(path).metadata["classes"] == NAMES
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("no/a.onnx", FileNotFoundError, "path needs a folder that exists; got .*a.onnx; create"),
        ("source", IsADirectoryError, "path needs a file; got .*source, a folder"),
        ("a.json", ValueError, "path needs a name for ONNX, such as a.onnx; got .*a.json"),
        ("a.ort", ValueError, "path needs a name for ONNX, such as a.onnx; got .*a.ort"),
    ],
)
@pytest.mark.parametrize("write", WRITERS)
def test_no_path_for_a_file(
    write: Callable[..., Any],
    name: str,
    kind: type[Exception],
    text: str,
    source: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(kind, match=text):
        write(source, tmp_path / name)
    assert list(tmp_path.iterdir()) == [source.parent]


@pytest.mark.parametrize("write", [float16, int8])
def test_an_older_file_survives_a_failed_conversion(
    write: Callable[..., Any], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source.with_name("older.onnx")
    path.write_bytes(b"older")
    monkeypatch.setattr("mcld_core.export.deploy.write_single", lambda model, path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(source, path)
    assert path.read_bytes() == b"older"
    assert set(source.parent.iterdir()) == {source, path}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """The file behind it is replaced, and its folder is the one that needs the space."""
    real, link = tmp_path / "real" / "a.onnx", tmp_path / "link.onnx"
    real.parent.mkdir()
    link.symlink_to(real)
    for _ in range(2):  # to nothing, then to a file
        report = export_onnx(student(), link, input_shape=SHAPE)
        assert link.is_symlink()
        assert real.stat().st_size == report.size
    link.unlink()
    link.symlink_to(tmp_path / "missing" / "a.onnx")
    with pytest.raises(FileNotFoundError, match=r"create .*missing"):
        export_onnx(student(), link, input_shape=SHAPE)


WAITING = """
import sys, time
from pathlib import Path
from mcld_core.export.graph import drafted
with drafted(Path(sys.argv[1])) as draft:
    draft.write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_terminated_export_leaves_no_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITING, str(tmp_path / "a.onnx")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.terminate()
        assert process.wait(30) == 143
    assert list(tmp_path.iterdir()) == []


def test_a_handler_of_the_callers_stays(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with drafted(tmp_path / "a.onnx") as draft:
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            draft.write_bytes(b"whole")
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with drafted(tmp_path / "a.onnx") as draft:
            draft.write_bytes(b"whole")
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_a_string_looks_like_it_stays_a_string(tmp_path: Path) -> None:
    """Even where it reads as JSON."""
    given = {"a": "2024", "b": "null", "c": '"q"', "d": "NaN", "e": "[1]", "f": "größer", "g": ""}
    given |= {"h": 2024, "i": [1, 2], "j": {"mean": [0.5]}, "k": True, "classes": NAMES}
    path = tmp_path / "a.onnx"
    export_onnx(student(), path, input_shape=SHAPE, metadata=given)
    found = Classifier(path).metadata
    assert {key: found[key] for key in given} == given
    plain = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert plain["f"] == "größer"


def test_numpy_values_become_plain_ones(tmp_path: Path) -> None:
    given = {"accuracy": np.float32(0.5), "classes": np.array(NAMES), "seen": np.arange(3)}
    path = tmp_path / "a.onnx"
    export_onnx(student(), path, input_shape=SHAPE, metadata=given)
    found = Classifier(path).metadata
    assert (found["accuracy"], found["classes"], found["seen"]) == (0.5, NAMES, [0, 1, 2])


def test_predict_prints_a_line_an_image(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "one, größer.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
    assert predict.main([str(source), str(image), str(image), "--top", "10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{image}: ")
    assert "größer kleiner 0." in lines[0]


def load(path: Path) -> torch.nn.Module:
    """What the command is told with ``--load``."""
    return student()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_of_the_class_names_is_a_name(end: str, tmp_path: Path) -> None:
    """Unicode knows more ends of a line than a text file does; NEL is often a damaged "…"."""
    names = ["a, b", "c\x85", "d\u2028e", "f\x0c", "", "猫", '"g"', "h", "i", "j"]
    file, out = tmp_path / "names.txt", tmp_path / "a.onnx"
    file.write_bytes((end.join(names) + end).encode())
    command = ["--checkpoint", str(file), "--load", f"{__name__}:load", "--input-shape", "3,8,8"]
    assert cli.main([*command, "--out", str(out), "--class-names", str(file)]) == 0
    assert Classifier(out).metadata["classes"] == names
