"""Placement: on another device, everything but small integers runs there. The meta device stands for an accelerator."""

import pytest
import torch
from torch import Tensor

from tests.architectures.comparison import cast_inputs
from tests.worker.engine.models.onnx.exports import EXPORTS, export


@pytest.mark.parametrize(("route", "name"), EXPORTS)
def test_outputs_and_gradients_stay_on_the_device(route: str, name: str) -> None:
    made = export(route, name)
    program = made.program.to("meta")
    leaves = {key: value.detach().requires_grad_() for key, value in program.weights.items()}

    outputs = program.forward(leaves, {key: value.to("meta") for key, value in made.inputs.items()})
    torch.stack([value.sum() for value in outputs.values()]).sum().backward()

    assert {value.device.type for value in outputs.values()} == {"meta"}
    assert any(leaf.grad is not None for leaf in leaves.values())
    assert {leaf.grad.device.type for leaf in leaves.values() if leaf.grad is not None} == {"meta"}


@pytest.mark.parametrize(("route", "name"), EXPORTS)
def test_a_cast_program_computes_in_the_wider_type_throughout(route: str, name: str) -> None:
    made = export(route, name)
    program = made.program.cast(torch.float64)

    with torch.no_grad():
        found = program.forward({}, cast_inputs(made.inputs, torch.float64))
        narrow = made.program.forward({}, made.inputs)

    for key, value in found.items():
        assert isinstance(value, Tensor)
        assert value.dtype == torch.float64
        assert torch.allclose(value.float(), narrow[key], rtol=1e-3, atol=1e-4)
