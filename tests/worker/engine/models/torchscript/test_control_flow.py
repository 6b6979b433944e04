"""Scripted Python: loops and branches that depend on data, containers, optional arguments, kinds of outputs."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from schemas.errors import DataMismatch, ModelRefused
from tests.worker.engine.models.torchscript.conftest import Import, Save
from worker.engine.models.torchscript import load_torchscript, run_reference


class Pair(NamedTuple):
    logits: Tensor
    hidden: Tensor


class Halving(nn.Module):
    """Applies one layer until the largest entry is small, so the number of rounds depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        rounds = 0
        while bool(x.abs().max() > 0.5) and rounds < 20:
            x = torch.tanh(self.fc(x)) * 0.8
            rounds += 1
        return x * rounds


class Collecting(nn.Module):
    """A list built in a loop over a dimension, and a sum over the batch with early exit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts: list[Tensor] = []
        for step in range(x.size(1)):
            if step == 2:
                continue
            parts.append(self.fc(x[:, step]))
            if step > 3:
                break
        return torch.stack(parts, 1)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(3, 2)
        self.down = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 0):
            y = self.up(x)
        elif bool(x.max() > 0):
            y = self.down(x) * 2
        else:
            y = self.up(x) - self.down(x)
        return y


class Structured(nn.Module):
    """Optional tensor, defaults that are no tensors, and nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(3, 3)
        self.names: dict[str, int] = {"a": 2, "b": 5}

    def forward(
        self, x: Tensor, mask: Tensor | None = None, power: int = 2, flip: bool = False
    ) -> tuple[Pair, dict[str, Tensor]]:
        y = self.fc(x) ** power
        if mask is not None:
            y = y.masked_fill(mask, 0.0)
        if flip:
            y = -y
        return Pair(y, x), {"scaled": y * self.names["b"], "first": y[:, 0]}


class Checking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2:
            message = f"expected a matrix, got {x.dim()} dimensions"
            raise ValueError(message)
        return self.fc(x)


class ChoosingOutputs(nn.Module):
    """Returns from branches: one decided by a constant, one by the data."""

    def __init__(self, *, detailed: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.detailed = detailed

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        y = self.fc(x)
        if not self.detailed:
            return y, None, torch.ones(2)
        if bool(x.sum() > 0):
            return y, x, y
        return -y, x, x


class Variable(nn.Module):
    """The number of outputs depends on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self.fc(x).unbind(0))


CASES = [
    pytest.param(Halving(), [0.1 * torch.ones(2, 4), torch.ones(2, 4), 40 * torch.ones(2, 4)], id="while"),
    pytest.param(Collecting(), [torch.randn(2, length, 3) for length in (1, 3, 5, 9)], id="for-with-list"),
    pytest.param(Branching(), [torch.ones(2, 3), torch.tensor([[1.0, -9.0, 0.0]]), -torch.ones(2, 3)], id="if-elif-else"),
]


@pytest.mark.parametrize(("model", "batches"), CASES)
def test_data_dependent_flow_agrees_with_eager(model: nn.Module, batches: list[Tensor], import_model: Import) -> None:
    program = import_model(model)
    assert any(step.blocks for step in program.steps)
    for batch in batches:
        leaves = {name: weight.clone().requires_grad_() for name, weight in program.weights.items()}
        expected = model(batch)
        found = program.forward(leaves, {program.inputs[0].name: batch})["output"]
        torch.testing.assert_close(found, expected)
        if expected.requires_grad:
            gradients = torch.autograd.grad(found.square().sum(), list(leaves.values()), allow_unused=True)
            wanted = torch.autograd.grad(expected.square().sum(), list(model.parameters()), allow_unused=True)
            for ours, theirs in zip(gradients, wanted, strict=True):
                assert (ours is None) == (theirs is None)
                if ours is not None:
                    torch.testing.assert_close(ours, theirs)


def test_steps_after_data_dependent_flow_are_marked(import_model: Import) -> None:
    loop = next(step for step in import_model(Halving()).steps if step.operator == "prim::Loop")
    assert loop.dynamic_shape
    by_shape = next(step for step in import_model(Collecting()).steps if step.operator == "prim::Loop")
    assert not by_shape.dynamic_shape


def test_optional_and_default_arguments(save: Save) -> None:
    model = Structured()
    path = save(model)
    program = load_torchscript(path)
    assert [(spec.name, spec.optional) for spec in program.inputs] == [("x", False), ("mask", True)]
    assert program.outputs == ("output_0_logits", "output_0_hidden", "output_1_scaled", "output_1_first")
    x, mask = torch.randn(2, 3), torch.tensor([[True, False, False], [False, True, True]])
    for inputs in ({"x": x}, {"x": x, "mask": mask}):
        found, reference = program.forward({}, inputs), run_reference(path, inputs, threads=1)
        assert tuple(reference) == program.outputs
        for name, value in reference.items():
            torch.testing.assert_close(found[name], value)


def test_a_failed_check_of_the_model_is_a_data_error(import_model: Import) -> None:
    program = import_model(Checking())
    assert program.forward({}, {"x": torch.ones(2, 3)})["output"].shape == (2, 3)
    with pytest.raises(DataMismatch) as caught:
        program.forward({}, {"x": torch.ones(2, 2, 3)})
    assert "expected a matrix, got 3 dimensions" in caught.value.faults[0].got


def test_outputs_of_unknown_number_are_refused(import_model: Import) -> None:
    with pytest.raises(ModelRefused, match="outputs"):
        import_model(Variable())


@pytest.mark.parametrize("detailed", [True, False])
def test_outputs_may_be_chosen_in_branches(detailed: bool, save: Save) -> None:
    path = save(ChoosingOutputs(detailed=detailed))
    program = load_torchscript(path)
    assert program.outputs == (("output_0", "output_1", "output_2") if detailed else ("output_0", "output_2"))
    for sign in (1.0, -1.0):
        inputs = {"x": sign * torch.ones(2, 3)}
        torch.testing.assert_close(program.forward({}, inputs), run_reference(path, inputs, threads=1))


def test_the_runtimes_own_failure_is_a_data_error(save: Save) -> None:
    with pytest.raises(DataMismatch) as caught:
        run_reference(save(Halving()), {"x": torch.ones(2, 5)}, threads=1)
    assert "shapes" in caught.value.faults[0].got
