"""Gradients of a loaded program and of the eager network it came from, brought to the same names."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from worker.engine.models.program import Program

Gradients = dict[str, Tensor]


def weigh(outputs: Sequence[Tensor]) -> Tensor:
    """Return one number that every entry of every output has its own share in."""
    parts = [value * torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value) for value in outputs]
    return torch.stack([part.sum() for part in parts]).sum()


def run_eager(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Return the network's outputs as a tuple."""
    result = model(*inputs.values())
    return result if isinstance(result, tuple) else (result,)


def compute_eager_gradients(model: nn.Module, inputs: Mapping[str, Tensor]) -> Gradients:
    """Return the gradient of the weighed outputs by parameter name."""
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(weigh(run_eager(model, inputs)), list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


def compute_program_gradients(program: Program, inputs: Mapping[str, Tensor]) -> Gradients:
    """Return the gradient of the weighed outputs by weight name."""
    leaves = {name: weight.detach().clone().requires_grad_() for name, weight in program.weights.items()}
    outputs = program.forward(leaves, inputs)
    found = torch.autograd.grad(weigh([outputs[name] for name in program.outputs]), list(leaves.values()), allow_unused=True)
    given: dict[str, Tensor | None] = dict(zip(leaves, found, strict=True))
    return {name: gradient for name, gradient in given.items() if gradient is not None}


def rename_by_value(program: Program, gradients: Gradients, model: nn.Module) -> Gradients:
    """Return the gradients under the names of the eager parameters whose entries the program's weights hold.

    Exporters transpose weights, join those of a recurrent layer with its gates in another order, spread a position table
    out, store a tied one twice. All of these take entries of parameters, so each entry's share goes to the parameter's
    entry of that value; the network's weights are distinct (`make_distinct`).
    """
    names, parameters = zip(*model.named_parameters(), strict=True)
    values, order = torch.cat([parameter.detach().flatten() for parameter in parameters]).sort()
    shares = torch.zeros_like(values)
    reached = torch.zeros_like(values, dtype=torch.bool)
    for name, gradient in gradients.items():
        stored = program.weights[name].flatten().to(values.dtype)
        places = torch.searchsorted(values, stored).clamp(max=len(values) - 1)
        if torch.equal(values[places], stored):
            shares.index_add_(0, order[places], gradient.flatten().to(values.dtype))
            reached[order[places]] = True
    sizes = [parameter.numel() for parameter in parameters]
    found = zip(names, parameters, shares.split(sizes), reached.split(sizes), strict=True)
    return {name: share.view_as(parameter) for name, parameter, share, hit in found if hit.any()}


def compute_relative_error(found: Gradients, expected: Gradients) -> float:
    """Return |found - expected| / |expected| in the 2-norm over all parameters; a missing one counts as zero."""
    difference = sum(
        float((found.get(name, torch.zeros_like(value)) - value).double().square().sum()) for name, value in expected.items()
    )
    size = sum(float(value.double().square().sum()) for value in expected.values())
    return (difference / size) ** 0.5


def cast_inputs(inputs: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the inputs with floating-point ones in `dtype`."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
