"""What the deployed runtime says: ONNX Runtime on the CPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from google.protobuf.message import EncodeError
from onnxruntime.capi import onnxruntime_pybind11_state as runtime
from torch import Tensor

from schemas.errors import Fault, ModelRefused
from worker.engine.models.onnx.archive import point_into_archive
from worker.engine.models.onnx.files import is_tar
from worker.engine.models.onnx.widened import read_widened

ERRORS = (
    runtime.EPFail,
    runtime.Fail,
    runtime.InvalidArgument,
    runtime.InvalidGraph,
    runtime.InvalidProtobuf,
    runtime.NoSuchFile,
    runtime.NotImplemented,
    runtime.RuntimeException,
)
NO_OPERATORS = (runtime.InvalidGraph, runtime.NotImplemented)
"""What bfloat16 files meet on the CPU."""
SILENT = 4


def run_reference(path: Path, inputs: Mapping[str, Tensor], threads: int) -> dict[str, Tensor]:
    """Run the file in ONNX Runtime with its optimisations on, but for the fusion of quantised operators.

    Fused integer kernels round an activation on a tie to the other side than the operators that the file holds: the runtime
    then differs from itself by whole quantisation steps on some examples.

    Args:
        path: the ONNX file.
        inputs: by name of the graph input; names that the graph does not have are left out.
        threads: threads inside one operator.

    Returns:
        The graph outputs that are numeric tensors, by name, on the CPU; a map of scores per class as one row per example.

    Raises:
        ModelRefused: ONNX Runtime cannot load or run the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = SILENT
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = _open(path, options)
        feeds = {entry.name: _feed(inputs[entry.name], entry.type) for entry in session.get_inputs() if entry.name in inputs}
        outputs = session.run(None, feeds)
    except (*ERRORS, EncodeError) as error:
        got = str(error).split("\n")[0][:500]
        advice = "check the model with the ONNX Runtime that you deploy"
        raise ModelRefused(
            Fault("ONNX Runtime cannot run the model", "/model", "a model that ONNX Runtime runs", got, advice)
        ) from error
    names = [entry.name for entry in session.get_outputs()]
    found = zip(names, map(_join_maps, outputs), strict=True)
    return {name: torch.from_numpy(value) for name, value in found if isinstance(value, np.ndarray) and value.dtype != object}


def _open(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    source: str | bytes = str(path)
    if is_tar(path):
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        source = point_into_archive(path).SerializeToString()
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except NO_OPERATORS:
        widened = read_widened(path)
        if widened is None:
            raise
    return onnxruntime.InferenceSession(widened.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _feed(value: Tensor, declared: str) -> "np.ndarray[tuple[int, ...], np.dtype[Any]]":
    """Return an input as the session wants it; a half that the file declares is rounded to, also where the session widens it."""
    value = value.detach().cpu()
    if value.dtype == torch.bfloat16:
        value = value.float()
    return (value.half() if declared == "tensor(float16)" else value).numpy()


def _join_maps(value: Any) -> Any:
    """Return a list of maps from class to score as an array [examples, classes]; the runtime sorts the classes."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return np.array([list(row.values()) for row in value], dtype=np.float32)
    return value
