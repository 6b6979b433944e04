"""The shipped examples as the tests read them."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
ARTIFACTS = EXAMPLES / "artifacts"


class Row(NamedTuple):
    """One line of the table in examples/README.md."""

    name: str
    weights: int
    data: Path
    loss: float
    accuracy: float
    files: tuple[Path, ...]


def read_table() -> list[Row]:
    lines = (EXAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
    return [parse_row(line) for line in lines if re.match(r"\| \w+ \| .+\.npz", line)]


def parse_row(line: str) -> Row:
    name, _, weights, data, loss, accuracy, files = [cell.strip() for cell in line.strip("|").split("|")]
    paths = tuple(ARTIFACTS / file for file in re.findall(r"`([\w.]+)`", files))
    return Row(name, int(weights.replace(",", "")), ARTIFACTS / data.strip("`"), float(loss), float(accuracy), paths)


def load_data(path: Path) -> tuple[Tensor, Tensor]:
    with np.load(path) as arrays:
        return torch.from_numpy(arrays["inputs"]), torch.from_numpy(arrays["labels"])


def load_network(name: str) -> torch.jit.ScriptModule:
    network: torch.jit.ScriptModule = torch.jit.load(str(ARTIFACTS / f"{name}.pt")).eval()
    return network
