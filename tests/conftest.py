"""Fixtures: `backend` over the frameworks of this run, `differentiable` over those with gradients.

A test module for one framework narrows the fixture:
`pytest.mark.parametrize("backend", only("jax"), indirect=True)`. A formula is written once for all
backends: NumPy and PyTorch run whole grids of parameters, JAX and TensorFlow each value once.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

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

TESTS = Path(__file__).parent
FORMULAS, COMPILED = ("core", "extensions"), ("tensorflow", "jax")

# The tests of an adapter are collected where this run tests it: they import it at the top.
collect_ignore = [name for name in KNOWN if name not in REQUESTED]

# Few examples of few shapes, fewest where each is compiled. A failing example is small as it is;
# shrinking it would take minutes: `--hypothesis-profile thorough` does.
hypothesis.settings.register_profile(
    "quick",
    max_examples=3 if COMPILES else 15,
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
    """Leave out the tests whose framework this run does not test (pytest would skip them).

    And of a formula's grid of parameters, where each case is compiled, most.
    """
    left_out = {item for item in items if "NOTSET" in item.name}
    grids = defaultdict[str, dict[pytest.Item, list[Any]]](dict)
    for item in items:
        parameters = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        backend = parameters.pop("backend", None) or parameters.pop("differentiable", None)
        if backend in COMPILED and item.path.relative_to(TESTS).parts[0] in FORMULAS:
            test = f"{item.nodeid.partition('[')[0]} {backend}"
            grids[test][item] = [(name, id(value)) for name, value in parameters.items()]
    for grid in grids.values():
        left_out |= grid.keys() - _few(grid)
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def _few(grid: dict[pytest.Item, list[Any]]) -> set[pytest.Item]:
    """Return as many cases as show each value of each parameter once, rare ones together."""
    uses, chosen = Counter[Any](), set()
    while new := [item for item, values in grid.items() if not all(uses[x] for x in values)]:
        rarest = max(new, key=lambda item: sum(1 / (1 + uses[x]) for x in grid[item]))
        chosen.add(rarest)
        uses.update(grid[rarest])
    return chosen or set(grid)


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
