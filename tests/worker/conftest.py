"""Worker tests run torch on one thread: small tensors gain nothing from more, and results repeat."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
