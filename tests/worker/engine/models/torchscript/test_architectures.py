"""Every test network, by every TorchScript route: outputs, gradients, names."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.architectures import ARCHITECTURES, Architecture, make_distinct
from tests.architectures.comparison import (
    cast_inputs,
    compute_eager_gradients,
    compute_program_gradients,
    compute_relative_error,
    rename_by_value,
)
from tests.architectures.exports import TorchScriptRoute, export_torchscript
from tests.fusing import fuse_batch_norm
from worker.engine.models.program import Program
from worker.engine.models.torchscript import load_torchscript, run_reference

CASES = [
    pytest.param(architecture, route, id=f"{architecture.name}-{route}")
    for architecture in ARCHITECTURES.values()
    for route in ("trace", "script", "frozen")
    if architecture.scriptable or route != "script"
]


@pytest.mark.parametrize(("architecture", "route"), CASES)
def test_program_agrees_with_runtime_and_eager_gradients(
    architecture: Architecture, route: TorchScriptRoute, tmp_path: Path
) -> None:
    model = architecture.build()
    if route == "frozen":  # which folds BatchNorm: folded in eager, the stored weights are known
        model = fuse_batch_norm(model)
        make_distinct(model)
    path = export_torchscript(architecture, model, tmp_path / "model.pt", route)
    program = load_torchscript(path)
    inputs = architecture.make_example(batch=6, seed=1)

    check_outputs(architecture, program, run_reference(path, inputs, threads=1), inputs)
    check_runs_where_it_is_moved(program, inputs)
    if route != "frozen":
        assert list(program.weights) == [name for name, _ in model.named_parameters()]
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        cast = program.cast(dtype)
        twin = copy.deepcopy(model).to(dtype)
        expected = compute_eager_gradients(twin, cast_inputs(inputs, dtype))
        found = compute_program_gradients(cast, cast_inputs(inputs, dtype))
        if route == "frozen":
            found = rename_by_value(cast, found, twin)
        assert set(found) == set(expected)
        assert compute_relative_error(found, expected) <= tolerance


def check_outputs(architecture: Architecture, program: Program, reference: dict[str, Tensor], inputs: dict[str, Tensor]) -> None:
    with torch.no_grad():
        outputs = program.forward({}, inputs)
    assert tuple(outputs) == program.outputs == tuple(reference) == architecture.outputs
    assert tuple(spec.name for spec in program.inputs) == architecture.inputs
    assert not program.training
    assert not program.mutates
    for name, value in reference.items():
        torch.testing.assert_close(outputs[name], value, rtol=1e-5, atol=1e-5)


def check_runs_where_it_is_moved(program: Program, inputs: dict[str, Tensor]) -> None:
    # The meta device refuses operators that mix devices, as CUDA does; the files carry `cpu` baked into their factories.
    outputs = program.to("meta").forward({}, {name: value.to("meta") for name, value in inputs.items()})
    assert {value.device.type for value in outputs.values()} == {"meta"}


def test_frozen_weights_are_grouped_by_the_operator_that_reads_them(tmp_path: Path) -> None:
    architecture = ARCHITECTURES["residual_cnn"]
    program = load_torchscript(export_torchscript(architecture, architecture.build(), tmp_path / "model.pt", "frozen"))
    assert [name for name in program.weights if "convolution" in name] == [
        f"convolution_{place}.{part}" for place in range(6) for part in ("weight", "bias")
    ]
    assert {"linear_0.weight", "linear_0.bias"} < set(program.weights)
    assert all(program.modules[name] == name.rpartition(".")[0] for name in program.weights)


def test_frozen_lstm_has_pytorchs_own_weight_names(tmp_path: Path) -> None:
    architecture = ARCHITECTURES["lstm"]
    program = load_torchscript(export_torchscript(architecture, architecture.build(), tmp_path / "model.pt", "frozen"))
    layer = architecture.build().get_submodule("lstm")
    assert {name for name in program.weights if name.startswith("lstm_0.")} == {
        f"lstm_0.{name}" for name, _ in layer.named_parameters()
    }
    for name, parameter in layer.named_parameters():
        assert torch.equal(program.weights[f"lstm_0.{name}"], parameter)


def test_frozen_masks_are_no_weights(tmp_path: Path) -> None:
    architecture = ARCHITECTURES["swin"]
    program = load_torchscript(export_torchscript(architecture, architecture.build(), tmp_path / "model.pt", "frozen"))
    assert {skipped.reason for skipped in program.skipped} == {"not_a_weight"}
    assert sorted(skipped.weights for skipped in program.skipped) == [256, 1024, 1024]


def test_unfrozen_batch_norm_statistics_are_skipped_by_name(tmp_path: Path) -> None:
    architecture = ARCHITECTURES["residual_cnn"]
    program = load_torchscript(export_torchscript(architecture, architecture.build(), tmp_path / "model.pt", "trace"))
    reasons = {skipped.name: skipped.reason for skipped in program.skipped}
    assert reasons["stem.1.running_mean"] == reasons["blocks.1.bn2.running_var"] == "running_statistic"
    assert reasons["stem.1.num_batches_tracked"] == "integer"
    assert set(reasons) == {name for name, _ in architecture.build().named_buffers()}


def test_tied_weights_are_one_weight(tmp_path: Path) -> None:
    architecture = ARCHITECTURES["gpt2"]
    routes: tuple[TorchScriptRoute, ...] = ("trace", "frozen")
    for route in routes:
        program = load_torchscript(export_torchscript(architecture, architecture.build(), tmp_path / f"{route}.pt", route))
        shapes = [tuple(weight.shape) for weight in program.weights.values()]
        assert shapes.count((60, 16)) == 1
