"""Broken and hostile files: each is refused by type, with what, where and what to do."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto

from schemas.errors import AuditError, ModelRefused, ModelUnreadable, UnsupportedOperator
from tests.worker.engine.models.onnx.graphs import constant, initializer, node, save
from worker.engine.models.onnx import load_onnx, run_reference

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)


def _save_product(folder: Path) -> Path:
    return save(folder, [node("MatMul", ["x", "w"], ["y"])], stored=[initializer("w", MATRIX)])


def _change(path: Path, change: Callable[[ModelProto], object]) -> Path:
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


BYTES: dict[str, bytes] = {
    "empty": b"",
    "zeros": b"\0" * 64,
    "text": b"this is not a model\n" * 20,
    "json": b'{"irVersion": 10, "graph": {}}',
    "zip": b"PK\x03\x04" + b"\x14\0" * 40,
    "pickle": b"\x80\x02}q\0X\x04\0\0\0testq\x01K\x01s.",
    "nesting": b"\x3a\x7f" * 500,
}


@pytest.mark.parametrize("name", BYTES)
def test_what_is_no_onnx_file_is_unreadable(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(BYTES[name])

    with pytest.raises(ModelUnreadable) as raised:
        load_onnx(path)

    assert all(fault.what and fault.where and fault.expected and fault.advice for fault in raised.value.faults)


def test_a_truncated_file_is_unreadable(tmp_path: Path) -> None:
    path = _save_product(tmp_path)
    _cut(path)

    with pytest.raises(ModelUnreadable):
        load_onnx(path)


def _set_dims(*dims: int) -> Callable[[ModelProto], object]:
    def change(model: ModelProto) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)

    return change


def _set_type(code: int) -> Callable[[ModelProto], object]:
    return lambda model: setattr(model.graph.initializer[0], "data_type", code)


def _set_opset(version: int) -> Callable[[ModelProto], object]:
    return lambda model: setattr(model.opset_import[0], "version", version)


CHANGES: dict[str, tuple[Callable[[ModelProto], Any], type[AuditError], str]] = {
    "shape too large": (_set_dims(30, 4), ModelUnreadable, "needs 480 bytes, the file has 48"),
    "shape too small": (_set_dims(3), ModelUnreadable, "needs 12 bytes"),
    "negative size": (_set_dims(-3, 4), ModelUnreadable, "declares the shape"),
    "absurd size": (_set_dims(2**40, 2**20), ModelRefused, "declares more"),
    "unknown type": (_set_type(99), ModelRefused, "type 99"),
    "text weights": (_set_type(TensorProto.STRING), ModelRefused, "type STRING"),
    "quantised weights": (_set_type(TensorProto.FLOAT8E4M3FN), ModelRefused, "FLOAT8E4M3FN"),
    "four-bit weights": (_set_type(TensorProto.INT4), ModelUnreadable, "needs 6 bytes"),
    "old opset": (_set_opset(5), ModelRefused, "opset is outside"),
    "future opset": (_set_opset(99), ModelRefused, "opset is outside"),
    "no opset": (lambda model: model.ClearField("opset_import"), ModelUnreadable, "no operator set"),
    "no graph": (lambda model: model.ClearField("graph"), ModelUnreadable, "no ONNX graph"),
    "undefined input": (lambda model: model.graph.node[0].input.insert(1, "nothing"), ModelUnreadable, "nothing computes"),
    "undefined output": (lambda model: setattr(model.graph.output[0], "name", "nothing"), ModelUnreadable, "nothing computes"),
    "value written twice": (lambda model: model.graph.node.append(model.graph.node[0]), ModelUnreadable, "a second time"),
    "tensor stored twice": (
        lambda model: model.graph.initializer.append(model.graph.initializer[0]),
        ModelUnreadable,
        "a second time",
    ),
    "too few inputs": (lambda model: model.graph.node[0].input.pop(), ModelUnreadable, "malformed"),
    "unknown attribute": (
        lambda model: model.graph.node[0].attribute.add(name="speed", i=3, type=2),
        ModelUnreadable,
        "malformed",
    ),
    "text input": (
        lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", 8),
        ModelRefused,
        "input 'x' has a type",
    ),
    "sparse tensor": (
        lambda model: model.graph.sparse_initializer.add().values.MergeFrom(initializer("s", MATRIX)),
        ModelRefused,
        "is sparse",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, name: str) -> None:
    change, error, message = CHANGES[name]
    path = _change(_save_product(tmp_path), change)

    with pytest.raises(error, match=message) as raised:
        load_onnx(path)

    assert all(fault.where and fault.advice for fault in raised.value.faults)


def test_names_that_are_no_text_are_unreadable(tmp_path: Path) -> None:
    path = save(tmp_path, [node("Relu", ["x"], ["middle"], name="straight"), node("Relu", ["middle"], ["y"])])
    path.write_bytes(path.read_bytes().replace(b"straight", b"str\xff\xfeght").replace(b"middle", b"mid\xffle"))

    with pytest.raises(ModelUnreadable, match="no text"):
        load_onnx(path)


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    nodes = [node("Add", ["x", "first"], ["a"]), node("Add", ["a", "second"], ["b"]), node("Relu", ["b", "b"], ["y"])]

    with pytest.raises(ModelUnreadable) as raised:
        load_onnx(save(tmp_path, nodes))

    assert [fault.got for fault in raised.value.faults][:2] == ["'first'", "'second'"]
    assert len(raised.value.faults) == 3


def test_every_unsupported_operator_is_listed_with_its_nodes(tmp_path: Path) -> None:
    nodes = [
        node("Invented", ["x"], ["a"], name="first", domain="acme"),
        node("Invented", ["a"], ["b"], name="second", domain="acme"),
        node("ImageDecoder", ["b"], ["c"], name="picture"),
        node("QMoE", ["c"], ["d"], name="experts", domain="com.microsoft"),
        node("Invented", ["d"], ["e"], name="third", domain="acme"),
        node("MatMul", ["x", "before"], ["f"]),
        node("Invented", ["f"], ["g"], name="fourth", domain="acme"),
        node("MatMul", ["g", "after"], ["h"]),
        node("Add", ["e", "h"], ["y"]),
    ]
    stored = [initializer("before", MATRIX), initializer("after", MATRIX.T)]
    path = save(tmp_path, nodes, stored=stored, opsets={"": 20, "acme": 3, "com.microsoft": 1})

    with pytest.raises(UnsupportedOperator) as raised:
        load_onnx(path)

    *listed, reach = raised.value.faults
    faults = {fault.what.partition(")")[0] + ")": fault for fault in listed}
    assert set(faults) == {
        "operator acme.Invented (opset 3)",
        "operator ImageDecoder (opset 20)",
        "operator com.microsoft.QMoE (opset 1)",
    }
    assert faults["operator acme.Invented (opset 3)"].where == "nodes first, second, third, fourth"
    assert faults["operator acme.Invented (opset 3)"].got == "acme.Invented in 4 nodes"
    assert faults["operator ImageDecoder (opset 20)"].advice == "decode them before the model"
    assert (reach.what, reach.got) == ("12 of 24 weights reach an output without these operators", "50.0%")
    assert "local function" in faults["operator acme.Invented (opset 3)"].advice
    assert "optimisation" in faults["operator com.microsoft.QMoE (opset 1)"].advice


def test_unsupported_forms_of_operators_say_what_is_missing(tmp_path: Path) -> None:
    nodes = [
        node("MaxPool", ["x"], ["y", "y_indices"], kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
        node("Cast", ["y"], ["z"], to=TensorProto.FLOAT8E8M0),
        node("Cast", ["y"], ["s"], to=TensorProto.FLOAT8E5M2),
        node("Transpose", ["s"], ["t"]),
        node("Relu", ["t"], ["r"]),
    ]

    with pytest.raises(UnsupportedOperator) as raised:
        load_onnx(save(tmp_path, nodes))

    assert "uneven padding" in raised.value.faults[0].what
    assert "FLOAT8E8M0" in raised.value.faults[1].what
    assert "computes with eight-bit floats" in raised.value.faults[2].what


def test_constants_that_cannot_be_computed_are_refused(tmp_path: Path) -> None:
    nodes = [
        constant("size", np.array([2**50])),
        node("ConstantOfShape", ["size"], ["huge"]),
        node("Reshape", ["x", "bad"], ["y"]),
    ]
    nodes.insert(2, node("Reshape", ["size", "shape"], ["bad"]))
    path = save(tmp_path, nodes, stored=[initializer("shape", np.array([3]))])

    with pytest.raises(ModelRefused, match="reads only constants"):
        load_onnx(path)


def _save_external(folder: Path, location: str, **entries: int) -> Path:
    path = _save_product(folder)

    def change(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=str(value))

    return _change(path, change)


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\0" * 16 + MATRIX.tobytes())

    program = load_onnx(_save_external(tmp_path, "weights.bin", offset=16, length=48))

    assert np.array_equal(program.weights["w"].numpy(), MATRIX)


@pytest.mark.parametrize(
    "location", ["", ".", "..", "/etc/passwd", "../secret.bin", "sub/secret.bin", "sub\\secret.bin", "C:secret.bin", "gone.bin"]
)
def test_external_data_elsewhere_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for secret in (tmp_path / "secret.bin", folder / "sub" / "secret.bin"):
        secret.write_bytes(MATRIX.tobytes())

    with pytest.raises(ModelRefused, match="keeps its data"):
        load_onnx(_save_external(folder, location))


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_external_data_behind_a_link_is_refused(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(MATRIX.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    link(secret, folder / "weights.bin")

    with pytest.raises(ModelRefused, match="behind a link"):
        load_onnx(_save_external(folder, "weights.bin"))


@pytest.mark.parametrize("entries", [{"offset": 8}, {"length": 47}, {"offset": -4}, {"offset": 2**62, "length": 48}])
def test_external_data_that_does_not_fit_is_unreadable(tmp_path: Path, entries: dict[str, int]) -> None:
    (tmp_path / "weights.bin").write_bytes(MATRIX.tobytes())

    with pytest.raises(ModelUnreadable, match="does not fit"):
        load_onnx(_save_external(tmp_path, "weights.bin", **entries))


CODES, LONG = np.zeros((4, 8), np.uint8), 2**40


def write_other(kind: str, inputs: str, domain: str = "com.microsoft", **attributes: Any) -> NodeProto:
    return node(kind, inputs.split(" "), ["y"], domain=domain, **attributes)


@pytest.mark.parametrize(
    ("operator", "stored"),
    [
        (write_other("Conv", "x w", "com.microsoft.nchwc"), {"w": np.zeros(16, np.float32)}),
        (write_other("Conv", "x w", "com.microsoft.nchwc"), {"w": np.zeros((), np.float32)}),
        (write_other("Conv", "x", "com.microsoft.nchwc"), {}),
        (write_other("GatherBlockQuantized", "w x s", block_size=2), {"w": CODES, "s": np.zeros((4, 1), np.float32)}),
        (write_other("GatherBlockQuantized", "w x s", block_size=0), {"w": CODES, "s": np.zeros((4, 0), np.float32)}),
        (write_other("GatherBlockQuantized", "w x s", quantize_axis=5), {"w": CODES, "s": np.zeros((4, 1), np.float32)}),
        (write_other("GatherBlockQuantized", "w x s", bits=3), {"w": CODES, "s": np.zeros((4, 1), np.float32)}),
        (write_other("GatherBlockQuantized", "w x s"), {"w": MATRIX, "s": np.zeros((4, 1), np.float32)}),
        (write_other("MatMulNBits", "x w s", K=16, N=2, block_size=16), {"w": CODES, "s": np.zeros(7, np.float32)}),
        (write_other("MatMulNBits", "x w s", K=16, N=2, block_size=0), {"w": CODES, "s": np.zeros(2, np.float32)}),
        (write_other("MatMulNBits", "x w s", K=16, N=2, block_size=LONG), {"w": CODES, "s": np.zeros(7, np.float32)}),
        (
            write_other("DynamicQuantizeLSTM", "x w w      s z s z", hidden_size=1),
            {"w": np.zeros((1, 1, 4), np.int8), "s": np.zeros((3, 5, 2, 2), np.float32), "z": np.zeros(3, np.int8)},
        ),
    ],
    ids=lambda value: value.op_type if isinstance(value, NodeProto) else "",
)
def test_weights_that_do_not_fit_their_scales_or_blocks_are_unreadable(
    tmp_path: Path, operator: NodeProto, stored: dict[str, np.ndarray]
) -> None:
    opsets = {"": 20, "com.microsoft": 1, "com.microsoft.nchwc": 1}
    path = save(tmp_path, [operator], stored=[initializer(name, value) for name, value in stored.items()], opsets=opsets)

    with pytest.raises((ModelUnreadable, UnsupportedOperator)):
        load_onnx(path)


def test_damaged_files_never_fail_in_another_way(tmp_path: Path) -> None:
    chance = random.Random(0)
    path = save(
        tmp_path,
        [
            node("Conv", ["x", "w", "b"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
            node("Resize", ["a", "", "scales"], ["c"], mode="linear"),
            node("LSTM", ["c", "b", "b"], ["d"], hidden_size=3, direction="bidirectional"),
            node("Reshape", ["d", "shape"], ["e"]),
            node("TopK", ["e", "shape"], ["y", "f"], axis=0),
        ],
        stored=[
            initializer("w", np.ones((2, 3, 3, 3), np.float32)),
            initializer("b", np.ones(2, np.float32)),
            initializer("scales", np.array([1, 1, 2, 2], np.float32)),
            initializer("shape", np.array([2, 2])),
        ],
    )
    sound = path.read_bytes()
    refused = 0
    for _ in range(400):
        content = bytearray(sound)
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content)
        try:
            load_onnx(path)
        except AuditError as error:
            refused += 1
            assert error.faults  # noqa: PT017 - what is asked of the error is that it carries its faults

    assert refused > 100


def test_the_runtime_says_what_it_refuses(tmp_path: Path) -> None:
    path = _save_product(tmp_path)
    _cut(path)

    with pytest.raises(ModelRefused, match="ONNX Runtime"):
        run_reference(path, {}, threads=1)
