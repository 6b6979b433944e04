"""Architecture: one test network as data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

OutputKind = Literal["classes", "tokens", "values"]
"""classes: logits [B, C]; tokens: logits per token [B, T, C]; values: anything else, no classification."""


@dataclass(frozen=True)
class Architecture:
    """One small network with random weights, its inputs and what is known about exporting it.

    Every input has the batch as its first dimension, and that dimension is dynamic.
    """

    name: str
    construct: Callable[[], nn.Module]
    make_inputs: Callable[[int], dict[str, Tensor]]
    outputs: tuple[str, ...] = ("output",)
    kind: OutputKind = "classes"
    scriptable: bool = True
    """Whether torch.jit.script accepts the network's Python."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of forward's arguments, in order."""
        return tuple(self.make_example(1))

    def build(self, seed: int = 0) -> nn.Module:
        """Return the network in eval mode with seeded weights, no two of which are equal."""
        generator_state = torch.get_rng_state()
        torch.manual_seed(seed)
        model = self.construct()
        randomise(model)
        make_distinct(model)
        torch.set_rng_state(generator_state)
        return model.eval()

    def make_example(self, batch: int = 4, seed: int = 0) -> dict[str, Tensor]:
        """Return seeded inputs for `batch` examples, by argument name in order."""
        generator_state = torch.get_rng_state()
        torch.manual_seed(seed)
        inputs = self.make_inputs(batch)
        torch.set_rng_state(generator_state)
        return inputs


def randomise(model: nn.Module) -> None:
    """Move every parameter and running statistic off its special initial value (0, 1, or copies of a layer)."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.2 * torch.randn_like(buffer))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand_like(buffer))


def make_distinct(model: nn.Module) -> None:
    """Move weights that are equal apart, to neighbouring numbers, so that an entry of a file tells which weight it is."""
    parameters = list(model.parameters())
    values, order = torch.cat([parameter.detach().flatten() for parameter in parameters]).sort()
    while (equal := values[1:] <= values[:-1]).any():
        values[1:] = torch.where(equal, torch.nextafter(values[:-1], torch.tensor(torch.inf)), values[1:])
    distinct = torch.empty_like(values).index_copy_(0, order, values)
    with torch.no_grad():
        for parameter, piece in zip(parameters, distinct.split([parameter.numel() for parameter in parameters]), strict=True):
            parameter.copy_(piece.view_as(parameter))
