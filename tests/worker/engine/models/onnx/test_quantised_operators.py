"""Operators on integers against ONNX Runtime's kernels, and the weights that they read."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import NodeProto, TensorProto, helper
from torch import Tensor

from schemas.errors import UnsupportedOperator
from tests.worker.engine.models.onnx.graphs import initializer, node, save, write
from worker.engine.models.onnx import load_onnx, run_reference

GENERATOR = np.random.default_rng(5)
OPSETS = {"": 21, "com.microsoft": 1}
STEP, ZERO = np.float32(0.05), np.uint8(120)
OUT_STEP, OUT_ZERO = np.float32(0.11), np.uint8(97)


def _codes(*shape: int, dtype: Any = np.int8) -> np.ndarray:
    limits = np.iinfo(dtype)
    return GENERATOR.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def _steps(count: int) -> np.ndarray:
    return GENERATOR.uniform(0.002, 0.02, count).astype(np.float32)


def _ms(kind: str, inputs: list[str], **attributes: Any) -> NodeProto:
    return node(kind, inputs, ["q"], domain="com.microsoft", **attributes)


GRIDS = {"s": STEP, "z": ZERO, "ys": OUT_STEP, "yz": OUT_ZERO}
X = ["c", "s", "z"]
Y = ["ys", "yz"]
W = ["w", "ws", "wz"]
IMAGE = (2, 3, 7, 6)

CASES: dict[str, tuple[NodeProto, dict[str, Any], tuple[int, ...]]] = {
    "QLinearConv": (
        node("QLinearConv", [*X, *W, *Y, "b"], ["q"], pads=[1, 0, 1, 2], strides=[2, 1]),
        {"w": _codes(4, 3, 3, 2), "ws": _steps(4), "wz": np.zeros(4, np.int8), "b": _codes(4, dtype=np.int16).astype(np.int32)},
        IMAGE,
    ),
    "QLinearConv of uint8 weights": (
        node("QLinearConv", [*X, *W, *Y], ["q"], group=3),
        {"w": _codes(6, 1, 3, 3, dtype=np.uint8), "ws": np.float32(0.01), "wz": np.uint8(130)},
        IMAGE,
    ),
    "QLinearConv channels last": (
        _ms("QLinearConv", [*X, *W, *Y], channels_last=1, pads=[1, 1, 1, 1]),
        {"w": _codes(4, 6, 3, 3), "ws": np.float32(0.01), "wz": np.int8(0)},
        IMAGE,
    ),
    "QLinearMatMul": (
        node("QLinearMatMul", [*X, *W, *Y], ["q"]),
        {"w": _codes(6, 5), "ws": _steps(5), "wz": np.array([0, 0, 0, 0, 0], np.int8)},
        (2, 4, 6),
    ),
    "QGemm": (
        _ms("QGemm", [*X, *W, "b", *Y], transB=1),
        {"w": _codes(5, 6), "ws": np.float32(0.01), "wz": np.int8(0), "b": _codes(5, dtype=np.int16).astype(np.int32)},
        (4, 6),
    ),
    "QLinearAdd": (
        _ms("QLinearAdd", [*X, *W, *Y]),
        {"w": _codes(6, dtype=np.uint8), "ws": np.float32(0.03), "wz": np.uint8(9)},
        (4, 6),
    ),
    "QLinearMul": (_ms("QLinearMul", [*X, *X, *Y]), {}, (4, 6)),
    "QLinearSigmoid": (_ms("QLinearSigmoid", [*X, *Y]), {"ys": np.float32(1 / 256), "yz": np.uint8(0)}, (4, 6)),
    "QLinearLeakyRelu": (_ms("QLinearLeakyRelu", [*X, *Y], alpha=0.2), {}, (4, 6)),
    "QLinearSoftmax": (
        _ms("QLinearSoftmax", [*X, *Y], axis=-1, opset=13),
        {"ys": np.float32(1 / 256), "yz": np.uint8(0)},
        (4, 6),
    ),
    "QLinearAveragePool": (
        _ms("QLinearAveragePool", [*X, *Y], kernel_shape=[3, 2], pads=[1, 0, 1, 0], strides=[2, 2]),
        {},
        IMAGE,
    ),
    "QLinearGlobalAveragePool": (_ms("QLinearGlobalAveragePool", [*X, *Y], channels_last=0), {"ys": np.float32(0.01)}, IMAGE),
    "QLinearConcat": (_ms("QLinearConcat", [*Y, *X, *X], axis=1), {}, (2, 5, 6)),
    "QLinearWhere": (
        _ms("QLinearWhere", ["m", *X, *W, *Y]),
        {"m": np.arange(6) % 2 == 0, **dict.fromkeys(()), "w": _codes(6, dtype=np.uint8), "ws": STEP, "wz": np.uint8(3)},
        (4, 6),
    ),
    "QLinearSoftmax of a step that does not divide one": (
        _ms("QLinearSoftmax", [*X, *Y], axis=-1, opset=13),
        {"ys": np.float32(0.00345), "yz": np.uint8(0)},
        (40, 6),
    ),
    "Resize of codes": (
        node("Resize", ["c", "", "by"], ["q"], mode="linear"),
        {"by": np.array([1, 1, 2, 2], np.float32)},
        IMAGE,
    ),
}


def _write(folder: Path, operator: NodeProto, stored: dict[str, Any]) -> Path:
    first = node("QuantizeLinear", ["x", "s", "z"], ["c"])
    last = node("DequantizeLinear", ["q", "ys", "yz"], ["y"])
    kept = [initializer(name, value) for name, value in {**GRIDS, **stored}.items()]
    return save(folder, [first, operator, last], stored=kept, opsets=OPSETS)


@pytest.mark.parametrize("case", CASES)
def test_operators_between_grids_have_the_codes_of_the_runtime_and_pass_gradients_on(tmp_path: Path, case: str) -> None:
    operator, stored, shape = CASES[case]
    path = _write(tmp_path, operator, stored)
    x = torch.from_numpy(GENERATOR.normal(size=shape).astype(np.float32)).requires_grad_()
    program = load_onnx(path)

    expected = run_reference(path, {"x": x}, 1)["y"]
    found = program.forward({}, {"x": x})["y"]
    (found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum().backward()

    steps = (found.detach() - expected) / float(stored.get("ys", OUT_STEP))
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert float(steps.abs().max()) < 0.5
    assert expected.unique().numel() > 3
    assert x.grad is not None
    assert bool(x.grad.any())
    assert program.rounds


@pytest.mark.parametrize("case", [name for name, (_, stored, _) in CASES.items() if "w" in stored])
def test_integers_that_operators_read_are_weights_in_real_units(tmp_path: Path, case: str) -> None:
    operator, stored, shape = CASES[case]
    program = load_onnx(_write(tmp_path, operator, stored))
    axis = {"QLinearMatMul": -1}.get(case, 0)
    scale, zero = np.asarray(stored["ws"]), np.asarray(stored["wz"]).astype(np.int64)
    spread = [-1 if dim == axis % stored["w"].ndim else 1 for dim in range(stored["w"].ndim)]

    real = (stored["w"].astype(np.int64) - zero.reshape(spread if zero.ndim else ())) * scale.reshape(
        spread if scale.ndim else ()
    )

    assert set(program.weights) == set(program.grids) == {"w", "b"} & set(stored)
    np.testing.assert_allclose(program.weights["w"].numpy(), real, rtol=1e-6)
    np.testing.assert_array_equal(program.grids["w"].codes.numpy(), stored["w"])
    if "b" in stored:
        np.testing.assert_allclose(program.weights["b"].numpy(), stored["b"] * STEP * scale, rtol=1e-6)
    assert {"ws", "wz", "s"} <= {entry.name for entry in program.skipped if entry.reason == "not_a_weight"} | {"s"}

    leaves = {name: weight.clone().requires_grad_() for name, weight in program.weights.items()}
    x = torch.from_numpy(GENERATOR.normal(size=shape).astype(np.float32))
    program.forward(leaves, {"x": x})["y"].sum().backward()
    assert all(leaf.grad is not None and bool(leaf.grad.any()) for leaf in leaves.values())


def _write_dynamic(folder: Path, scale: Any) -> Path:
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["c", "s", "z"]),
        node("MatMulInteger", ["c", "w", "z", "wz"], ["sums"]),
        node("Cast", ["sums"], ["real"], to=TensorProto.FLOAT),
        node("Mul", ["s", "ws"], ["both"]),
        node("Mul", ["real", "both"], ["y"]),
    ]
    kept = {"w": _codes(6, 5), "ws": scale, "wz": np.zeros(np.shape(scale), np.int8)}
    return save(folder, nodes, stored=[initializer(name, value) for name, value in kept.items()], opsets=OPSETS)


@pytest.mark.parametrize("scale", [np.float32(0.01), _steps(5)], ids=["per tensor", "per channel"])
def test_products_of_integers_find_the_scale_of_their_weight_behind_them(tmp_path: Path, scale: Any) -> None:
    path = _write_dynamic(tmp_path, scale)
    program = load_onnx(path)
    x = torch.from_numpy(GENERATOR.normal(size=(3, 6)).astype(np.float32)).requires_grad_()

    y = program.forward({}, {"x": x})["y"]
    y.sum().backward()

    assert set(program.weights) == set(program.grids) == {"w"}
    np.testing.assert_allclose(program.weights["w"].numpy(), program.grids["w"].codes.numpy() * scale, rtol=1e-6)
    assert torch.allclose(y, run_reference(path, {"x": x}, 1)["y"], 1e-6, 1e-6)
    assert x.grad is not None
    assert torch.allclose(x.grad, program.weights["w"].sum(1).expand(3, 6), 1e-5, 1e-5)


def test_a_corruption_between_two_codes_acts_in_real_units(tmp_path: Path) -> None:
    program = load_onnx(_write_dynamic(tmp_path, np.float32(0.01)))
    x = torch.from_numpy(GENERATOR.normal(size=(3, 6)).astype(np.float32))
    corruption = 0.004 * torch.from_numpy(GENERATOR.normal(size=(6, 5)).astype(np.float32))

    moved = program.forward({"w": program.weights["w"] + corruption}, {"x": x})["y"] - program.forward({}, {"x": x})["y"]

    scale = max(float(x.max()), 0) - min(float(x.min()), 0)
    rounded = torch.round(x / (scale / 255)) * (scale / 255)
    assert torch.allclose(moved, rounded @ corruption, 1e-3, 1e-4)


@pytest.mark.parametrize("kind", ["MatMulIntegerToFloat", "DynamicQuantizeMatMul"])
def test_fused_products_of_integers(tmp_path: Path, kind: str) -> None:
    stored = {"w": _codes(6, 5), "ws": _steps(5), "wz": _codes(5), "b": GENERATOR.normal(size=5).astype(np.float32)}
    first = node("DynamicQuantizeLinear", ["x"], ["c", "s", "z"])
    inputs = ["c", "w", "s", "ws", "z", "wz", "b"] if kind == "MatMulIntegerToFloat" else ["x", "w", "ws", "wz", "b"]
    nodes = [first, node(kind, inputs, ["y"], domain="com.microsoft")]
    path = save(
        tmp_path, nodes[kind == "DynamicQuantizeMatMul" :], stored=[initializer(n, v) for n, v in stored.items()], opsets=OPSETS
    )
    x = torch.from_numpy(GENERATOR.normal(size=(2, 3, 6)).astype(np.float32))
    program = load_onnx(path)

    assert set(program.weights) == {"w", "b"}
    assert set(program.grids) == {"w"}
    assert torch.allclose(program.forward({}, {"x": x})["y"], run_reference(path, {"x": x}, 1)["y"], 1e-5, 1e-5)


def test_convolutions_of_integers(tmp_path: Path) -> None:
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["c", "s", "z"]),
        node("ConvInteger", ["c", "w", "z", "wz"], ["sums"], pads=[1, 1, 0, 0]),
        node("Cast", ["sums"], ["y"], to=TensorProto.FLOAT),
    ]
    path = save(tmp_path, nodes, stored=[initializer("w", _codes(4, 3, 2, 2)), initializer("wz", _codes())], opsets=OPSETS)
    x = torch.from_numpy(GENERATOR.normal(size=(2, 3, 5, 5)).astype(np.float32))
    program = load_onnx(path)

    assert torch.equal(program.forward({}, {"x": x})["y"], run_reference(path, {"x": x}, 1)["y"])
    assert program.weights == {}  # without a scale nobody knows their real units
    assert ("w", "integer") in {(entry.name, entry.reason) for entry in program.skipped}


def _write_dequantised(folder: Path, code_type: int, codes: np.ndarray, parameters: dict[str, Any], **attributes: Any) -> Path:
    tensors = [helper.make_tensor("w", code_type, codes.shape, codes.flatten().tolist())]
    for name, value in parameters.items():
        array = np.asarray(value)
        kind = TensorProto.FLOAT if name == "s" else code_type
        tensors.append(helper.make_tensor(name, kind, array.shape, array.flatten().tolist()))
    nodes = [node("DequantizeLinear", ["w", *parameters], ["real"], **attributes), node("Mul", ["x", "real"], ["y"])]
    return save(folder, nodes, stored=tensors, opsets={"": 21})


@pytest.mark.parametrize("code_type", ["INT4", "UINT4", "INT16", "UINT16", "INT8", "UINT8"])
@pytest.mark.parametrize("form", ["per tensor", "per channel", "blocked"])
def test_narrow_wide_and_blocked_grids(tmp_path: Path, code_type: str, form: str) -> None:
    code, signed = getattr(TensorProto, code_type), not code_type.startswith("U")
    bits = int(code_type.lstrip("UINT"))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    shape: tuple[int, ...] = {"per tensor": (), "per channel": (3,), "blocked": (3, 3)}[form]
    codes = GENERATOR.integers(low, high, (3, 5), endpoint=True)
    parameters = {"s": GENERATOR.uniform(0.01, 0.1, shape).astype(np.float32), "z": GENERATOR.integers(low, high, shape)}
    attributes = {"axis": 0} if form == "per channel" else {"axis": 1, "block_size": 2} if form == "blocked" else {}
    path = _write_dequantised(tmp_path, code, codes, parameters, **attributes)
    inputs = {"x": torch.ones(3, 5)}

    program = load_onnx(path)

    grid = program.grids["w"]
    assert (grid.bits, grid.signed) == (bits, signed)
    assert grid.codes.to(torch.int64).tolist() == codes.tolist()
    assert torch.equal(program.weights["w"], run_reference(path, inputs, 1)["y"])
    assert torch.equal(program.forward({}, inputs)["y"], program.weights["w"])


def test_activations_rounded_to_four_bits_end_where_the_type_ends(tmp_path: Path) -> None:
    grid = [helper.make_tensor("s", TensorProto.FLOAT, [], [0.5]), helper.make_tensor("z", TensorProto.INT4, [], [1])]
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["c"]), node("DequantizeLinear", ["c", "s", "z"], ["y"])]
    path = save(tmp_path, nodes, stored=grid, opsets={"": 21})
    x = torch.arange(-8, 8, 0.25)

    found = load_onnx(path).forward({}, {"x": x})["y"]

    assert torch.equal(found, run_reference(path, {"x": x}, 1)["y"])
    assert (float(found.min()), float(found.max())) == (-4.5, 3.0)


def test_integers_pass_through_operators_that_move_them(tmp_path: Path) -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["c"]),
        node("MaxPool", ["c"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Transpose", ["pooled"], ["turned"], perm=[0, 2, 3, 1]),
        node("Concat", ["turned", "turned"], ["y_codes"], axis=1),
        node("DequantizeLinear", ["y_codes", "s", "z"], ["y"]),
    ]
    path = save(tmp_path, nodes, stored=[initializer("s", STEP), initializer("z", ZERO)], opsets=OPSETS)
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    write(tmp_path, model)
    x = torch.from_numpy(GENERATOR.normal(size=(2, 3, 6, 6)).astype(np.float32)).requires_grad_()

    found = load_onnx(path).forward({}, {"x": x})
    found["y"].sum().backward()

    expected = run_reference(path, {"x": x}, 1)
    assert found["y_codes"].dtype == torch.uint8
    assert torch.equal(found["y_codes"], expected["y_codes"])
    assert torch.equal(found["y"], expected["y"])
    assert _count(x.grad) == 2 * 3 * 9


def _count(gradient: Tensor | None) -> int:
    return 0 if gradient is None else int((gradient != 0).sum())


def test_an_embedding_of_integers_is_one_weight_for_all_its_readers(tmp_path: Path) -> None:
    nodes = [
        node("Gather", ["w", "indices"], ["c"]),
        node("DequantizeLinear", ["c", "s", "z"], ["a"]),
        _ms("QLinearAdd", ["c", "s", "z", "c", "s", "z", "ys", "yz"]),
        node("DequantizeLinear", ["q", "ys", "yz"], ["b"]),
        node("Add", ["a", "b"], ["y"]),
    ]
    stored = [initializer(name, value) for name, value in {**GRIDS, "w": _codes(9, 4, dtype=np.uint8)}.items()]
    path = save(tmp_path, nodes, stored=stored, opsets=OPSETS, inputs={"indices": TensorProto.INT64})
    inputs = {"indices": torch.tensor([[1, 5], [8, 0]])}
    program = load_onnx(path)

    assert set(program.weights) == set(program.grids) == {"w"}
    assert torch.allclose(program.forward({}, inputs)["y"], run_reference(path, inputs, 1)["y"], 1e-6, 1e-6)


@pytest.mark.parametrize(("bits", "zero"), [(4, "none"), (4, "packed"), (4, "float"), (8, "none"), (8, "packed")])
def test_weights_that_are_packed_in_blocks(tmp_path: Path, bits: int, zero: str) -> None:
    rows, columns, block, per_byte = 5, 40, 16, 8 // bits
    blocks = -(-columns // block)
    codes = GENERATOR.integers(0, 2**bits, (rows, blocks * block))
    packed = sum(codes.reshape(rows, blocks, -1, per_byte)[..., i] << (bits * i) for i in range(per_byte))
    scales = GENERATOR.uniform(0.01, 0.1, (rows, blocks)).astype(np.float32)
    points = GENERATOR.integers(0, 2**bits, (rows, -(-blocks // per_byte) * per_byte))
    folded = sum(points.reshape(rows, -1, per_byte)[..., i] << (bits * i) for i in range(per_byte))
    stored = {"w": np.asarray(packed).astype(np.uint8), "s": scales, "b": GENERATOR.normal(size=rows).astype(np.float32)}
    if zero == "packed":
        stored["z"] = np.asarray(folded).astype(np.uint8)
    elif zero == "float":
        stored["z"] = points[:, :blocks].astype(np.float32) + np.float32(0.25)
    inputs = ["x", "w", "s", "z" if zero != "none" else "", "", "b"]
    attributes: dict[str, Any] = {"K": columns, "N": rows, "bits": bits, "block_size": block}
    nodes = [node("MatMulNBits", inputs, ["y"], domain="com.microsoft", **attributes)]
    path = save(tmp_path, nodes, stored=[initializer(name, value) for name, value in stored.items()], opsets=OPSETS)
    x = torch.from_numpy(GENERATOR.normal(size=(3, columns)).astype(np.float32))

    program = load_onnx(path)

    offsets = np.full((rows, blocks), 2.0 ** (bits - 1)) if zero == "none" else points[:, :blocks] + 0.25 * (zero == "float")
    real = ((codes - np.repeat(offsets, block, 1)) * np.repeat(scales, block, 1))[:, :columns]
    assert set(program.weights) == {"w", "b"}
    assert program.grids["w"].bits == bits
    np.testing.assert_allclose(program.weights["w"].numpy(), real, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(program.grids["w"].codes.numpy(), codes[:, :columns])
    assert not program.rounds
    found = program.forward({}, {"x": x})["y"]
    assert torch.allclose(found, torch.from_numpy((x.numpy() @ real.T + stored["b"]).astype(np.float32)), 1e-4, 1e-4)
    assert torch.allclose(found, run_reference(path, {"x": x}, 1)["y"], 1e-3, 1e-3)


def test_packed_weights_in_an_order_of_their_own_are_refused(tmp_path: Path) -> None:
    stored = [
        initializer("w", _codes(2, 1, 8, dtype=np.uint8)),
        initializer("s", _steps(2)),
        initializer("g", np.zeros(16, np.int32)),
    ]
    inputs = ["x", "w", "s", "", "g"]
    nodes = [node("MatMulNBits", inputs, ["y"], domain="com.microsoft", K=16, N=2, bits=4, block_size=16)]

    with pytest.raises(UnsupportedOperator, match="order of its blocks"):
        load_onnx(save(tmp_path, nodes, stored=stored, opsets=OPSETS))
