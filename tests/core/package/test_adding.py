"""A term, a similarity and a baseline, added to a copy as CONTRIBUTING says: all goes on working.

Run as a program (framework, file of values) in that copy, it calls every loss of the library.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mcld_core
from mcld_core import ClassMeans, MCLDConfig, TeacherBank, TeacherKeys, check_finite, mcld_loss
from mcld_core.extensions.multimodal import multimodal_mcld_loss
from mcld_core.extensions.nlp import token_mcld_loss
from mcld_core.extensions.teachers import adaptive_mcld_loss
from mcld_core.extensions.timeseries import window_mcld_loss
from tests.calls import CALLS, CLASSES, Arrays, arrays
from tests.frameworks import Framework, load, only

ROOT = Path(__file__).parents[3]

# file: [(a text that stands there once, what it becomes)]; a text of None: a new file
ADDED: dict[str, list[tuple[str | None, str]]] = {
    # the term: the sum of a row's squared logits
    "mcld_core/formulas/objective.py": [
        (
            "\nTERMS: dict[",
            """
def size_term(ops, block, setup, contrast):
    return ops.sum(block.student * block.student, 1)


TERMS: dict[""",
        ),
        ('    "ce": ce_term,\n}', '    "ce": ce_term,\n    "size": size_term,\n}'),
    ],
    "mcld_core/config.py": [
        (
            "    weight_ce: Scalar = 0.0\n",
            "    weight_ce: Scalar = 0.0\n    weight_size: Scalar = 0.0\n",
        ),
    ],
    # the similarity: "probability" by another name, whose keys are distributions too
    "mcld_core/formulas/similarity.py": [
        (
            '    "dot": Similarity(),\n',
            '    "dot": Similarity(),\n'
            '    "twin": Similarity(temperature=1.0, of_distributions=True),\n',
        ),
    ],
    # the baseline: the mean squared difference of the logits
    "mcld_core/baselines/gap.py": [
        (
            None,
            """
from mcld_core.baselines.evaluation import evaluate


def gap_loss(student_logits, teacher_logits, *, scale=1.0, sample_weight=None, where=None,
             reduction="mean"):
    def values(ops, block, scale):
        gap = block.student - block.teacher
        return scale * ops.sum(gap * gap, 1)

    rows = (student_logits, teacher_logits, None, sample_weight, where)
    return evaluate("gap_loss", rows, values, reduction, scale=scale)
""",
        ),
    ],
    "mcld_core/__init__.py": [
        (
            "from mcld_core.baselines.kd import kd_loss as kd_loss\n",
            "from mcld_core.baselines.gap import gap_loss as gap_loss\n"
            "from mcld_core.baselines.kd import kd_loss as kd_loss\n",
        ),
    ],
}


@pytest.mark.parametrize("backend", only("numpy", "torch"), indirect=True)
def test_what_is_added_works_everywhere(backend: Framework, tmp_path: Path) -> None:
    for folder in ("mcld_core", "backends", "extensions"):
        left_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=left_out)
    for path, changes in ADDED.items():
        for old, new in changes:
            text = "" if old is None else (tmp_path / path).read_text()
            assert old is None or text.count(old) == 1, (path, old)
            (tmp_path / path).write_text(text.replace(old, new) if old else new)
    np.savez(tmp_path / "values.npz", **_values(backend))
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.package.test_adding", backend.name, "values.npz"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def _values(backend: Framework) -> dict[str, np.ndarray]:
    x = Arrays(**{name: backend.array(values) for name, values in arrays("float64").items()})
    return {name: backend.to_numpy(call(x)) for name, call in CALLS.items()}


def main(framework: str, values: str) -> None:
    """Check the copy that stands in this folder."""
    assert Path(mcld_core.__file__).is_relative_to(Path.cwd())
    backend = load(framework)
    found = _values(backend)
    for name, expected in np.load(values).items():  # what is not used changes nothing
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
    x = Arrays(**{name: backend.array(values) for name, values in arrays("float64").items()})
    _check_term(backend, x)
    _check_similarity(backend, x)
    _check_baseline(backend, x)


def _close(backend: Framework, found: Any, expected: Any) -> None:
    np.testing.assert_allclose(backend.to_numpy(found), expected, rtol=1e-12, equal_nan=False)


def _check_term(backend: Framework, x: Arrays) -> None:
    rows, plain = (x.student, x.teacher, x.labels), arrays("float64")
    size, ones = np.square(plain["student"]).sum(1), backend.array(np.ones(len(plain["student"])))
    masks = {"sample_weight": x.weight, "where": x.where, "reduction": "none"}
    weight = plain["weight"] * plain["where"]
    keys = TeacherBank.empty(8, CLASSES, like=x.teacher).keys(x.teacher, x.labels)
    variants = [{"block_size": size} for size in ("auto", 4, None)] + [{"weight_ce": 1.0}]
    variants += [{"category_contrast": name} for name in ("prototypes", "columns")]
    for others in variants:
        without, config = MCLDConfig(**others), MCLDConfig(weight_size=2.0, **others)
        base, beside = mcld_loss(*rows, config=without, return_terms=True)
        expected = backend.to_numpy(base) + 2 * size.mean()
        loss, terms = mcld_loss(*rows, config=config, return_terms=True)
        _close(backend, loss, expected)
        _close(backend, terms["size"], size.mean())
        assert [x for x in terms if x != "size"] == [x for x in beside if x != "size"]
        weighted = backend.to_numpy(mcld_loss(*rows, config=without, **masks))
        _close(backend, mcld_loss(*rows, config=config, **masks), weighted + 2 * weight * size)
        _close(backend, adaptive_mcld_loss(*rows, reliability=ones, config=config), expected)
        _close(backend, mcld_loss(*rows, config=config, keys=keys), expected)
    config = MCLDConfig(weight_size=2.0)
    assert float(mcld_loss(*(y[:0] for y in rows), config=config)) == 0
    with pytest.raises(ValueError, match="weight_size"):
        MCLDConfig(weight_size=-1.0)
    tokens = x.token_student, x.token_teacher
    for loss in (
        token_mcld_loss(*tokens, x.token_labels, config=config, attention_mask=x.mask),
        window_mcld_loss(*rows, config=config, starts=x.starts, lengths=2),
        window_mcld_loss(*tokens, x.labels, config=config),
        multimodal_mcld_loss({"a": x.student}, {"a": x.teacher}, x.labels, config=config),
    ):
        assert np.isfinite(backend.to_numpy(loss))
    if backend.name == "torch":
        from mcld_core.torch import MCLDLoss

        expected = backend.to_numpy(mcld_loss(*rows, config=config))
        _close(backend, MCLDLoss(config)(*rows), expected)
        with_bank = MCLDLoss(config, total_steps=9, bank_size=8, classes=CLASSES)
        assert np.isfinite(backend.to_numpy(with_bank(*rows)))
        found, base = (
            backend.value_and_grad(lambda s, c=c: mcld_loss(s, *rows[1:], config=c), x.student)[1]
            for c in (config, MCLDConfig())
        )
        np.testing.assert_allclose(found - base, 4 * plain["student"] / len(size), rtol=1e-12)


def _check_similarity(backend: Framework, x: Arrays) -> None:
    rows = x.student, x.teacher, x.labels
    absent = arrays("float64")["teacher"]
    absent[:, 0] = -np.inf
    absent, ones = backend.array(absent), backend.array(np.ones(len(absent), "int32"))
    tokens = x.token_student, x.token_teacher

    def values(name: str) -> list[Any]:
        plain = MCLDConfig(similarity=name)
        warm = replace(plain, key_temperature=2.0)
        by_prototype = replace(warm, category_contrast="prototypes")
        means = ClassMeans.empty(CLASSES, like=x.teacher).update(*rows[1:], config=warm)
        class_means = TeacherBank.from_logits(*rows[1:]).class_means(warm)
        keys = TeacherBank.from_logits(*rows[1:]).keys(*rows[1:])
        ready = keys._replace(logits=None, probabilities=keys.logits)
        given = TeacherKeys(*rows[1:], prototypes=class_means)
        settings = plain, warm, replace(plain, soft_targets=True), by_prototype
        whole = {"sequence_labels": x.labels, "sequence_contrast": 1.0, "token_contrast": 1.0}
        check_finite(x.student, absent, ones, similarity=name)
        return [
            *(mcld_loss(*rows, config=config, reduction="none") for config in settings),
            mcld_loss(*rows, config=by_prototype, keys=given),
            mcld_loss(*rows, config=plain, keys=ready),
            mcld_loss(x.student, absent, ones, config=plain),
            token_mcld_loss(*tokens, x.token_labels, config=warm, **whole),
            window_mcld_loss(*tokens, x.labels, config=warm),
            class_means, means.means,
        ]  # fmt: skip

    for found, expected in zip(values("twin"), values("probability"), strict=True):
        np.testing.assert_array_equal(backend.to_numpy(found), backend.to_numpy(expected))


def _check_baseline(backend: Framework, x: Arrays) -> None:
    plain, gap_loss = arrays("float64"), mcld_core.gap_loss
    gap = np.square(plain["student"] - plain["teacher"]).sum(1)
    _close(backend, gap_loss(x.student, x.teacher, scale=2.0), 2 * gap.mean())
    dirty = backend.array(np.where(plain["where"][:, None], plain["teacher"], np.nan))
    found = gap_loss(x.student, dirty, sample_weight=x.weight, where=x.where, reduction="none")
    _close(backend, found, gap * plain["weight"] * plain["where"])


if __name__ == "__main__":
    main(*sys.argv[1:])
