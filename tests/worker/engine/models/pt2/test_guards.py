"""What the exporter assumed of sizes: inputs that break it are refused, as PyTorch's own runtime refuses them."""

import pytest
import torch
from torch import Tensor, nn

from schemas.errors import DataMismatch
from tests.worker.engine.models.pt2.conftest import Export
from worker.engine.models.pt2 import run_reference
from worker.engine.models.pt2.guards import holds


class HalvesTheBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor, given: dict[str, Tensor]) -> Tensor:
        n = x.shape[0]
        return (self.a(x).reshape(n // 2, -1) if n % 2 == 0 else x).sum() + (x + given["k"]).sum()


def test_inputs_that_the_exporter_ruled_out_are_refused_as_by_pytorch(export: Export) -> None:
    model = HalvesTheBatch()
    batch = {0: torch.export.Dim.DYNAMIC}
    path = export(model, torch.ones(8, 4), {"k": torch.ones(8, 4)}, shapes=(batch, {"k": batch}))
    for n in (4, 5, 6, 7, 10):
        inputs = {"x": torch.ones(n, 4), "given_k": torch.ones(n, 4)}
        try:
            expected = torch.export.load(path).module()(inputs["x"], {"k": inputs["given_k"]})
        except AssertionError:
            with pytest.raises(DataMismatch, match="an assumption that the model was exported under"):
                run_reference(path, inputs, threads=1)
        else:
            assert torch.equal(run_reference(path, inputs, threads=1)["output"], expected)
    with pytest.raises(DataMismatch, match="an assumption"):
        run_reference(path, {"x": torch.ones(4, 4), "given_k": torch.ones(6, 4)}, threads=1)


@pytest.mark.parametrize(
    "guard",
    ["__import__('os').system('touch written')", "L['x'].size()[0] ** 9", "L['z'].size()[0] == 1", "(" * 9999, "x" * 9999, ""],
)
def test_an_assumption_that_is_no_arithmetic_on_sizes_is_never_evaluated(guard: str) -> None:
    assert holds(guard, {"x": torch.ones(5, 4)})
