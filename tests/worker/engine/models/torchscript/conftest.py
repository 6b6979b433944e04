import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from worker.engine.models.program import Program
from worker.engine.models.torchscript import load_torchscript

Save = Callable[..., Path]
Import = Callable[..., Program]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save a module as TorchScript: scripted, or traced when example inputs are given."""

    def write(model: nn.Module, *examples: Tensor, name: str = "model.pt", freeze: bool = False) -> Path:
        path = tmp_path / name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module: Any = torch.jit.trace(model, examples, check_trace=False) if examples else torch.jit.script(model)
            if freeze:
                module = torch.jit.freeze(module.eval())
            torch.jit.save(module, str(path))
        return path

    return write


@pytest.fixture
def import_model(save: Save) -> Import:
    """Save and load a module."""

    def load(model: nn.Module, *examples: Tensor, freeze: bool = False) -> Program:
        return load_torchscript(save(model, *examples, freeze=freeze))

    return load
