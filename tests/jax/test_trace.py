"""JAX: jit, grad, vmap, one trace for many contents, strict promotion, 32-bit mode."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, category_wise, mcld_loss
from mcld_core.extensions.nlp import linear_token_kd_loss
from tests import oracles
from tests.cases import bind, make_case, make_keys, teacher_keys, value, value_and_grad
from tests.frameworks import Framework, only
from tests.tolerance import assert_gradient, assert_value

pytestmark = pytest.mark.parametrize("backend", only("jax"), indirect=True)

SETTINGS: list[dict[str, Any]] = [
    {},
    {"similarity": "pearson", "category_contrast": "prototypes"},
    {"similarity": "cosine", "weight_ce": 0.5, "sample_target_mask": False},
    {"similarity": "dot", "category_contrast": "columns", "target_mask": False},
]


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (SETTINGS[0], "int"),
        (SETTINGS[0], "soft"),
        (SETTINGS[0], "keys"),
        (SETTINGS[1], "none"),
        (SETTINGS[1], "keys"),
        (SETTINGS[2], "int"),
        (SETTINGS[3], "soft"),
    ],
    ids=str,
)
def test_jit_equals_eager(backend: Framework, settings: dict[str, Any], kind: str) -> None:
    import jax

    case = make_case(141, labels=kind if kind != "keys" else "int", weights=True, where=True)
    if kind == "keys":
        case = case.but(keys=make_keys(case, own_start=3))
    call = bind(backend, mcld_loss, case, settings=settings)
    found, gradient = jax.jit(jax.value_and_grad(call))(backend.array(case.student))
    expected, reference = value_and_grad(backend, mcld_loss, case, settings=settings)
    scale = oracles.scale(case, **settings)
    assert_value(backend.to_numpy(found), expected, scale=scale)
    assert_gradient(backend.to_numpy(gradient), reference, scale=scale)


def test_one_trace_for_many_contents_and_numbers(backend: Framework) -> None:
    """Arrays, keys, own_start and progress are traced; the config is static."""
    import jax

    traces = []

    def loss(student: Any, teacher: Any, labels: Any, keys: Any, progress: Any, config: Any) -> Any:
        traces.append(config)
        return mcld_loss(student, teacher, labels, keys=keys, progress=progress, config=config)

    step = jax.jit(loss, static_argnums=5)
    for k in range(5):
        case = make_case(k)
        case = case.but(keys=make_keys(case, own_start=k % 4), progress=k / 4)
        assert case.keys is not None
        found = step(
            *(backend.array(a) for a in (case.student, case.teacher, case.labels)),
            teacher_keys(backend, case.keys, "float64"),
            case.progress,
            MCLDConfig(),
        )
        assert_value(backend.to_numpy(found), oracles.mcld_loss(case))
    assert len(traces) == 1
    step(
        *(backend.array(a) for a in (case.student, case.teacher, case.labels)),
        None,
        1.0,
        MCLDConfig(beta=2.0),
    )
    assert len(traces) == 2


def test_traced_temperatures_and_weights(backend: Framework) -> None:
    """A config built inside jit may hold tracers: values are checked as Python numbers only."""
    import jax

    case = make_case(143)
    names = ("temperature", "key_temperature", "sample_temperature", "beta", "weight_sample")

    def loss(student: Any, numbers: Any) -> Any:
        config = MCLDConfig(**dict(zip(names, numbers, strict=True)), weight_ce=numbers[0])
        return mcld_loss(student, case.teacher, case.labels, config=config)

    numbers = (0.5, 2.0, 3.0, 1.5, 0.75)
    found = jax.jit(loss)(backend.array(case.student), numbers)
    settings = dict(zip(names, numbers, strict=True)) | {"weight_ce": 0.5}
    expected = oracles.mcld_loss(case, **settings)
    assert_value(backend.to_numpy(found), expected, scale=oracles.scale(case, **settings))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_vmap_over_batches(backend: Framework, settings: dict[str, Any]) -> None:
    import jax

    cases = [make_case(seed) for seed in (1, 2, 3)]
    stacked = [
        backend.array(np.stack([getattr(case, name) for case in cases]))
        for name in ("student", "teacher", "labels")
    ]
    config = MCLDConfig(**settings)

    def loss(student: Any, teacher: Any, labels: Any) -> Any:
        return mcld_loss(student, teacher, labels, config=config)

    found, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss)))(*stacked)
    expected = [oracles.mcld_loss(case, **settings) for case in cases]
    assert_value(backend.to_numpy(found), expected, scale=20)
    for case, gradient in zip(cases, gradients, strict=True):
        _, reference = value_and_grad(backend, mcld_loss, case, settings=settings)
        assert_gradient(backend.to_numpy(gradient), reference, scale=20)


def test_vmap_over_priors(backend: Framework) -> None:
    """Each batch has its own class prior."""
    import jax

    case = make_case(4)
    priors = np.array([[3.0, 1.0, 0.0, 2.0], [1.0, 5.0, 4.0, 2.0]])
    student = backend.array(case.student)

    def loss(prior: Any) -> Any:
        return mcld_loss(student, case.teacher, case.labels, class_prior=prior)

    found = jax.jit(jax.vmap(loss))(backend.array(priors))
    expected = [value(backend, mcld_loss, case, class_prior=prior) for prior in priors]
    assert abs(expected[0] - expected[1]) > 1e-3
    assert_value(backend.to_numpy(found), expected, scale=20)


def test_labels_that_are_only_compared_may_be_any_under_jit(backend: Framework) -> None:
    case = make_case(144)
    labels = case.labels.copy()
    labels[2] = 77
    jitted = backend.jit(lambda *arrays: category_wise(*arrays, reduction="none"))
    arrays = (backend.array(a) for a in (case.student, case.teacher, labels))
    rows = backend.to_numpy(jitted(*arrays))
    expected = oracles.category_wise(case.but(labels=labels), "none")
    assert_value(rows, expected)


def test_hessian(backend: Framework) -> None:
    import jax

    case = make_case(145, batch=3)
    call = bind(backend, mcld_loss, case)
    hessian = jax.jit(jax.jacrev(jax.grad(call)))(backend.array(case.student))
    flat = backend.to_numpy(hessian).reshape(12, 12)
    assert_gradient(flat, flat.T)
    assert np.abs(flat).max() > 1e-3


THIRTY_TWO_BIT = """
import warnings
warnings.simplefilter("error")
import jax
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
import numpy as np
from mcld_core import MCLDConfig, TeacherKeys, mcld_loss
from tests.cases import make_case
case = make_case(147)
for dtype in ("float32", "float64"):  # JAX's NumPy conversion makes float32 of both
    for contrast in ("labels", "prototypes", "columns"):
        loss, gradient = jax.value_and_grad(lambda student: mcld_loss(
            student, case.teacher.astype(dtype), case.labels, progress=0.5,
            sample_weight=np.ones(5, dtype), config=MCLDConfig(category_contrast=contrast),
        ))(jax.numpy.asarray(case.student, "float32"))
        assert loss.dtype == gradient.dtype == "float32"
        print(float(loss))
