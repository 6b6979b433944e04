"""TorchScript files as programs."""

from worker.engine.models.torchscript.load import load_torchscript, run_reference

__all__ = ["load_torchscript", "run_reference"]
