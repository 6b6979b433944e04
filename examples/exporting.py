"""Write a network as TorchScript and ONNX, and its held-out data as .npz, with nothing of this machine inside."""

import io
import logging
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from examples.digits import Examples

STACK_TRACE = "pkg.torch.onnx.stack_trace"
DEBUG_RECORDS = ".debug_pkl"
FIXED_DATE = (1980, 1, 1, 0, 0, 0)


def write_torchscript(network: nn.Module, examples: Examples, path: Path) -> None:
    """Trace `network` on two examples and save it without the records of source lines, which carry absolute paths."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself, the format asked for
        torch.jit.save(torch.jit.trace(network, (examples.inputs[:2],)), buffer)
    with zipfile.ZipFile(buffer) as traced, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for entry in traced.infolist():
            if not entry.filename.endswith(DEBUG_RECORDS):
                archive.writestr(zipfile.ZipInfo(entry.filename, FIXED_DATE), traced.read(entry))


def write_onnx(network: nn.Module, examples: Examples, path: Path) -> None:
    """Export `network` with the default exporter and opset, weights inside the file, any batch size."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision, which no example uses, is missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            network,
            (examples.inputs[:2],),
            input_names=["x"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    if exported is None:
        message = "the exporter returned no program"
        raise RuntimeError(message)
    model = exported.model_proto
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if entry.key != STACK_TRACE]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def write_examples(examples: Examples, path: Path) -> None:
    """Write arrays `inputs` (float32 or int64) and `labels` (int64)."""
    np.savez_compressed(path, inputs=examples.inputs.numpy(), labels=examples.labels.numpy())