"""


@pytest.mark.usefixtures("backend")
def test_without_float64_nothing_warns() -> None:
    """JAX's default mode: no request for a 64-bit type that it would truncate with a warning."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_ENABLE_X64"}
    run = subprocess.run(
        [sys.executable, "-c", THIRTY_TWO_BIT], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr
    found = [float(line) for line in run.stdout.split()]
    case = make_case(147).but(progress=0.5)
    for loss, contrast in zip(found, ["labels", "prototypes", "columns"] * 2, strict=True):
        expected = oracles.mcld_loss(case, category_contrast=contrast)
        assert_value(loss, expected, "float32", oracles.scale(case))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("block_size", ["auto", None])
def test_matrix_products_are_of_full_precision(
    backend: Framework, block_size: Any, settings: dict[str, Any]
) -> None:
    """An accelerator's default, bfloat16 or TF32, has an error of 1e-3 in every exponent."""
    import jax

    case = make_case(150, labels="soft")
    call = bind(backend, mcld_loss, case, settings=settings | {"block_size": block_size})
    text = str(jax.make_jaxpr(jax.grad(call))(backend.array(case.student)))
    products = text.count("dot_general[")
    assert products > 0
    assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products


def test_a_last_layer_in_shard_map(backend: Framework) -> None:
    """JAX tells rows, which vary over the mesh, from a weight that does not."""
    import jax
    from jax.sharding import Mesh, PartitionSpec

    rng, split, whole = np.random.default_rng(0), PartitionSpec("data"), PartitionSpec()
    rows = [backend.array(rng.normal(size=size)) for size in ((4, 3, 5), (7, 5), (4, 3, 7))]
    mean = lambda *rows: jax.lax.pmean(linear_token_kd_loss(*rows), "data")  # noqa: E731
    over = jax.shard_map(
        jax.value_and_grad(mean, argnums=(0, 1)), mesh=Mesh(np.array(jax.devices()[:1]), ("data",)),
        in_specs=(split, whole, split), out_specs=(whole, (split, whole)),
    )  # fmt: skip
    expected = jax.value_and_grad(linear_token_kd_loss, argnums=(0, 1))(*rows)
    jax.tree.map(np.testing.assert_allclose, over(*rows), expected)
