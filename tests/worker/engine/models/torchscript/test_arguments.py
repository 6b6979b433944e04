"""Tuples, named tuples, lists and dictionaries as arguments: every tensor in them is an input by its own name."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from schemas.errors import ModelRefused
from tests.worker.engine.models.torchscript.conftest import Import, Save
from worker.engine.models.load import load_program, measure_parity
from worker.engine.models.torchscript import load_torchscript, run_reference

X, Y = torch.linspace(-1, 2, 20).reshape(5, 4), torch.linspace(1, -1, 5).reshape(5, 1)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(4, 3)


class Pair(NamedTuple):
    ids: Tensor
    mask: Tensor


class TakesDict(Base):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        y = self.a(batch["ids"])
        if "mask" in batch:
            y = y * batch["mask"]
        return y


class TakesDictWithoutQuestions(Base):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.a(batch["ids"]) * batch["mask"]


class TakesTuple(Base):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        ids, mask = pair
        return self.a(ids) * mask + pair[1]


class TakesNamedTuple(Base):
    def forward(self, pair: Pair) -> Tensor:
        return self.a(pair.ids) * pair.mask


class TakesList(Base):
    def forward(self, several: list[Tensor]) -> Tensor:
        return self.a(several[0]) * several[1]


class TakesNested(Base):
    def forward(self, x: Tensor, rest: tuple[Tensor, Pair]) -> Tensor:
        first, pair = rest
        return self.a(x + first) * pair.mask + pair.ids.mean()


class TakesTwoDicts(Base):
    def forward(self, one: dict[str, Tensor], two: dict[str, Tensor]) -> Tensor:
        return self.a(one["x"]) * two["x"]


class WritesInto(Base):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        batch["ids"].mul_(2.0)
        return self.a(batch["ids"]) * batch["mask"]


CASES: list[tuple[nn.Module, tuple[Any, ...], dict[str, Tensor]]] = [
    (TakesDict(), ({"ids": X, "mask": Y},), {"ids": X, "mask": Y}),
    (TakesDictWithoutQuestions(), ({"ids": X, "mask": Y},), {"ids": X, "mask": Y}),
    (TakesTuple(), ((X, Y),), {"pair_0": X, "pair_1": Y}),
    (TakesNamedTuple(), (Pair(X, Y),), {"ids": X, "mask": Y}),
    (TakesList(), ([X, Y],), {"several_0": X, "several_1": Y}),
    (TakesNested(), (X, (X, Pair(X, Y))), {"x": X, "rest_0": X, "ids": X, "mask": Y}),
    (TakesTwoDicts(), ({"x": X}, {"x": Y}), {"x": X, "two_x": Y}),
    (WritesInto(), ({"ids": X.clone(), "mask": Y},), {"ids": X, "mask": Y}),
]


@pytest.mark.parametrize(("model", "arguments", "inputs"), CASES, ids=[type(case[0]).__name__ for case in CASES])
def test_each_tensor_is_an_input_by_its_own_name(
    model: nn.Module, arguments: tuple[Any, ...], inputs: dict[str, Tensor], save: Save
) -> None:
    expected = model(*arguments)
    path = save(model)
    program = load_torchscript(path)
    assert {spec.name for spec in program.inputs} == set(inputs)
    found = program.forward({}, inputs)["output"]
    assert torch.equal(found, expected)
    assert torch.equal(run_reference(path, inputs, 1)["output"], expected)
    assert measure_parity(path, load_program(path), inputs, 1) == 0.0
    leaves = {name: weight.clone().requires_grad_() for name, weight in program.weights.items()}
    slopes = torch.autograd.grad(program.forward(leaves, inputs)["output"].square().sum(), list(leaves.values()))
    wanted = torch.autograd.grad(expected.square().sum(), list(model.parameters()))
    assert all(torch.allclose(ours, theirs) for ours, theirs in zip(slopes, wanted, strict=True))


@pytest.mark.parametrize("model", [TakesDictWithoutQuestions(), TakesTuple(), TakesList()])
def test_traced_files_take_them_too(model: nn.Module, tmp_path: Path) -> None:
    [(arguments, inputs)] = [(case[1], case[2]) for case in CASES if type(case[0]) is type(model)]
    path = tmp_path / "traced.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, arguments, strict=False, check_trace=False).save(str(path))
    program = load_torchscript(path)
    values = list(inputs.values())
    assert len(program.inputs) == len(values)
    given = dict(zip((spec.name for spec in program.inputs), values, strict=True))
    if "mask" in given:
        given = inputs
    assert torch.equal(program.forward({}, given)["output"], model(*arguments))
    assert torch.equal(run_reference(path, given, 1)["output"], model(*arguments))


def test_a_key_that_is_asked_for_may_be_missing(save: Save) -> None:
    model, path = TakesDict(), save(TakesDict())
    program = load_torchscript(path)
    assert {spec.name: spec.optional for spec in program.inputs} == {"ids": False, "mask": True}
    assert torch.equal(program.forward({}, {"ids": X})["output"], model({"ids": X}))
    assert torch.equal(run_reference(path, {"ids": X}, 1)["output"], model({"ids": X}))


class Loops(Base):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        total = self.a(batch["ids"])
        for value in batch.values():
            total = total + value.mean()
        return total


class Grows(Base):
    def forward(self, several: list[Tensor]) -> Tensor:
        several.append(several[0])
        return self.a(several[1])


class OfNumbers(Base):
    def forward(self, x: Tensor, sizes: tuple[int, int]) -> Tensor:
        return self.a(x) * sizes[0]


@pytest.mark.parametrize("model", [Loops(), Grows(), OfNumbers()])
def test_what_cannot_be_told_apart_is_refused_with_advice(model: nn.Module, import_model: Import) -> None:
    with pytest.raises(ModelRefused, match="is not a tensor") as caught:
        import_model(model)
    assert "wrap the model" in caught.value.faults[0].advice


class HasDefaults(Base):
    def forward(self, x: Tensor, pair: tuple[Tensor, Tensor] | None = None, count: int = 2, name: str = "a") -> Tensor:
        y = self.a(x) * count
        return y if pair is None else y * pair[0]


def test_containers_with_a_default_take_it(import_model: Import) -> None:
    program = import_model(HasDefaults())
    assert [spec.name for spec in program.inputs] == ["x"]
    assert torch.equal(program.forward({}, {"x": X})["output"], HasDefaults()(X))
