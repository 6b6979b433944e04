"""Harmless models with something of their own: read as they are, with and without decomposition."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.worker.engine.models.pt2.conftest import Export
from worker.engine.models.pt2 import load_pt2, run_reference

IMAGE = torch.linspace(-1, 1, 2 * 3 * 36).reshape(2, 3, 6, 6)
ROWS = torch.linspace(-2, 1, 40).reshape(5, 8)


class Applies(nn.Module):
    def __init__(self, layer: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = layer
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


def build(layer: Callable[[], nn.Module], function: Callable[[Tensor], Tensor] = torch.relu) -> nn.Module:
    torch.manual_seed(0)
    return Applies(layer(), function).eval()


MODELS: dict[str, tuple[nn.Module, Tensor]] = {
    "a number as the first operand": (build(lambda: nn.Conv2d(3, 6, 3, padding="same", padding_mode="reflect")), IMAGE),
    "bicubic": (build(lambda: nn.Conv2d(3, 2, 1), lambda x: functional.interpolate(x, scale_factor=2.0, mode="bicubic")), IMAGE),
    "weight norm": (build(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))), ROWS),
    "spectral norm": (build(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 4))), ROWS),
    "sums along a line": (build(lambda: nn.Linear(8, 4), lambda x: x + torch.linspace(0, 1, 4)), ROWS),
    "a scatter": (build(lambda: nn.Linear(8, 8), lambda x: torch.zeros_like(x).scatter_add(1, (x > 0).long(), x)), ROWS),
}


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize(("model", "x"), MODELS.values(), ids=MODELS.keys())
def test_a_harmless_model_is_read(model: nn.Module, x: Tensor, decomposed: bool, export: Export) -> None:
    path = export(model, x, decomposed=decomposed)
    program = load_pt2(path)
    inputs, expected = {"x": torch.cat([x, -x])}, model(torch.cat([x, -x]))
    leaves = {name: weight.clone().requires_grad_() for name, weight in program.weights.items()}
    found = program.forward(leaves, inputs)["output"]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(run_reference(path, inputs, threads=1)["output"], expected)
    ours = torch.autograd.grad(found.square().sum(), list(leaves.values()))
    theirs = torch.autograd.grad(expected.square().sum(), [dict(model.named_parameters())[name] for name in leaves])
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
