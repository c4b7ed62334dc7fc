"""PyTorch students: every family, modes, several inputs, never the teacher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from mcld_core.export import export_onnx
from tests.export.families import FAMILIES, SIZE, assert_exports, token_rows
from tests.export.torch_students import build

SHAPE = (3, SIZE, SIZE)


def outputs(path: Path, **feeds: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(str(path)).run(None, feeds)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    student = build(family).train()

    def forward(*inputs: np.ndarray) -> np.ndarray:
        reference = build(family).eval()  # the same seed, never touched by the export
        with torch.no_grad():
            return reference(*map(torch.from_numpy, inputs)).numpy()

    assert_exports(
        export_onnx, student, forward, family, tmp_path, channels_last=False, token_dtype="int64"
    )


def test_each_modules_mode_comes_back(tmp_path: Path) -> None:
    student = build("cnn").train()
    student[1].eval()  # a frozen batch norm in a student that trains
    export_onnx(student, tmp_path / "a.onnx", input_shape=SHAPE)
    assert student.training
    assert student[5].training
    assert not student[1].training


@pytest.mark.parametrize("wrap", ["distiller", "checkpoint"])
def test_the_teacher_is_never_in_the_graph(wrap: str, tmp_path: Path) -> None:
    student, teacher = build("cnn"), build("depthwise", seed=1)

    class Distiller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student, self.teacher = student, teacher

    pair = Distiller() if wrap == "distiller" else {"student": student, "teacher": teacher}
    path = tmp_path / "a.onnx"
    export_onnx(pair, path, input_shape=SHAPE)
    weights = onnx.load(path).graph.initializer
    shapes = {tuple(weight.dims) for weight in weights}
    assert (10, 288) in shapes
    assert (10, 16) not in shapes
    count = sum(int(np.prod(weight.dims)) for weight in weights)
    assert count <= sum(tensor.numel() for tensor in student.state_dict().values()) + 8


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist = torch.distributed
    dist.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # torch's own deprecation
@pytest.mark.parametrize("wrap", ["distributed", "parallel", "compiled", "around a distiller"])
def test_wrappers_of_torch_stand_for_the_module(
    wrap: str, one_process: None, tmp_path: Path
) -> None:
    student = build("cnn")
    distributed = nn.parallel.DistributedDataParallel
    wrapped = {
        "distributed": lambda: distributed(student),
        "parallel": lambda: nn.DataParallel(student),
        "compiled": lambda: torch.compile(distributed(student)),
        "around a distiller": lambda: distributed(nn.ModuleDict({"student": student})),
    }[wrap]()
    if wrap == "around a distiller":
        wrapped.module.student = student
    export_onnx(wrapped, tmp_path / "a.onnx", input_shape=SHAPE)
    names = {weight.name for weight in onnx.load(tmp_path / "a.onnx").graph.initializer}
    assert not [name for name in names if "module" in name or "orig_mod" in name]


def test_an_exporters_error_is_one_line_without_colours(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows if float(rows.abs().sum()) >= 0 else -rows

    with pytest.raises(RuntimeError, match="the exporter of torch fails") as error:
        export_onnx(Branching(), tmp_path / "a.onnx", input_shape=(6,))
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)
    assert len(str(error.value)) < 800


def test_a_student_in_float16_is_told_of_the_tolerance(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 10)).half()
    arguments = {"input_shape": (512,), "dtype": "float16"}
    with pytest.raises(ValueError, match=r"float16 holds three digits: give tolerance=0.01"):
        export_onnx(student, tmp_path / "a.onnx", **arguments, tolerance=1e-6)
    export_onnx(student, tmp_path / "a.onnx", **arguments, tolerance=1e-2)


def test_inputs_by_keyword_in_any_order(tmp_path: Path) -> None:
    student, path = build("encoder").eval(), tmp_path / "a.onnx"
    rows = token_rows(4, dtype="int64")
    report = export_onnx(
        student, path, example_input={"mask": rows["mask"], "tokens": rows["tokens"]}
    )
    assert report.inputs == ("mask", "tokens")
    with torch.no_grad():
        expected = student(*map(torch.from_numpy, rows.values())).numpy()
    np.testing.assert_allclose(outputs(path, **rows)[0], expected, atol=1e-5)


def test_named_outputs_and_opset(tmp_path: Path) -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 4), nn.Linear(6, 3)

        def forward(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"image": self.first(values), "text": self.second(values)}

    student, path = Heads(), tmp_path / "a.onnx"
    report = export_onnx(student, path, input_shape=(6,), opset=18)
    values = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    with torch.no_grad():
        expected = student(torch.from_numpy(values))
    got = dict(zip(report.outputs, outputs(path, input=values), strict=True))
    assert report.opset == 18
    assert list(got) == ["image", "text"]
    for name, logits in expected.items():
        np.testing.assert_allclose(got[name], logits.numpy(), atol=1e-6)


def test_a_model_output_with_logits(tmp_path: Path) -> None:
    class Labelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 4)

        def forward(self, values: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=self.head(values), loss=None)

    report = export_onnx(Labelled(), tmp_path / "a.onnx", input_shape=(6,), output_names=["scores"])
    assert report.outputs == ("scores",)


def test_a_fixed_batch(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    rows = np.zeros((2, *SHAPE), dtype=np.float32)
    export_onnx(build("cnn"), path, example_input=rows, dynamic_batch=False)
    assert onnxruntime.InferenceSession(str(path)).get_inputs()[0].shape == [2, *SHAPE]


def test_rows_of_one_number(tmp_path: Path) -> None:
    """``input_shape=()``: nothing is left of it without the batch axis."""

    class Line(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x[:, None])

    report = export_onnx(Line(1, 3), tmp_path / "a.onnx", input_shape=())
    assert report.max_relative_error < 1e-5


def test_float64(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    student = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    report = export_onnx(student, path, input_shape=(6,), dtype="float64", tolerance=1e-12)
    assert report.max_relative_error < 1e-12
    assert onnxruntime.InferenceSession(str(path)).get_inputs()[0].type == "tensor(double)"


def test_what_onnxruntime_cannot_run_is_an_error(tmp_path: Path) -> None:
    student = build("cnn").double()  # it has no convolution in float64
    with pytest.raises(ValueError, match="onnxruntime cannot load it"):
        export_onnx(student, tmp_path / "a.onnx", input_shape=SHAPE, dtype="float64")
    assert list(tmp_path.iterdir()) == []


def test_metadata_and_no_stack_traces(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    classes = [f"class {index}" for index in range(10)]
    export_onnx(
        build("cnn"), path, input_shape=SHAPE, metadata={"classes": classes, "teacher": "t"}
    )
    found = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    assert found["classes"].startswith('["class 0"')
    assert found["teacher"] == "t"
    assert found["framework"] == "torch"
    graph = onnx.load(path).graph
    assert not any(node.metadata_props or node.doc_string for node in graph.node)
    assert b"torch/nn/modules" not in path.read_bytes()
