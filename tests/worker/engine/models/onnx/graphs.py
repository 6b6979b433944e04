"""Small ONNX graphs written by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.helper import make_node as node

__all__ = ["constant", "initializer", "node", "save", "write"]


def initializer(name: str, value: Any) -> TensorProto:
    """Return a stored tensor."""
    return numpy_helper.from_array(np.asarray(value), name)


def constant(name: str, value: Any) -> NodeProto:
    """Return a Constant node whose output has this name."""
    return node("Constant", [], [name], value=initializer("", value))


def save(
    folder: Path,
    nodes: Sequence[NodeProto],
    *,
    stored: Sequence[TensorProto] = (),
    inputs: Mapping[str, int] | None = None,
    opsets: Mapping[str, int] | None = None,
    functions: Sequence[FunctionProto] = (),
    kinds: Mapping[str, str] | None = None,
    dtype: int | None = TensorProto.FLOAT,
) -> Path:
    """Write a graph to a file: inputs (x unless named) of free shape, outputs every result whose name starts with y.

    Outputs have the type `dtype`, those with "indices" in their names int64; without a type, what the operators give.

    `kinds` is what the exporter declares of stored tensors.
    """
    outputs = [name for entry in nodes for name in entry.output if name.startswith("y")]
    wanted = {"x": dtype or TensorProto.FLOAT} if inputs is None else inputs
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, code, None) for name, code in wanted.items()],
        [_describe_output(name, dtype) for name in outputs],
        list(stored),
    )
    for name, kind in (kinds or {}).items():
        entry = graph.value_info.add(name=name)
        entry.metadata_props.add(key="pkg.torch.export.graph_signature.InputSpec.kind", value=kind)
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": 20}).items()]
    model = helper.make_model(graph, opset_imports=imports, functions=list(functions), producer_name="pytorch", ir_version=10)
    return write(folder, model)


def _describe_output(name: str, dtype: int | None) -> ValueInfoProto:
    if dtype is None:
        return helper.make_empty_tensor_value_info(name)
    return helper.make_tensor_value_info(name, TensorProto.INT64 if "indices" in name else dtype, None)


def write(folder: Path, model: ModelProto) -> Path:
    """Write a model to a file."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path
