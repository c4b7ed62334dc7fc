"""To add a term, a similarity or a baseline takes what CONTRIBUTING says, and nothing else.

Each is added to a copy of the library, in which everything around it must go on working.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import numpy as np
from mcld_core import MCLDConfig, category_wise, instance_wise, kd_loss, mcld_loss
from mcld_core.extensions.nlp import token_mcld_loss
from mcld_core.extensions.teachers import adaptive_mcld_loss

rng = np.random.default_rng(0)
student, teacher = 2 * rng.normal(size=(2, 6, 4))
labels = np.arange(6) % 4
rows = student, teacher, labels
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the library with real folders."""
    for name in ("mcld_core", "backends", "extensions"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True)
    return tmp_path


def insert(path: Path, before: str, text: str) -> None:
    """Write a text before the only place of another."""
    old = path.read_text("utf-8")
    assert old.count(before) == 1
    path.write_text(old.replace(before, text + before), "utf-8")


def run(copy: Path, program: str) -> None:
    """Run a program with the copy, without a framework."""
    environment = os.environ | {"PYTHONPATH": str(copy), "MCLD_BACKEND": "numpy"}
    command = [sys.executable, "-c", PROGRAM + program]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_term_is_a_function_a_name_and_a_weight(copy: Path) -> None:
    objective = copy / "mcld_core" / "formulas" / "objective.py"
    insert(
        objective,
        "TERMS: dict",
        "def entropy_term(ops, block, setup, contrast):\n"
        "    log_q = ops.log_softmax(block.student, 1)\n"
        "    return -ops.sum(ops.exp(log_q) * log_q, 1)\n\n\n",
    )
    insert(objective, '    "ce": ce_term,\n', '    "entropy": entropy_term,\n')
    insert(
        copy / "mcld_core" / "config.py",
        '    similarity: str = "probability"\n',
        "    weight_entropy: Scalar = 0.0\n",
    )
    run(
        copy,
        """
q = np.exp(student) / np.exp(student).sum(1, keepdims=True)
entropy = -(q * np.log(q)).sum(1).mean()
config = MCLDConfig(weight_entropy=0.5, weight_ce=1.0)
before = mcld_loss(*rows, config=MCLDConfig(weight_ce=1.0))
for size in ("auto", 4, None):
    config = MCLDConfig(weight_entropy=0.5, weight_ce=1.0, block_size=size)
    loss, terms = mcld_loss(*rows, config=config, return_terms=True)
    np.testing.assert_allclose(loss, before + 0.5 * entropy)
    np.testing.assert_allclose(terms["entropy"], entropy)
assert list(terms) == ["instance", "sample", "category", "entropy", "ce", "ramp"]
np.testing.assert_allclose(mcld_loss(*rows, config=MCLDConfig(
    weight_instance=0, weight_category=0, weight_sample=0, weight_entropy=1.0)), entropy)
for loss in (instance_wise, category_wise):
    assert np.isfinite(loss(*rows, config=config))
assert np.isfinite(adaptive_mcld_loss(*rows, config=config, reliability=np.ones(6)))
tokens = student[None], teacher[None], labels[None]
assert np.isfinite(token_mcld_loss(*tokens, config=config))
try:
    MCLDConfig(weight_entropy=-1.0)
except ValueError as error:
    assert "weight_entropy" in str(error)
else:
    raise AssertionError("a negative weight passes")
""",
    )


def test_a_similarity_is_a_line_that_says_what_its_keys_are(copy: Path) -> None:
    insert(
        copy / "mcld_core" / "formulas" / "similarity.py",
        '    "dot": Similarity(),\n',
        '    "cooler": Similarity(temperature=2.0, of_distributions=True),\n',
    )
    run(
        copy,
        """
for contrast in ("labels", "prototypes", "columns"):  # as "probability" at another temperature
    known = MCLDConfig(temperature=2.0, category_contrast=contrast, soft_targets=True)
    config = MCLDConfig(similarity="cooler", category_contrast=contrast, soft_targets=True)
    expected = mcld_loss(*rows, config=known, reduction="none")
    np.testing.assert_array_equal(mcld_loss(*rows, config=config, reduction="none"), expected)
from mcld_core import ReadyBank, TeacherBank, check_finite
bank = ReadyBank.from_logits(teacher, labels)
assert np.isfinite(mcld_loss(*rows, config=config, keys=bank.keys(teacher, labels)))
means = TeacherBank.from_logits(teacher, labels).class_means(config)
np.testing.assert_allclose(means.sum(1), 1.0)
check_finite(student, np.where(np.arange(4) == (labels[:, None] + 1) % 4, -np.inf, teacher),
             labels, similarity="cooler")
""",
    )


def test_a_baseline_is_a_function_of_values(copy: Path) -> None:
    (copy / "mcld_core" / "baselines" / "mse.py").write_text(
        "from mcld_core.arguments import Arguments\n"
        "from mcld_core.baselines.evaluation import reduced\n\n\n"
        "def mse_loss(student_logits, teacher_logits, *, sample_weight=None, where=None,\n"
        "             reduction='mean'):\n"
        "    rows = (student_logits, teacher_logits, None, sample_weight, where)\n"
        "    arguments = Arguments('mse_loss', *rows)\n"
        "    batch = arguments.batch(rows, None)\n\n"
        "    def values(student, teacher, labels):\n"
        "        return arguments.ops.sum((student - teacher) * (student - teacher), 1)\n\n"
        "    return reduced(arguments, batch, values, (), reduction)\n",
        "utf-8",
    )
    run(
        copy,
        """
from mcld_core.baselines.mse import mse_loss
where = np.arange(6) != 2
expected = ((student - teacher) ** 2).sum(1)[where].mean()
dirty = np.where(where[:, None], teacher, np.nan)
np.testing.assert_allclose(mse_loss(student, dirty, where=where), expected)
""",
    )
