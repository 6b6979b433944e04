"""Every test network exported by torch.export: outputs, gradients, names."""

import copy
from pathlib import Path

import pytest
import torch

from tests.architectures import ARCHITECTURES
from tests.architectures.comparison import (
    cast_inputs,
    compute_eager_gradients,
    compute_program_gradients,
    compute_relative_error,
    run_eager,
)
from tests.architectures.exports import export_pt2
from worker.engine.models.pt2 import load_pt2, run_reference

STATIC = ("mlp", "two_in_two_out", "lstm", "swin", "gpt2")
DECOMPOSED = ("residual_cnn", "unet", "gru", "transformer_encoder", "swin", "llama")
CASES = [
    *((name, "dynamic") for name in ARCHITECTURES),
    *((name, "static") for name in STATIC),
    *((name, "decomposed") for name in DECOMPOSED),
]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_program_agrees_with_eager(name: str, form: str, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    model = architecture.build()
    path = export_pt2(architecture, model, tmp_path / "model.pt2", dynamic=form != "static", decomposed=form == "decomposed")
    program = load_pt2(path)
    inputs = architecture.make_example(batch=4 if form == "static" else 6, seed=1)
    with torch.no_grad():
        outputs = program.forward({}, inputs)
        expected = dict(zip(architecture.outputs, run_eager(model, inputs), strict=True))
    reference = run_reference(path, inputs, threads=1)

    assert tuple(outputs) == program.outputs == tuple(reference) == architecture.outputs
    assert tuple(spec.name for spec in program.inputs) == architecture.inputs
    assert [spec.shape and spec.shape[0] for spec in program.inputs] == [4 if form == "static" else None] * len(program.inputs)
    assert list(program.weights) == [parameter for parameter, _ in model.named_parameters()]
    assert not program.training
    assert not program.mutates
    for output, value in expected.items():
        torch.testing.assert_close(outputs[output], value, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(reference[output], value, rtol=1e-5, atol=1e-5)
    # The meta device refuses operators that mix devices, as CUDA does; the files carry `cpu` baked into their factories.
    moved = program.to("meta").forward({}, {key: value.to("meta") for key, value in inputs.items()})
    assert {value.device.type for value in moved.values()} == {"meta"}
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        twin, given = copy.deepcopy(model).to(dtype), cast_inputs(inputs, dtype)
        found = compute_program_gradients(program.cast(dtype), given)
        assert compute_relative_error(found, compute_eager_gradients(twin, given)) <= tolerance
