"""Read an ONNX file and its external data without trusting either."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from torch import Tensor

from schemas.errors import Fault, ModelRefused, ModelUnreadable
from worker.engine.models.onnx.files import MissingFileError, ModelFiles, find_files
from worker.engine.models.onnx.tensors import TensorError, compute_size_bytes, read_tensor

MAX_FILE_BYTES = 2**31 - 1
"""Protocol buffers end here; larger models keep their weights in external data."""
MAX_TENSOR_BYTES = 64 * 2**30
"""No single stored tensor may declare more."""


class RefusedTensorError(Exception):
    """A stored tensor that must not be read; carries the fault for the user."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(fault.what)


@dataclass(frozen=True)
class TensorReader:
    """Reads the stored tensors of one model; external data must lie beside it under a plain file name."""

    files: ModelFiles

    def read(self, tensor: TensorProto) -> Tensor:
        """Return the tensor's values in memory of their own.

        Args:
            tensor: an initializer or a tensor attribute.

        Returns:
            A CPU tensor of the stored type and shape.

        Raises:
            TensorError: the declared type, shape and data do not fit together.
            RefusedTensorError: the tensor is too large, or points outside the model's folder.
        """
        expected = compute_size_bytes(tensor)
        if expected > MAX_TENSOR_BYTES:
            limit = f"at most {MAX_TENSOR_BYTES} bytes"
            self._refuse(tensor, "declares more than a tensor may have", limit, f"{expected} bytes", "split the tensor")
        if tensor.data_location != TensorProto.EXTERNAL:
            return read_tensor(tensor)
        return read_tensor(tensor, self._read_external(tensor, expected))

    def _read_external(self, tensor: TensorProto, expected: int) -> bytearray:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        try:
            place = self.files.find(location)
        except MissingFileError as error:
            advice = "save the model with its external data in files beside it, or without external data"
            self._refuse(tensor, error.what, error.expected, repr(location), advice)
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", expected))
        except ValueError:
            offset = length = -1
        if offset < 0 or length != expected or offset + length > place.size:
            got = f"offset {entries.get('offset', 0)}, length {entries.get('length', 'none')} in a file of {place.size} bytes"
            message = f"external data of {tensor.name!r} does not fit: {expected} bytes are needed, {got}"
            raise TensorError(message)
        return place.read(offset, length)

    @staticmethod
    def _refuse(tensor: TensorProto, what: str, expected: str, got: str, advice: str) -> NoReturn:
        raise RefusedTensorError(
            Fault(f"tensor {tensor.name!r} {what}", f"/model/initializers/{tensor.name}", expected, got, advice)
        )


def read_model(path: Path) -> ModelProto:
    """Parse the file; stored tensors are not touched yet and external data is not opened.

    Args:
        path: the ONNX file, or a tar archive of it and its external data.

    Returns:
        A model that has a graph, an IR version and an opset.

    Raises:
        ModelUnreadable: truncated, empty, or no ONNX file at all.
        ModelRefused: larger than a protocol buffer may be.
    """
    place = find_files(path).model
    size = place.size
    if size > MAX_FILE_BYTES:
        advice = "save the weights as external data"
        raise ModelRefused(
            Fault("the model file is too large", "/model", f"at most {MAX_FILE_BYTES} bytes", f"{size} bytes", advice)
        )
    model = ModelProto()
    try:
        model.ParseFromString(bytes(place.read(0, size)))
    except DecodeError as error:
        raise ModelUnreadable(_describe("the file does not parse as an ONNX model", f"{size} bytes: {error}")) from error
    if not model.ir_version or not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelUnreadable(_describe("the file holds no ONNX graph", f"{size} bytes"))
    if not model.opset_import:
        raise ModelUnreadable(_describe("the model names no operator set", f"IR version {model.ir_version}"))
    return model


def point_into_archive(path: Path) -> ModelProto:
    """Return the model of a tar archive, its external data named as parts of the archive: nothing is unpacked."""
    files, model = find_files(path), read_model(path)
    for tensor in walk_tensors(model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if tensor.data_location == TensorProto.EXTERNAL:
            place = files.find(entries["location"])
            del tensor.external_data[:]
            moved = {"location": path.name, "offset": str(place.offset + int(entries.get("offset", 0)))}
            for key, value in (entries | moved).items():
                tensor.external_data.add(key=key, value=value)
    return model


def walk_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every stored tensor of a model: in graphs inside nodes and in functions too."""
    yield from _walk_graph(model.graph)
    for function in model.functions:
        yield from _walk_nodes(function.node)


def _walk_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    yield from _walk_nodes(graph.node)


def _walk_nodes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for entry in node.attribute:
            if entry.type == AttributeProto.TENSOR:
                yield entry.t
            elif entry.type == AttributeProto.GRAPH:
                yield from _walk_graph(entry.g)


def _describe(what: str, got: str) -> Fault:
    advice = "check that the upload is complete and that the file was written by an ONNX exporter"
    return Fault(what, "/model", "an ONNX model", got, advice)
