"""R5 and R6 on the shipped networks, in plain PyTorch: nothing of the engine is used here."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.examples.artifacts import ARTIFACTS, load_data, load_network

STEPS = 6
TRIALS = 20


class Measured(NamedTuple):
    loss: float
    accuracy: float


class Subject:
    """A network on the held-out digits, its weights as one vector."""

    def __init__(self, name: str) -> None:
        self.network = load_network(name)
        self.inputs, self.labels = load_data(ARTIFACTS / "digits.npz")
        self.clean_weights = torch.nn.utils.parameters_to_vector(self.network.parameters()).detach().clone()
        self.clean = self.measure(torch.zeros_like(self.clean_weights))

    def set_corruption(self, corruption: Tensor) -> None:
        torch.nn.utils.vector_to_parameters(self.clean_weights + corruption, self.network.parameters())

    def measure(self, corruption: Tensor) -> Measured:
        self.set_corruption(corruption)
        with torch.no_grad():
            logits = self.network(self.inputs)
        right = (logits.argmax(-1) == self.labels).double().mean().item()
        return Measured(cross_entropy(logits, self.labels).item(), right)

    def compute_gradient(self, corruption: Tensor) -> Tensor:
        self.set_corruption(corruption)
        loss = cross_entropy(self.network(self.inputs), self.labels)
        return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(self.network.parameters()))])

    def search(self, epsilon: float) -> list[Measured]:
        """Put all of the norm along the gradient, again and again from where the last step led."""
        corruption, found = torch.zeros_like(self.clean_weights), []
        for _ in range(STEPS):
            gradient = self.compute_gradient(corruption)
            corruption = epsilon * gradient / gradient.norm()
            found.append(self.measure(corruption))
        return found

    def draw(self, epsilon: float, count: int = TRIALS) -> list[Measured]:
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(self.clean_weights.shape, generator=generator) for _ in range(count)]
        return [self.measure(epsilon * noise / noise.norm()) for noise in drawn]


def test_random_corruption_does_nothing_where_the_gradient_destroys_the_model() -> None:
    subject, epsilon = Subject("digits_cnn"), 0.5
    random, found = subject.draw(epsilon), subject.search(epsilon)
    assert subject.clean.accuracy >= 0.97
    assert min(one.accuracy for one in random) >= subject.clean.accuracy - 0.01
    assert max(one.loss for one in random) <= subject.clean.loss + 0.02
    one_step = found[0]
    assert one_step.accuracy <= subject.clean.accuracy - 0.4
    assert one_step.loss >= subject.clean.loss + 1
    assert min(one.accuracy for one in found) <= 0.2  # ten classes: chance is 0.1
    assert max(one.loss for one in found) >= subject.clean.loss + 10


def test_the_sturdy_twin_withstands_what_breaks_the_brittle_one() -> None:
    brittle, sturdy = Subject("digits_cnn"), Subject("digits_cnn_sturdy")
    assert sturdy.clean.accuracy >= brittle.clean.accuracy - 0.005
    assert min(one.accuracy for one in brittle.search(0.2)) <= 0.7
    assert min(one.accuracy for one in sturdy.search(0.2)) >= 0.95
