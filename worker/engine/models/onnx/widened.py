"""bfloat16 files in float32, for ONNX Runtime: on the CPU it has no operators on bfloat16."""

from collections.abc import Iterable
from pathlib import Path

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from worker.engine.models.onnx.archive import TensorReader, read_model
from worker.engine.models.onnx.attributes import DTYPE_ATTRIBUTES
from worker.engine.models.onnx.files import find_files

NARROW, WIDE = TensorProto.BFLOAT16, TensorProto.FLOAT


def read_widened(path: Path) -> ModelProto | None:
    """Return the file's model with float32 wherever it says bfloat16, None where it never does."""
    model, reader = read_model(path), TensorReader(find_files(path))
    changed = _widen_graph(model.graph, reader)
    for function in model.functions:
        changed |= _widen_nodes(function.node, reader)
    return model if changed else None


def _widen_graph(graph: GraphProto, reader: TensorReader) -> bool:
    values = [_widen_value(value) for value in (*graph.input, *graph.output, *graph.value_info)]
    tensors = [_widen_tensor(tensor, reader) for tensor in graph.initializer]
    return _widen_nodes(graph.node, reader) or any(values) or any(tensors)


def _widen_nodes(nodes: Iterable[NodeProto], reader: TensorReader) -> bool:
    widened = [_widen_attribute(entry, reader) for node in nodes for entry in node.attribute]
    return any(widened)


def _widen_attribute(entry: AttributeProto, reader: TensorReader) -> bool:
    if entry.type == AttributeProto.GRAPH:
        return _widen_graph(entry.g, reader)
    if entry.type == AttributeProto.TENSOR:
        return _widen_tensor(entry.t, reader)
    if entry.name in DTYPE_ATTRIBUTES and entry.i == NARROW:
        entry.i = WIDE
        return True
    return False


def _widen_tensor(tensor: TensorProto, reader: TensorReader) -> bool:
    """Widen a stored tensor; one of another type is taken into the model, which is no file any more."""
    if tensor.data_type != NARROW and tensor.data_location != TensorProto.EXTERNAL:
        return False
    narrow = tensor.data_type == NARROW
    value = reader.read(tensor)
    tensor.CopyFrom(numpy_helper.from_array((value.float() if narrow else value).numpy(), tensor.name))
    return narrow


def _widen_value(value: ValueInfoProto) -> bool:
    if value.type.tensor_type.elem_type != NARROW:
        return False
    value.type.tensor_type.elem_type = WIDE
    return True
