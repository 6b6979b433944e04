"""The gradient over all data, which weights it reaches, and when it counts as zero; method sections 1 and 2."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from worker.engine.corruption import measure_norm
from worker.engine.passes import Passes
from worker.engine.scopes import Layout
from worker.engine.session import Evaluator, Session
from worker.engine.tally import Outcome

ZERO_SHARE = 1e-5
"""A gradient below this share of the typical per-example gradient is cancelled to rounding (method section 2)."""
ROUNDING_SHARE = 1e-6
"""A scope's gradient below this share of the whole model's typical per-example gradient is rounding too: an
attention key bias, whose gradient is zero for every example, shows about 1e-8 in float32."""
SIGNS = (1.0, -0.8, 1.2, 0.9)
"""Few examples give the order of magnitude that the two shares above need, and one backward pass gives it for all of them: the
expected square of a sum of gradients with signs is the sum of their squares. Unequal, so that equal gradients do not cancel."""

GRADIENT_PASSES = Passes(1, 1)
"""What compute_gradient spends."""


@dataclass(frozen=True)
class GradientInfo:
    """Gradient of the mean loss over all data at w, by weight name.

    reached: the weights with a differentiable path to the loss. vector: of all weights; places: where in it each weight's is.
    example_squares: mean square of the per-example gradient norms, by weight name.
    """

    clean: Outcome
    reached: tuple[str, ...]
    vector: Tensor
    places: dict[str, slice]
    example_squares: dict[str, float]

    def flatten(self, names: Sequence[str]) -> Tensor:
        """Return the gradient of the named weights as one vector [k]: without a copy where they stand side by side."""
        places = [self.places[name] for name in names]
        if all(before.stop == after.start for before, after in pairwise(places)):
            return self.vector[places[0].start : places[-1].stop]
        return torch.cat([self.vector[place] for place in places])

    def compute_norm(self, names: Sequence[str]) -> float:
        """Return G for the named weights, in float64."""
        return math.hypot(*(measure_norm(self.vector[self.places[name]], 2) for name in names))

    def is_zero(self, names: Sequence[str]) -> bool:
        """Return whether the gradient of the named weights is below rounding."""
        own = sum(self.example_squares[name] for name in names) ** 0.5
        whole = sum(self.example_squares.values()) ** 0.5
        return bool(self.compute_norm(names) <= max(ZERO_SHARE * own, ROUNDING_SHARE * whole))


def compute_gradient(session: Session, names: Sequence[str]) -> GradientInfo:
    """Return the gradient of L(w; D) for the named weights: one forward and one backward pass over all data.

    Accumulated over micro-batches in the weights' dtype; losses in float64.
    """
    leaves = make_leaves(session, names)
    [clean] = Evaluator(session, names).differentiate([leaves])
    reached = tuple(name for name, leaf in leaves.items() if leaf.grad is not None)
    layout = Layout(session.program.weights, names)
    vector = layout.gather(leaves)
    if session.objective.is_flat:
        vector.zero_()
    return GradientInfo(clean, reached, vector, layout.places, session.run(lambda: _sample_example_squares(session, names)))


def make_leaves(session: Session, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the weights as leaves of a graph; they share the memory of the clean ones, which nothing writes to."""
    return {name: session.program.weights[name].detach().requires_grad_() for name in names}


def _sample_example_squares(session: Session, names: Sequence[str]) -> dict[str, float]:
    """Return, per weight, about the mean square of the per-example gradient norm, from a few evenly spaced examples."""
    count = len(session.dataset)
    rows = sorted({index * count // len(SIGNS) for index in range(len(SIGNS))})
    totals, signs = dict.fromkeys(names, 0.0), torch.tensor(SIGNS[: len(rows)])
    chosen = session.dataset.take(rows).batches(min(session.batch_size, len(rows)))
    for (inputs, target), given in zip(chosen, signs.split(session.batch_size), strict=True):
        leaves = make_leaves(session, names)
        for name, leaf in leaves.items():
            leaf.register_post_accumulate_grad_hook(partial(_add_square, totals, name))
        output = session.objective.select_output(session.program.forward(leaves, inputs))
        labels = session.objective.find_counted(target).view(len(target), -1).sum(1).clamp(min=1)
        losses = session.objective.compute_losses(output, target).view(len(target), -1).sum(1) / labels
        if losses.requires_grad:  # else no weight has a path to it
            (losses * given.to(losses)).sum().backward()
    return {name: total / float(signs.square().sum()) for name, total in totals.items()}


def _add_square(totals: dict[str, float], name: str, leaf: Tensor) -> None:
    """Add the square of the norm of a gradient that is complete, and give its memory back before the next one comes."""
    if leaf.grad is not None:
        totals[name] += measure_norm(leaf.grad.reshape(-1), 2) ** 2
        leaf.grad = None
