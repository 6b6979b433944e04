"""Real exports: outputs as ONNX Runtime's, gradients as eager PyTorch's."""

import pytest
import torch
from torch import Tensor, nn

from tests.architectures.comparison import cast_inputs, compute_eager_gradients, compute_program_gradients, run_eager
from tests.worker.engine.models.onnx.exports import EXPORTS, Export, export
from worker.engine.models.onnx import run_reference

LSTM_GATES = (0, 3, 1, 2)
"""torch's i, f, g, o in ONNX's order i, o, f, c."""
GRU_GATES = (1, 0, 2)
"""torch's r, z, n in ONNX's order z, r, h."""


def _stack_layer(values: dict[str, Tensor], module: str, layer: int, directions: int, gates: tuple[int, ...]) -> list[Tensor]:
    """Return what ONNX stores for one recurrent layer (W, R, B) from values by PyTorch's parameter names."""

    def reorder(name: str, suffix: str) -> Tensor:
        parts = values[f"{module}.{name}_l{layer}{suffix}"].chunk(len(gates), 0)
        return torch.cat([parts[n] for n in gates], 0)

    suffixes = ("", "_reverse")[:directions]
    weights = [torch.stack([reorder(name, suffix) for suffix in suffixes]) for name in ("weight_ih", "weight_hh")]
    biases = [torch.cat([reorder("bias_ih", suffix), reorder("bias_hh", suffix)]) for suffix in suffixes]
    return [*weights, torch.stack(biases)]


def _spell(model: nn.Module, values: dict[str, Tensor]) -> list[Tensor]:
    """Return values by parameter name as the tensors that a file stores: recurrent layers stacked, the rest as it is."""
    spelled, used = [], set()
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase):
            gates = LSTM_GATES if isinstance(module, nn.LSTM) else GRU_GATES
            for layer in range(module.num_layers):
                spelled += _stack_layer(values, name, layer, 1 + module.bidirectional, gates)
            used |= {f"{name}.{parameter}" for parameter, _ in module.named_parameters()}
    return spelled + [value for name, value in values.items() if name not in used]


def _orient(stored: Tensor, wanted: Tensor, gradient: Tensor) -> Tensor | None:
    """Return the gradient of a stored tensor laid out like the parameter it equals, or None when it is another one."""
    if stored.numel() != wanted.numel():
        return None
    if torch.equal(stored.flatten(), wanted.flatten()):
        return gradient.reshape(wanted.shape)
    if stored.ndim == wanted.ndim == 2 and torch.equal(stored.t(), wanted):
        return gradient.t()
    return None


def _find_gradient_errors(made: Export, dtype: torch.dtype) -> dict[str, float]:
    """Return the relative error per parameter that the file stores as it is; tied ones are summed over their copies."""
    program = made.program.cast(dtype)
    inputs = cast_inputs(made.inputs, dtype)
    model = made.model.to(dtype)
    eager = compute_eager_gradients(model, inputs)
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    found = compute_program_gradients(program, inputs)
    model.float()
    total = sum(float(value.double().norm()) for value in eager.values())
    errors = {}
    for index, (value, expected) in enumerate(zip(_spell(model, parameters), _spell(model, eager), strict=True)):
        oriented = [_orient(program.weights[name], value, gradient) for name, gradient in found.items()]
        shares = [share for share in oriented if share is not None]
        if shares:
            difference = (torch.stack(shares).sum(0) - expected).double().norm()
            errors[f"{index}: {tuple(value.shape)}"] = float(difference / (expected.double().norm() + 1e-3 * total))
    return errors


@pytest.mark.parametrize(("route", "name"), EXPORTS)
def test_outputs_equal_onnx_runtime(route: str, name: str) -> None:
    made = export(route, name)

    reference = run_reference(made.path, made.inputs, threads=1)
    with torch.no_grad():
        found = made.program.forward({}, made.inputs)

    assert set(found) == set(reference)
    for output, expected in reference.items():
        assert torch.allclose(found[output], expected, rtol=1e-4, atol=1e-5), output


@pytest.mark.parametrize(("route", "name"), EXPORTS)
def test_gradients_equal_eager(route: str, name: str) -> None:
    errors = _find_gradient_errors(export(route, name), torch.float32)

    assert len(errors) >= len(list(export(route, name).model.parameters())) / 4
    assert max(errors.values()) <= 1e-4


@pytest.mark.parametrize(
    ("route", "name"), [("legacy", "lstm"), ("legacy", "gru"), ("legacy", "residual_cnn"), ("default", "residual_cnn")]
)
def test_gradients_equal_eager_in_float64(route: str, name: str) -> None:
    made = export(route, name)

    errors = _find_gradient_errors(made, torch.float64)
    inputs = cast_inputs(made.inputs, torch.float64)
    (expected,) = run_eager(made.model.double(), inputs)
    made.model.float()

    assert max(errors.values()) <= 1e-9
    (found,) = made.program.cast(torch.float64).forward({}, inputs).values()
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
