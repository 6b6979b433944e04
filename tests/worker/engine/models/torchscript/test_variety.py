"""Modules as people have them: half precision, nested outputs, several and optional inputs, shared and complex tensors."""

import copy
import warnings
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from schemas.errors import ModelRefused
from tests.worker.engine.models.torchscript.conftest import Import, Save
from worker.engine.models.torchscript import load_torchscript, run_reference


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)


class Answer(NamedTuple):
    logits: Tensor
    mask: Tensor


class GivesDict(Base):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.a(x), "aux": self.b(x)}


class GivesNamedTuple(Base):
    def forward(self, x: Tensor) -> Answer:
        return Answer(self.a(x), self.b(x) > 0)


class GivesNested(Base):
    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
        y = self.a(x)
        return y, (self.b(y), [y * 2, y * 3])


X = torch.linspace(-1, 2, 20).reshape(5, 4)


@pytest.mark.parametrize(
    ("model", "scripted", "traced"),
    [
        (GivesDict(), ("logits", "aux"), ("logits", "aux")),
        # A traced file does not keep the fields' names.
        (GivesNamedTuple(), ("logits", "mask"), ("output_0", "output_1")),
        (GivesNested(), *[("output_0", "output_1_0", "output_1_1_0", "output_1_1_1")] * 2),
    ],
    ids=["dict", "named tuple", "nested"],
)
def test_outputs_have_the_names_of_their_places(
    model: nn.Module, scripted: tuple[str, ...], traced: tuple[str, ...], save: Save
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, X, strict=False, check_trace=False).save(str(path := save(model).with_name("traced.pt")))
    for file, names in ((path.with_name("model.pt"), scripted), (path, traced)):
        found, reference = load_torchscript(file).forward({}, {"x": X}), run_reference(file, {"x": X}, threads=1)
        assert tuple(found) == tuple(reference) == names
        assert all(torch.equal(found[name], reference[name]) for name in names)


class TakesOptional(Base):
    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:
        z = self.a(x) * scale + y
        if mask is not None:
            z = z * mask
        return self.b(z)


def test_inputs_with_a_default_may_be_left_out(import_model: Import) -> None:
    model = TakesOptional()
    program = import_model(model)
    assert [(spec.name, spec.optional) for spec in program.inputs] == [("x", False), ("y", False), ("mask", True)]
    assert torch.equal(program.forward({}, {"x": X, "y": -X})["output"], model(X, -X))
    assert torch.equal(program.forward({}, {"x": X, "y": -X, "mask": X})["output"], model(X, -X, X))


class Shares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.first = nn.Linear(4, 4)
        self.second = self.first

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.second(self.first(self.embedding(tokens))))


@pytest.mark.parametrize("traced", [False, True])
def test_a_shared_weight_is_one_weight_whose_gradient_is_the_sum(traced: bool, import_model: Import) -> None:
    model, tokens = Shares(), torch.tensor([[1, 2], [3, 4]])
    program = import_model(model, tokens) if traced else import_model(model)
    assert list(program.weights) == ["embedding.weight", "first.weight", "first.bias"]
    leaves = {name: weight.clone().requires_grad_() for name, weight in program.weights.items()}
    (name,) = (spec.name for spec in program.inputs)
    found = torch.autograd.grad(program.forward(leaves, {name: tokens})["output"].square().sum(), list(leaves.values()))
    expected = torch.autograd.grad(model(tokens).square().sum(), list(model.parameters()))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


class Convolves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(2, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).flatten(1))


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_as_stored(dtype: torch.dtype, traced: bool, import_model: Import) -> None:
    model = Convolves().eval().to(dtype)
    x = torch.linspace(-1, 1, 24, dtype=dtype).reshape(3, 2, 4)
    program = import_model(model, x) if traced else import_model(model)
    assert {weight.dtype for weight in program.weights.values()} == {dtype}
    assert torch.equal(program.forward({}, {"x": x})["output"], model(x))


class Rotates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(4, 4)
        self.turn: Tensor
        self.register_buffer("turn", torch.polar(torch.ones(2), torch.tensor([0.1, 0.2])))

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.view_as_complex(self.a(x).reshape(-1, 2, 2)) * self.turn
        return torch.view_as_real(turned).flatten(1)


@pytest.mark.parametrize("traced", [False, True])
def test_a_complex_table_is_a_constant(traced: bool, import_model: Import) -> None:
    model = Rotates()
    program = import_model(model, X) if traced else import_model(model)
    assert torch.equal(program.forward({}, {"x": X})["output"], model(X))
    assert [(entry.name, entry.reason) for entry in program.skipped] == [("turn", "not_a_weight")]
    moved = program.to("meta").forward({}, {"x": X.to("meta")})["output"]
    assert moved.device.type == "meta"


class ComplexWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.ones(4, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.turn).real


def test_a_complex_weight_is_refused(import_model: Import) -> None:
    with pytest.raises(ModelRefused, match="turn is not a dense real tensor"):
        import_model(ComplexWeight())


def quantise(dynamic: bool) -> nn.Module:
    layers = (nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tools: Any = torch.ao.quantization
        if dynamic:
            return tools.quantize_dynamic(nn.Sequential(*layers).eval(), {nn.Linear}, torch.qint8)
        model = nn.Sequential(tools.QuantStub(), *copy.deepcopy(layers), tools.DeQuantStub()).eval()
        model.qconfig = tools.get_default_qconfig("fbgemm")
        prepared = tools.prepare(model)
        prepared(X)
        return tools.convert(prepared)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_quantised_module_is_refused_with_the_reason(dynamic: bool, save: Save) -> None:
    with pytest.raises(ModelRefused, match="the module is quantised") as caught:
        load_torchscript(save(quantise(dynamic)))
    assert "before quantisation" in caught.value.faults[0].advice
