"""Write a test network to a file, by each route a user would take."""

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tests.architectures.architecture import Architecture

TorchScriptRoute = Literal["trace", "script", "frozen"]


def export_torchscript(architecture: Architecture, model: nn.Module, path: Path, route: TorchScriptRoute) -> Path:
    """Save the network traced, scripted, or traced and frozen (no parameters left, weights baked in)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit's deprecation notice and the tracer's remarks on Python values
        module: Any
        if route == "script":
            module = torch.jit.script(model)
        else:
            # The self-check compares graphs, and nn.TransformerEncoder caches a value that changes its second trace.
            module = torch.jit.trace(model, tuple(architecture.make_example().values()), check_trace=False)
        if route == "frozen":
            module = torch.jit.freeze(module.eval())
        torch.jit.save(module, str(path))
    return path


def export_pt2(
    architecture: Architecture, model: nn.Module, path: Path, *, dynamic: bool = True, decomposed: bool = False
) -> Path:
    """Save the network by torch.export, with a dynamic batch or one of four; `decomposed` into core operators, none in place."""
    shapes = {name: {0: torch.export.Dim.DYNAMIC} for name in architecture.inputs} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(model, tuple(architecture.make_example().values()), dynamic_shapes=shapes)
        if decomposed:
            exported = exported.run_decompositions()
        torch.export.save(exported, path)
    return path


def export_onnx(architecture: Architecture, model: nn.Module, path: Path, opset: int | None = None) -> Path:
    """Save the network by today's default ONNX exporter, with a dynamic batch."""
    dynamic = {name: {0: torch.export.Dim.DYNAMIC} for name in architecture.inputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(architecture.make_example().values()),
            str(path),
            input_names=list(architecture.inputs),
            output_names=list(architecture.outputs),
            opset_version=opset,
            dynamic_shapes=dynamic,
            external_data=False,
            verbose=False,
        )
    return path


def export_onnx_traced(architecture: Architecture, model: nn.Module, path: Path, opset: int) -> Path:
    """Save the network by the older ONNX exporter, which traces it as TorchScript, with a dynamic batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecation and the tracer's remarks
        torch.onnx.export(
            model,
            tuple(architecture.make_example().values()),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=list(architecture.inputs),
            output_names=list(architecture.outputs),
            dynamic_axes={entry: {0: "batch"} for entry in architecture.inputs},
        )
    return path
