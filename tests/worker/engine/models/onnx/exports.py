"""Networks written by both PyTorch exporters, each once per test session."""

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from tests.architectures import ARCHITECTURES
from tests.architectures.exports import export_onnx, export_onnx_traced
from tests.fusing import fuse_batch_norm
from worker.engine.models.onnx import load_onnx
from worker.engine.models.program import Program

LEGACY_OPSET = 17
LEGACY = (
    "mlp",
    "residual_cnn",
    "unet",
    "lstm",
    "gru",
    "transformer_encoder",
    "vit",
    "swin",
    "bert",
    "gpt2",
    "t5_encoder",
    "llama",
)
DEFAULT = ("residual_cnn", "unet", "bert")
EXPORTS = [*(("legacy", name) for name in LEGACY), *(("default", name) for name in DEFAULT)]

_FOLDER = tempfile.TemporaryDirectory()


@dataclass(frozen=True)
class Export:
    """A network with fused BatchNorm, the file it was written to, and the program read from it."""

    model: nn.Module
    path: Path
    program: Program
    inputs: dict[str, Tensor]


@functools.cache
def export(route: str, name: str) -> Export:
    """Return the network written by an exporter: `legacy` (TorchScript-based) or `default`."""
    architecture = ARCHITECTURES[name]
    model = fuse_batch_norm(architecture.build())
    path = Path(_FOLDER.name) / f"{name}.{route}.onnx"
    if route == "default":
        export_onnx(architecture, model, path)
    else:
        export_onnx_traced(architecture, model, path, LEGACY_OPSET)
    return Export(model, path, load_onnx(path), architecture.make_example(batch=6, seed=3))
