"""In-place operators: the program gives what eager gives, and leaves weights and inputs as they were."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from schemas.errors import ModelRefused
from tests.worker.engine.models.torchscript.conftest import Import


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 4)


class ChainOfActivations(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        y += x
        y.mul_(2).clamp_(max=3.0)
        return functional.hardswish(y, inplace=True)


class ReadAfterwards(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        z = y.relu_()
        return y + z * 3


class ThroughView(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        row = y[:, 0]
        row.add_(10.0)
        return y


class ViewBefore(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        seen = y.view(-1)
        y.mul_(3.0)
        return seen * 2


class IndexAssignment(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros(x.size(0), 4)
        y[:, 1:3] = self.fc(x)[:, :2]
        y[0] = 7.0
        return y


class IntoInput(Base):
    def forward(self, x: Tensor) -> Tensor:
        x.add_(1.0)
        return self.fc(x) + x


class IntoViewOfInput(Base):
    def forward(self, x: Tensor) -> Tensor:
        flat = x.view(-1)
        flat.mul_(2.0)
        return self.fc(x)


class ThroughDropout(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        z = functional.dropout(y, 0.5, training=False)
        z.add_(1.0)
        return y * 2


class InList(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        both = [y, x]
        both[0].add_(5.0)
        return both[0] + y


class KeepsDtype(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x).half()
        y += torch.ones(4, dtype=torch.float32)
        return y


class InBranch(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        if bool(x.sum() > 0):
            y.add_(1.0)
        else:
            y = torch.relu_(y)
        return y


class InLoop(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        for step in range(3):
            y.mul_(0.5)
            y[:, step].sub_(1.0)
        return y


class ListOfOneTensor(Base):
    """Every round keeps the same tensor, so all entries show the last value."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        kept: list[Tensor] = []
        for _ in range(3):
            y.add_(1.0)
            kept.append(y)
        return torch.stack(kept)


class Comprehension(Base):
    def forward(self, x: Tensor) -> Tensor:
        sizes = [int(size) for size in x.shape]
        sizes.append(1)
        return self.fc(x).view(sizes)


SCRIPTED = [
    ChainOfActivations, ReadAfterwards, ThroughView, ViewBefore, IndexAssignment, IntoInput, IntoViewOfInput, ThroughDropout,
    InList, KeepsDtype, InBranch, InLoop, ListOfOneTensor, Comprehension,
]  # fmt: skip
TRACED = [kind for kind in SCRIPTED if kind not in {InBranch, Comprehension}]
PURE = {ChainOfActivations, ReadAfterwards, KeepsDtype, Comprehension}
"""Where nothing else holds the memory, so the program can be split afterwards."""


@pytest.mark.parametrize(("kind", "route"), [(kind, "script") for kind in SCRIPTED] + [(kind, "trace") for kind in TRACED])
def test_in_place_operators_give_what_eager_gives(kind: type[nn.Module], route: str, import_model: Import) -> None:
    model = kind().eval()
    x = torch.tensor([[0.5, -1.0, 2.0, 0.1], [1.0, 3.0, -2.0, 0.3]])
    program = import_model(model, x.clone()) if route == "trace" else import_model(model)
    before = {name: weight.clone() for name, weight in program.weights.items()}
    for sign in (1.0, -1.0):
        batch = sign * x
        given = batch.clone()
        torch.testing.assert_close(program.forward({}, {"x": given})["output"], model(batch.clone()), rtol=0, atol=0)
        assert torch.equal(given, batch)
        leaves = {name: weight.clone().requires_grad_() for name, weight in program.weights.items()}
        ours = torch.autograd.grad(
            program.forward(leaves, {"x": batch.clone()})["output"].float().square().sum(), list(leaves.values())
        )
        theirs = torch.autograd.grad(model(batch.clone()).float().square().sum(), list(model.parameters()))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)
    assert all(torch.equal(program.weights[name], value) for name, value in before.items())


@pytest.mark.parametrize("kind", sorted(PURE, key=str))
def test_in_place_operators_on_private_memory_are_rewritten(kind: type[nn.Module], import_model: Import) -> None:
    assert not import_model(kind().eval()).mutates


class Counting(Base):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1.0)
        return self.fc(x) * self.calls


class Caching(Base):
    cache: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.cache[:, 1:].copy_(x[:, 1:])
        return self.fc(self.cache)


@pytest.mark.parametrize("kind", [Counting, Caching])
def test_a_model_that_writes_into_its_own_state_is_refused(kind: type[nn.Module], import_model: Import) -> None:
    with pytest.raises(ModelRefused, match="writes into its own"):
        import_model(kind())
