"""Small models with one trait each: the program gives what eager gives, under the file's own names, or a complete refusal."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from schemas.errors import DataMismatch, ModelRefused, UnsupportedOperator
from tests.architectures import ARCHITECTURES
from tests.architectures.comparison import compute_eager_gradients, compute_program_gradients, compute_relative_error
from tests.architectures.exports import export_pt2, export_torchscript
from tests.worker.engine.models.pt2.conftest import Export
from worker.engine.admit import check_model
from worker.engine.components import find_components, find_depths
from worker.engine.models.clean import CleanProgram
from worker.engine.models.program import Program
from worker.engine.models.pt2 import load_pt2, run_reference
from worker.engine.models.split import SplitProgram
from worker.engine.models.torchscript import load_torchscript


class Answer(NamedTuple):
    logits: Tensor
    mask: Tensor


pytree._register_namedtuple(Answer, serialized_type_name="tests.Answer")


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)


class ChoosesByData(Base):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, self.a, lambda x: self.b(x).relu() * 2, (x,))


class ChoosesBySize(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.cond(x.shape[0] > 3, self.a, lambda x: x * 2, (x,)))


class SizeArithmetic(Base):
    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        y = self.a(x).reshape(n * 2, 2)
        w = torch.arange(n * 2, dtype=x.dtype).unsqueeze(1) / (n**0.5) + max(n, 3)
        return self.b((y * w).reshape(n, 4)) + torch.ones(n, 4)[torch.arange(n) % (n - 1)]


class ReadsValues(Base):
    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        k = n.item()
        torch._check(k >= 1)
        torch._check(k <= x.shape[0])
        return self.a(x[:k]).sum(0, keepdim=True) + self.b(x)


class AssignsByMask(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y[y < 0] = 0.5
        y[:, 1] = 3.0
        return self.b(y)


class WritesIntoInput(Base):
    def forward(self, x: Tensor) -> Tensor:
        x.add_(1.0)
        return self.b(self.a(x))


class SplitsAndJoins(Base):
    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).chunk(2, dim=1)
        (whole,) = self.b(x).split(4, dim=1)
        values, _ = torch.cat([second, first], 1).max(dim=1, keepdim=True)
        return whole * values


X = torch.linspace(-1, 2, 20).reshape(5, 4)
EXACT: dict[str, tuple[type[nn.Module], tuple[Tensor, ...], Any]] = {
    "a branch chosen by data": (ChoosesByData, (X,), "batch"),
    "a branch chosen by size": (ChoosesBySize, (X,), "batch"),
    "arithmetic on sizes": (SizeArithmetic, (X,), "batch"),
    "a size read from a value": (ReadsValues, (X, torch.tensor(2)), ({0: torch.export.Dim.DYNAMIC}, None)),
    "assignment by mask and index": (AssignsByMask, (X,), "batch"),
    "a write into the input": (WritesIntoInput, (X,), "batch"),
    "operators that return lists": (SplitsAndJoins, (X,), "batch"),
}


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize(("kind", "arguments", "shapes"), EXACT.values(), ids=EXACT.keys())
def test_program_does_what_eager_does(
    kind: type[nn.Module], arguments: tuple[Tensor, ...], shapes: Any, decomposed: bool, export: Export
) -> None:
    model = kind()
    copies = [argument.clone() for argument in arguments]
    path = export(model, *copies, shapes=shapes, decomposed=decomposed)
    program = load_pt2(path)
    names = [spec.name for spec in program.inputs]
    for batch in (X, -X, X[:4], torch.cat([X, X])):
        inputs = dict(zip(names, (batch, *arguments[1:]), strict=True))
        before = batch.clone()
        expected = model(batch.clone(), *arguments[1:])
        assert torch.equal(program.forward({}, inputs)["output"], expected)
        assert torch.equal(run_reference(path, inputs, threads=1)["output"], expected)
        assert torch.equal(batch, before)
        given = {name: value.clone() for name, value in inputs.items()}
        leaves = {name: weight.clone().requires_grad_() for name, weight in program.weights.items()}
        losses = model(*given.values()).square().sum(), program.forward(leaves, inputs)["output"].square().sum()
        found, ours = (
            torch.autograd.grad(loss, list(weights), allow_unused=True, materialize_grads=True)
            for loss, weights in zip(losses, (model.parameters(), leaves.values()), strict=True)
        )
        for mine, theirs in zip(ours, found, strict=True):
            torch.testing.assert_close(mine, theirs)


class Nested(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(4.0), persistent=False)
        self.factor = torch.full((4,), 3.0)

    def forward(self, given: dict[str, Tensor], pair: tuple[Tensor], *, scale: float = 2.0) -> dict[str, Any]:
        y = self.a(given["x"]) * scale + pair[0] + self.table + self.factor + torch.tensor([1.0, 2.0, 3.0, 4.0])
        return {"y": y, "answer": Answer(self.b(y), y > 0), "rest": (y * 2, [y * 3, None, 5])}


@pytest.mark.parametrize("strict", [False, True])
def test_nested_inputs_and_outputs_have_names(strict: bool, export: Export) -> None:
    model = Nested()
    path = export(model, {"x": X}, (X,), keywords={"scale": 3.0}, shapes=None, strict=strict)
    program = load_pt2(path)
    assert [spec.name for spec in program.inputs] == ["given_x", "pair_0"]
    assert program.outputs == ("y", "answer_logits", "answer_mask", "rest_0", "rest_1_0")
    assert set(program.weights) == {name for name, _ in model.named_parameters()}
    assert {entry.name: entry.reason for entry in program.skipped}["table"] == "not_a_weight"
    found = program.forward({}, {"given_x": X, "pair_0": X})
    expected = model({"x": X}, (X,), scale=3.0)
    values = [expected["y"], *expected["answer"], expected["rest"][0], expected["rest"][1][0]]
    assert all(torch.equal(found[name], value) for name, value in zip(program.outputs, values, strict=True))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens))


def test_a_tied_weight_is_one_weight(export: Export) -> None:
    model, tokens = Tied(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    program = load_pt2(export(model, tokens))
    assert list(program.weights) == ["embedding.weight"]
    assert program.inputs[0].dtype == torch.int64
    found = compute_program_gradients(program, {"tokens": tokens})
    assert compute_relative_error(found, compute_eager_gradients(model, {"tokens": tokens})) <= 1e-6


class WithoutGradient(Base):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.a(x) * 2
        return y + self.b(x)


def test_gradients_pass_where_the_model_turned_them_off(export: Export) -> None:
    model = WithoutGradient()
    program = load_pt2(export(model, X))
    assert torch.equal(program.forward({}, {"x": X})["output"], model(X))
    gradients = compute_program_gradients(program, {"x": X})
    assert compute_relative_error({"a": gradients["a.bias"]}, {"a": 2 * gradients["b.bias"]}) <= 1e-6


class Autocast(Base):
    def __init__(self, enabled: bool) -> None:
        super().__init__()
        self.enabled = enabled

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=self.enabled):
            y = self.a(x)
        return self.b(y.float())


def test_autocast_is_read_where_it_is_off(export: Export) -> None:
    model = Autocast(enabled=False)
    program = load_pt2(export(model, X))
    assert torch.equal(program.forward({}, {"x": X})["output"], model(X))


class Loops(Base):
    def forward(self, x: Tensor) -> Tensor:
        def goes_on(i: Tensor, _: Tensor) -> Tensor:
            return i < 3

        def step(i: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return i + 1, self.a(y)

        return self.b(torch.while_loop(goes_on, step, (torch.tensor(0), x))[1])


@torch.library.custom_op("faultline_test::double", mutates_args=())
def double(x: Tensor) -> Tensor:
    return x * 2


@double.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class CustomOperator(Base):
    def forward(self, x: Tensor) -> Tensor:
        return double(double(self.a(x)))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Autocast(enabled=True), {"torch.ops.higher_order.wrap_with_autocast"}),
        (Loops(), {"torch.ops.higher_order.while_loop"}),
        (CustomOperator(), {"torch.ops.faultline_test.double.default"}),
    ],
    ids=["autocast", "while_loop", "custom"],
)
def test_what_is_outside_the_table_is_named(model: nn.Module, expected: set[str], export: Export) -> None:
    with pytest.raises(UnsupportedOperator) as caught:
        load_pt2(export(model, X))
    assert {fault.where for fault in caught.value.faults} == expected
    rest = caught.value.partial
    assert isinstance(rest, Program)
    assert set(rest.weights) == {name for name, _ in model.named_parameters()}, "the weights are told all the same"


class Normalised(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.a(x))


class Counts(Base):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return self.a(x) + self.calls


class Drops(Base):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.a(x), 0.5, training=self.training)


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("kind", [Normalised, Drops])
def test_training_mode_is_refused(kind: type[nn.Module], decomposed: bool, export: Export) -> None:
    program = load_pt2(export(kind(), X, decomposed=decomposed))
    assert program.training
    with pytest.raises(ModelRefused, match="training mode"):
        check_model(program)


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_model_that_changes_itself_is_refused(decomposed: bool, export: Export) -> None:
    with pytest.raises(ModelRefused, match="writes into its own weights or buffers"):
        load_pt2(export(Counts(), X, decomposed=decomposed))


def test_running_statistics_are_skipped_by_name(export: Export) -> None:
    program = load_pt2(export(Normalised().eval(), X))
    assert {entry.name: entry.reason for entry in program.skipped} == {
        "norm.running_mean": "running_statistic",
        "norm.running_var": "running_statistic",
        "norm.num_batches_tracked": "integer",
    }
    assert not program.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_keep_their_dtype(dtype: torch.dtype, export: Export) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).to(dtype)
    program = load_pt2(export(model, X.to(dtype)))
    inputs = {"input": X.to(dtype)}
    assert {weight.dtype for weight in program.weights.values()} == {dtype} == {program.inputs[0].dtype}
    assert torch.equal(program.forward({}, inputs)["output"], model(X.to(dtype)))


class Rotates(Base):
    def __init__(self) -> None:
        super().__init__()
        self.turn: Tensor
        self.register_buffer("turn", torch.polar(torch.ones(2), torch.tensor([0.1, 0.2])))

    def forward(self, x: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(self.a(x).reshape(-1, 2, 2)) * self.turn).flatten(1)


def test_a_complex_table_is_a_constant(export: Export) -> None:
    model = Rotates()
    program = load_pt2(export(model, X))
    assert torch.equal(program.forward({}, {"x": X})["output"], model(X))
    assert [(entry.name, entry.reason) for entry in program.skipped] == [("turn", "not_a_weight")]


class Captured(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, WEIGHT) * MASK


WEIGHT, MASK = torch.linspace(-1, 1, 16).reshape(4, 4), torch.tensor([0.0, 1.0, 1.0, 0.0])


def test_constants_of_a_file_without_parameters_are_weights(export: Export) -> None:
    program = load_pt2(export(Captured(), X))
    assert [weight.shape for weight in program.weights.values()] == [(4, 4)]
    assert torch.equal(program.forward({}, {"x": X})["output"], Captured()(X))


@pytest.mark.parametrize("name", ["resnet18", "transformer_encoder", "gpt2"])
def test_components_and_depths_are_those_of_torchscript(name: str, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    model = architecture.build()
    ours = load_pt2(export_pt2(architecture, model, tmp_path / "model.pt2"))
    theirs = load_torchscript(export_torchscript(architecture, model, tmp_path / "model.pt", "trace"))
    assert ours.modules == theirs.modules
    assert find_components(ours) == find_components(theirs)
    assert find_depths(ours) == pytest.approx(find_depths(theirs))


@pytest.mark.parametrize("name", ["residual_cnn", "gpt2"])
def test_a_part_run_again_gives_what_the_whole_gives(name: str, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    program = load_pt2(export_pt2(architecture, architecture.build(), tmp_path / "model.pt2"))
    inputs = architecture.make_example(batch=6, seed=1)
    clean = CleanProgram(program, 2**24)
    for weight in (min(program.weights), max(program.weights)):
        changed = {weight: program.weights[weight] * 1.5}
        split = SplitProgram(clean, frozenset(changed))
        with torch.no_grad():
            found = split.run_corrupted(split.run_clean(0, inputs), changed)
            expected = program.forward(changed, inputs)
        for output in program.outputs:
            torch.testing.assert_close(found[output], expected[output], rtol=1e-5, atol=1e-5)


def test_a_check_inside_the_model_is_told(export: Export) -> None:
    path = export(ReadsValues(), X, torch.tensor(2), shapes=({0: torch.export.Dim.DYNAMIC}, None))
    program = load_pt2(path)
    inputs = {"x": X, "n": torch.tensor(-1)}
    with pytest.raises(DataMismatch, match="a check inside the model failed"):
        program.forward({}, inputs)
    with pytest.raises(DataMismatch, match="a check inside the model failed"):
        run_reference(path, inputs, threads=1)
