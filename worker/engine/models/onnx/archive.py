"""Read an ONNX file and its external data without trusting either."""

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto
from torch import Tensor

from schemas.errors import Fault, ModelRefused, ModelUnreadable
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
    """Reads the stored tensors of one file; external data must lie beside it under a plain file name."""

    folder: Path

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

    def _read_external(self, tensor: TensorProto, expected: int) -> bytes:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path = self._check_location(tensor, entries.get("location", ""))
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", expected))
        except ValueError:
            offset = length = -1
        size = path.stat().st_size
        if offset < 0 or length != expected or offset + length > size:
            got = f"offset {entries.get('offset', 0)}, length {entries.get('length', 'none')} in a file of {size} bytes"
            message = f"external data of {tensor.name!r} does not fit: {expected} bytes are needed, {got}"
            raise TensorError(message)
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def _check_location(self, tensor: TensorProto, location: str) -> Path:
        advice = "save the model with its external data in one file beside it, or without external data"
        plain = location not in {"", ".", ".."} and not any(sign in location for sign in "/\\:\0")
        if not plain:
            self._refuse(tensor, "keeps its data outside the model's folder", "a plain file name", repr(location), advice)
        path = self.folder / location
        try:
            status = path.lstat()
        except OSError:
            self._refuse(tensor, "keeps its data in a file that is not there", "a file beside the model", repr(location), advice)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            self._refuse(tensor, "keeps its data behind a link", "a regular file without links", repr(location), advice)
        return path

    @staticmethod
    def _refuse(tensor: TensorProto, what: str, expected: str, got: str, advice: str) -> NoReturn:
        raise RefusedTensorError(
            Fault(f"tensor {tensor.name!r} {what}", f"/model/initializers/{tensor.name}", expected, got, advice)
        )


def read_model(path: Path) -> ModelProto:
    """Parse the file; stored tensors are not touched yet and external data is not opened.

    Args:
        path: the ONNX file.

    Returns:
        A model that has a graph, an IR version and an opset.

    Raises:
        ModelUnreadable: truncated, empty, or no ONNX file at all.
        ModelRefused: larger than a protocol buffer may be.
    """
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        advice = "save the weights as external data"
        raise ModelRefused(
            Fault("the model file is too large", "/model", f"at most {MAX_FILE_BYTES} bytes", f"{size} bytes", advice)
        )
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelUnreadable(_describe("the file does not parse as an ONNX model", f"{size} bytes: {error}")) from error
    if not model.ir_version or not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelUnreadable(_describe("the file holds no ONNX graph", f"{size} bytes"))
    if not model.opset_import:
        raise ModelUnreadable(_describe("the model names no operator set", f"IR version {model.ir_version}"))
    return model


def _describe(what: str, got: str) -> Fault:
    advice = "check that the upload is complete and that the file was written by an ONNX exporter"
    return Fault(what, "/model", "an ONNX model", got, advice)
