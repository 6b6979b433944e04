"""Small ONNX graphs written by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
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
    dtype: int = TensorProto.FLOAT,
) -> Path:
    """Write a graph to a file: inputs (x unless named) of free shape, outputs every result whose name starts with y.

    `kinds` is what the exporter declares of stored tensors.
    """
    outputs = [name for entry in nodes for name in entry.output if name.startswith("y")]
    wanted = {"x": dtype} if inputs is None else inputs
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, code, None) for name, code in wanted.items()],
        [helper.make_tensor_value_info(name, TensorProto.INT64 if "indices" in name else dtype, None) for name in outputs],
        list(stored),
    )
    for name, kind in (kinds or {}).items():
        entry = graph.value_info.add(name=name)
        entry.metadata_props.add(key="pkg.torch.export.graph_signature.InputSpec.kind", value=kind)
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": 20}).items()]
    model = helper.make_model(graph, opset_imports=imports, functions=list(functions), producer_name="pytorch", ir_version=10)
    return write(folder, model)


def write(folder: Path, model: ModelProto) -> Path:
    """Write a model to a file."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path
