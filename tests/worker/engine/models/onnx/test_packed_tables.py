"""Embeddings stored in blocks of a few bits, against the runtime and the table before it was quantised."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from tests.worker.engine.models.onnx.graphs import initializer, node, save
from worker.engine.components import find_components
from worker.engine.models.onnx import load_onnx, run_reference

GENERATOR = np.random.default_rng(7)
OPSETS = {"": 21, "com.microsoft": 1}
INDICES = {"x": torch.tensor([[1, 5, 0], [8, 8, 2]])}
ROWS, COLUMNS, BLOCK = 9, 32, 16


def draw(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_language_model_that_the_quantiser_wrote_has_its_embedding_in_real_units(tmp_path: Path, symmetric: bool) -> None:
    table, head = draw(ROWS, COLUMNS), draw(COLUMNS, 6)
    nodes = [node("Gather", ["table", "x"], ["a"], name="embed"), node("MatMul", ["a", "head"], ["y"], name="head")]
    stored = [initializer("table", table), initializer("head", head)]
    path = save(tmp_path, nodes, stored=stored, inputs={"x": TensorProto.INT64}, opsets=OPSETS)
    kinds = ("MatMul", "Gather")
    quantiser = MatMulNBitsQuantizer(
        onnx.load(path), block_size=BLOCK, is_symmetric=symmetric, accuracy_level=1, op_types_to_quantize=kinds
    )
    quantiser.process()
    path.write_bytes(quantiser.model.model.SerializeToString())
    program = load_onnx(path)

    assert {step.operator.rpartition(".")[2] for step in program.steps} == {"GatherBlockQuantized", "MatMulNBits"}
    assert {program.grids[name].type_name for name in program.weights} <= {"int4", "uint4"}
    (embedding,) = (name for name in program.weights if name.startswith("table"))
    step = program.grids[embedding].step
    assert bool(((program.weights[embedding] - torch.from_numpy(table)).abs() <= 1.01 * step.abs()).all())
    leaves = {name: value.clone().requires_grad_() for name, value in program.weights.items()}
    found = program.forward(leaves, INDICES)["y"]
    assert torch.allclose(found, run_reference(path, INDICES, 1)["y"], atol=1e-4)
    gradient = torch.autograd.grad(found.sum(), leaves[embedding])[0]
    (weight,) = (program.weights[name] for name in program.weights if name != embedding)
    counts = torch.bincount(INDICES["x"].flatten(), minlength=ROWS)
    assert torch.allclose(gradient, counts.unsqueeze(1) * weight.sum(0), atol=1e-4)
    assert find_components(program)[embedding] == "embedding"


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_tables_packed_into_bytes(tmp_path: Path, bits: int, zero: bool) -> None:
    per_byte, blocks = 8 // bits, COLUMNS // BLOCK
    codes = GENERATOR.integers(0, 2**bits, (ROWS, COLUMNS))
    points = GENERATOR.integers(0, 2**bits, (ROWS, blocks))

    def pack(values: np.ndarray) -> np.ndarray:
        packed = sum(values.reshape(ROWS, -1, per_byte)[..., i] << (bits * i) for i in range(per_byte))
        return np.asarray(packed).astype(np.uint8)

    scales = GENERATOR.uniform(0.01, 0.1, (ROWS, blocks)).astype(np.float32)
    stored: dict[str, Any] = {"w": pack(codes), "s": scales} | ({"z": pack(points)} if zero else {})
    attributes: dict[str, Any] = {"bits": bits, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1}
    form = node("GatherBlockQuantized", ["w", "x", "s", *(["z"] if zero else [])], ["y"], domain="com.microsoft", **attributes)
    kept = [initializer(name, value) for name, value in stored.items()]
    path = save(tmp_path, [form], stored=kept, inputs={"x": TensorProto.INT64}, opsets=OPSETS)
    program = load_onnx(path)

    offsets = points if zero else np.full((ROWS, blocks), 2 ** (bits - 1))
    real = (codes - np.repeat(offsets, BLOCK, 1)) * np.repeat(scales, BLOCK, 1)
    np.testing.assert_allclose(program.weights["w"].numpy(), real, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(program.grids["w"].codes.numpy(), codes)
    assert program.grids["w"].bits == bits
    found = program.forward({}, INDICES)["y"]
    assert torch.allclose(found, torch.from_numpy(real.astype(np.float32))[INDICES["x"]])
    assert torch.allclose(found, run_reference(path, INDICES, 1)["y"], atol=1e-6)
