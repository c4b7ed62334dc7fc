"""``python -m mcld_core`` itself, and what the library may know of the examples: nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mcld_core
from mcld_core.__main__ import main


@pytest.mark.parametrize(
    ("option", "said"),
    [("--help", "export"), ("-h", "export"), ("--version", f"mcld {mcld_core.__version__}\n")],
)
def test_questions_are_answered(option: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([option])
    assert end.value.code == 0
    assert said in capsys.readouterr().out


def test_the_library_names_no_example() -> None:
    folder = Path(mcld_core.__file__).parent
    files = list(folder.rglob("*.py"))
    assert len(files) > 20
    assert [path for path in files if re.search(r"\bexamples\b", path.read_text("utf-8"))] == []
