"""The handwritten digits that scikit-learn carries: 1,797 real 8 x 8 scans, split once by a fixed seed."""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor

HELD_OUT = 500
SPLIT_SEED = 2020
BRIGHTEST = 16.0
"""The scans count pixels in 4 x 4 blocks, so grey values are 0 to 16 and n / 16 is exact in every float type."""


@dataclass(frozen=True)
class Examples:
    """Inputs and integer labels, one row per example."""

    inputs: Tensor
    labels: Tensor


def load_split() -> tuple[Examples, Examples]:
    """Return (training, held out): inputs [N, 1, 8, 8] in float64, labels [N]."""
    images, labels = load_digits(return_X_y=True)
    inputs = torch.from_numpy(images).reshape(-1, 1, 8, 8) / BRIGHTEST
    targets = torch.from_numpy(labels).long()
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out, training = order[:HELD_OUT], order[HELD_OUT:]
    return Examples(inputs[training], targets[training]), Examples(inputs[held_out], targets[held_out])
