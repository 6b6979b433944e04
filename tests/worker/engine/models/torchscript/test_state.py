"""What counts as a weight, and under which name."""

import torch
from torch import Tensor, nn

from tests.worker.engine.models.torchscript.conftest import Import


class Mixed(nn.Module):
    """A parameter that is unused, a scalar one, an integer buffer, a mask, a table, a plain tensor attribute, a literal."""

    mask: Tensor
    table: Tensor
    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.unused = nn.Parameter(torch.randn(2))
        self.register_buffer("mask", torch.tensor([0.0, -1.0, 0.0]))
        self.register_buffer("table", torch.randn(3))
        self.register_buffer("order", torch.tensor([2, 0, 1]))

    def forward(self, x: Tensor) -> Tensor:
        return (self.fc(x)[:, self.order] + self.mask + self.table) * self.scale * 0.25


def test_parameters_are_weights_and_buffers_are_not(import_model: Import) -> None:
    model = Mixed()
    for program in (import_model(model), import_model(model, torch.randn(2, 3))):
        assert list(program.weights) == [name for name, _ in model.named_parameters()]
        assert {skipped.name: skipped.reason for skipped in program.skipped} == {
            "mask": "not_a_weight",
            "table": "not_a_weight",
            "order": "integer",
        }
        assert program.modules["fc.weight"] == program.modules["fc.bias"] == "fc"
        assert program.modules["scale"] == ""


def test_in_a_frozen_file_tables_are_weights_and_masks_and_scalars_are_not(import_model: Import) -> None:
    program = import_model(Mixed(), torch.randn(2, 3), freeze=True)
    kinds = {name.rpartition(".")[0].rpartition("_")[0]: tuple(weight.shape) for name, weight in program.weights.items()}
    assert kinds == {"linear": (3,), "add": (3,)}
    assert len(program.weights) == 3
    assert [skipped.weights for skipped in program.skipped if skipped.reason == "not_a_weight"] == [3]


class Captured(nn.Module):
    """A file with parameters and a tensor that the tracer captured from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + torch.tensor([0.5, 0.25, 0.125])


def test_literals_beside_parameters_are_no_weights(import_model: Import) -> None:
    program = import_model(Captured(), torch.randn(2, 3))
    assert list(program.weights) == ["fc.weight", "fc.bias"]


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def test_tied_weights_move_together(import_model: Import) -> None:
    model = Shared()
    for program in (
        import_model(model),
        import_model(model, torch.randn(2, 3)),
        import_model(model, torch.randn(2, 3), freeze=True),
    ):
        assert len(program.weights) == 3
        (tied,) = (name for name, weight in program.weights.items() if torch.equal(weight, model.first.weight))
        changed = model.first.weight.detach() + 1
        x = torch.randn(2, 3)
        with torch.no_grad():
            kept = model.first.weight.clone()
            model.first.weight.copy_(changed)
            expected = model(x)
            model.first.weight.copy_(kept)
        torch.testing.assert_close(program.forward({tied: changed}, {"x": x})["output"], expected)


def test_the_producer_is_what_the_file_says(import_model: Import) -> None:
    assert import_model(nn.Linear(3, 3)).producer == "pytorch, archive version 3"


def test_weights_keep_their_stored_dtype_and_bits(import_model: Import) -> None:
    model = nn.Linear(3, 3).half()
    program = import_model(model)
    assert torch.equal(program.weights["weight"], model.weight)
    assert program.weights["weight"].dtype == torch.float16
