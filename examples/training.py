"""Two training loops: plain, and resistant to corruption of the weights (docs/method.md section 9).

Everything is trained in float64. Rounding differs between machines and a training run amplifies the
difference: from 1e-7 in float32 to other weights, from 1e-16 in float64 to nothing that float32 shows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from examples.digits import Examples


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; alpha = 0 is plain training."""

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.0
    alpha: float = 0.0
    """Share of the corrupted loss in the gradient."""
    epsilon: float = 0.0
    """L2 norm of the corruption that the network is trained against."""
    ramp: float = 0.5
    """Share of the epochs over which epsilon grows from 0: an untrained network cannot resist anything."""


def train(network: nn.Module, examples: Examples, recipe: Recipe, seed: int) -> None:
    """Train `network` in place with Adam and a one-cycle learning rate; it is left in evaluation mode."""
    steps = recipe.epochs * -(-len(examples.labels) // recipe.batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
    network.train()
    for step, batch in enumerate(_draw_batches(examples, recipe, seed)):
        if recipe.alpha:
            ramp = min(1.0, step / (recipe.ramp * steps))
            compute_resistant_gradient(network, batch, recipe.alpha, ramp * recipe.epsilon)
        else:
            compute_gradient(network, batch)
        optimizer.step()
        schedule.step()
    network.eval()


def _draw_batches(examples: Examples, recipe: Recipe, seed: int) -> Iterator[Examples]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(len(examples.labels), generator=generator).split(recipe.batch):
            yield Examples(examples.inputs[chosen], examples.labels[chosen])


def compute_gradient(network: nn.Module, batch: Examples) -> None:
    """Leave the gradient of the mean cross-entropy per label in each weight's `grad`."""
    network.zero_grad()
    logits = network(batch.inputs)
    cross_entropy(logits.flatten(0, -2), batch.labels.flatten()).backward()


def compute_resistant_gradient(network: nn.Module, batch: Examples, alpha: float, epsilon: float) -> None:
    r"""Leave (1 - alpha) grad L(w) + alpha grad L(w + a) in each weight's `grad`; w itself ends bit for bit as it began.

    a = epsilon g / ||g||_2 with g = grad L(w): the corruption of L2 norm epsilon that the first-order model of the batch
    loss calls the worst (docs/method.md section 2), held constant.
    Kind: exact. Source: Sun et al. 2021, section 4.
    """
    compute_gradient(network, batch)
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights = list(network.parameters())
    clean = [_gradient_of(weight).clone() for weight in weights]
    length = torch.linalg.vector_norm(torch.cat([g.flatten() for g in clean]))
    with torch.no_grad():
        for weight, g in zip(weights, clean, strict=True):
            weight.add_(epsilon * g / length)
    compute_gradient(network, batch)
    # From a kept copy: w + a - a is not w in floating point. It restores BatchNorm's statistics too, which only the
    # clean pass may move.
    network.load_state_dict(kept)
    for weight, g in zip(weights, clean, strict=True):
        weight.grad = (1 - alpha) * g + alpha * _gradient_of(weight)


def _gradient_of(weight: nn.Parameter) -> Tensor:
    if weight.grad is None:
        message = "every weight of an example network lies on a path to the loss"
        raise ValueError(message)
    return weight.grad
