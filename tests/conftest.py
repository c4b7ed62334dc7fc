"""Fixtures: `backend` over the frameworks of this run, `differentiable` over those with gradients.

A test module for one framework narrows the fixture:
`pytest.mark.parametrize("backend", only("jax"), indirect=True)`.
"""

from __future__ import annotations

import warnings

import hypothesis
import pytest

from tests.frameworks import (
    ARRAY_BACKENDS,
    COMPILES,
    DIFFERENTIABLE,
    KNOWN,
    REQUESTED,
    Framework,
    is_installed,
    load,
)

# The tests of an adapter are collected where this run tests it: they import it at the top.
collect_ignore = [name for name in KNOWN if name not in REQUESTED]

# Few examples of few shapes, fewest where each is compiled: NumPy and PyTorch try the same formulas
# with more. A failing example is small as it is, and shrinking it would take minutes:
# `--hypothesis-profile thorough` does.
hypothesis.settings.register_profile(
    "quick",
    max_examples=6 if COMPILES else 15,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)
hypothesis.settings.register_profile(  # to see which lines run
    "coverage", hypothesis.settings.get_profile("quick"), max_examples=2
)
hypothesis.settings.register_profile("thorough", max_examples=300, deadline=None)
hypothesis.settings.load_profile("quick")


def pytest_configure() -> None:
    """Import the frameworks of this run once, torch first; their import warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ARRAY_BACKENDS:
            if is_installed(name):  # a missing one fails in the fixture, with its name
                load(name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests whose framework this run does not test (pytest would skip them)."""
    left_out = [item for item in items if "NOTSET" in item.name]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if "NOTSET" not in item.name]


def _load(name: str) -> Framework:
    if not is_installed(name):
        pytest.fail(f"MCLD_TEST_BACKENDS asks for {name}, which is not installed: install it.")
    return load(name)


@pytest.fixture(scope="session", params=ARRAY_BACKENDS)
def backend(request: pytest.FixtureRequest) -> Framework:
    """Each framework of this run."""
    return _load(request.param)


@pytest.fixture(scope="session", params=DIFFERENTIABLE)
def differentiable(request: pytest.FixtureRequest) -> Framework:
    """Each framework of this run that has gradients."""
    return _load(request.param)


@pytest.fixture
def no_default_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """No MCLD_BACKEND in the environment: plain arrays are NumPy's."""
    monkeypatch.delenv("MCLD_BACKEND", raising=False)
