import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.worker.engine.models.pt2.tampering import Plain
from tests.worker.engine.models.torchscript.archives import Entries, read_entries

Export = Callable[..., Path]

DYNAMIC = torch.export.Dim.DYNAMIC


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """Save a module by torch.export; every input's first axis is dynamic unless `shapes` says otherwise."""

    def write(
        model: nn.Module,
        *arguments: Any,
        keywords: dict[str, Any] | None = None,
        shapes: Any = "batch",
        strict: bool = False,
        decomposed: bool = False,
    ) -> Path:
        dynamic = tuple({0: DYNAMIC} for _ in arguments) if shapes == "batch" else shapes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(model, arguments, keywords, dynamic_shapes=dynamic, strict=strict)
            if decomposed:
                exported = exported.run_decompositions()
            torch.export.save(exported, tmp_path / "model.pt2")
        return tmp_path / "model.pt2"

    return write


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> Entries:
    """Return the entries of a plain archive."""
    path = tmp_path_factory.mktemp("plain") / "model.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = ({0: torch.export.Dim.DYNAMIC},)
        torch.export.save(torch.export.export(Plain(), (torch.ones(4, 3),), dynamic_shapes=shapes), path)
    return read_entries(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, where whatever a file makes us write would be seen."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
