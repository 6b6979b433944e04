"""Take a torch.export archive apart and put it together again with something wrong in its JSON."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from schemas.errors import AuditError
from tests.worker.engine.models.torchscript.archives import Entries, find_name
from worker.engine.models.pt2 import load_pt2, run_reference

Document = dict[str, Any]
CODE = "__import__('os').system('touch written')"


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(3, 2)
        self.table: Tensor
        self.register_buffer("table", torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.fc(x)) + self.table
        return y.reshape(x.shape[0] * 2, 1) + torch.tensor([0.5])


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch written",)


def change_json(entries: Entries, ending: str, change: Callable[[Document], None]) -> Entries:
    name = find_name(entries, ending)
    document = json.loads(entries[name])
    change(document)
    return {**entries, name: json.dumps(document).encode()}


def check_refused(path: Path, *kinds: type[AuditError]) -> AuditError:
    """Check that both routes refuse a file and that it leaves nothing behind; return the loader's error."""
    errors = [_find_error(path, *kinds), _find_error(path, *kinds, run=True)]
    assert all(error.faults for error in errors)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    return errors[0]


def _find_error(path: Path, *kinds: type[AuditError], run: bool = False) -> AuditError:
    with pytest.raises(kinds) as caught:
        run_reference(path, {"x": torch.ones(4, 3)}, 1) if run else load_pt2(path)
    return caught.value


def graph(document: Document) -> Document:
    found: Document = document["graph_module"]["graph"]
    return found


def signature(document: Document) -> Document:
    found: Document = document["graph_module"]["signature"]
    return found


def node(document: Document, target: str) -> Document:
    return next(entry for entry in graph(document)["nodes"] if target in entry["target"])


def assign(place: Callable[[Document], Any], key: Any, value: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        place(document)[key] = value

    return change
