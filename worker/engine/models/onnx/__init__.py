"""ONNX models: the importer, and ONNX Runtime as the reference."""

from worker.engine.models.onnx.loading import load_onnx
from worker.engine.models.onnx.reference import run_reference

__all__ = ["load_onnx", "run_reference"]
