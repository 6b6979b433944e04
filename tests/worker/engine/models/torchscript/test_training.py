"""Files in training mode: what was traced that way stays so after .eval(), what was scripted does not."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.worker.engine.models.torchscript.conftest import Import


class Dropping(nn.Module):
    def __init__(self, probability: float = 0.5) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.drop = nn.Dropout(probability)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc(x))


class Normalising(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class AlwaysDropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, num_layers=2, dropout=0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + torch.randn_like(x)


X = torch.randn(6, 4)


@pytest.mark.parametrize("model", [Dropping(), AlwaysDropping()], ids=["dropout", "functional dropout"])
def test_a_trace_in_training_mode_stays_in_training_mode(model: nn.Module, import_model: Import) -> None:
    assert import_model(model.train(), X).training


def test_a_trace_in_training_mode_of_a_recurrent_net(import_model: Import) -> None:
    assert import_model(Recurrent().train(), torch.randn(3, 2, 4)).training
    assert not import_model(Recurrent().eval(), torch.randn(3, 2, 4)).training


def test_batch_statistics_in_a_trace_are_training_mode(import_model: Import) -> None:
    program = import_model(Normalising().train(), X)
    assert program.training


@pytest.mark.parametrize("kind", [Dropping, Normalising])
def test_a_trace_in_evaluation_mode_is_none(kind: type[nn.Module], import_model: Import) -> None:
    program = import_model(kind().eval(), X)
    assert not program.training
    assert not program.saved_in_training


@pytest.mark.parametrize("kind", [Dropping, Normalising])
def test_a_script_saved_in_training_mode_is_read_in_evaluation_mode(kind: type[nn.Module], import_model: Import) -> None:
    model = kind().train()
    program = import_model(model)
    assert program.saved_in_training
    assert not program.training
    torch.testing.assert_close(program.forward({}, {"x": X})["output"], model.eval()(X))


def test_a_script_without_training_behaviour_may_be_saved_in_any_mode(import_model: Import) -> None:
    assert not import_model(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).train()).saved_in_training


def test_a_script_that_always_drops_is_in_training_mode(import_model: Import) -> None:
    assert import_model(AlwaysDropping().eval()).training


def test_dropout_of_nothing_is_not_training(import_model: Import) -> None:
    assert not import_model(Dropping(0.0).train(), X).training


def test_random_operators_are_marked_but_are_not_training(import_model: Import) -> None:
    program = import_model(Noisy())
    assert not program.training
    assert [step.operator for step in program.steps if step.dynamic_shape] == ["aten::randn_like"]
