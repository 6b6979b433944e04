"""Flags: doubts about the figures that the engine raises itself. docs/flags.md explains each code."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worker.engine.models.load import PARITY_NEAR_LIMIT
from worker.engine.objective import Objective
from worker.engine.record import Clean
from worker.engine.search import CellResult
from worker.engine.session import Session

FLAGS: dict[str, tuple[str, str]] = {
    "zero_gradient": ("warning", "the first-order figure says nothing here; read the random and re-applied figures"),
    "no_gradient": ("critical", "no weight has a differentiable path to the loss; audit the model that gives logits"),
    "random_beats_gradient": ("warning", "a random corruption did more damage than the search; raise search.budget_passes"),
    "softmax_at_the_end": ("critical", "the output is already probabilities; set objective.output_kind to probabilities"),
    "not_deterministic": (
        "critical",
        "two runs on equal inputs differ; export the model in evaluation mode without random operators",
    ),
    "non_finite": ("warning", "a feasible corruption gives non-finite outputs; it counts as damage beyond every limit"),
    "no_parameters": ("warning", "the scope's weights have no path to the loss, so nothing was measured for it"),
    "training_mode": ("warning", "the file was saved in training mode and is audited in evaluation mode; export it after eval()"),
    "parity_near_limit": ("warning", "our outputs differ from the runtime's more than usual; distrust small loss changes"),
    "chance_level": (
        "critical",
        "the clean model is no better than always answering the commonest class; it has nothing to lose",
    ),
}
"""Code -> (severity, what to do)."""


@dataclass(frozen=True)
class RaisedFlag:
    """One doubt, with the evidence for it."""

    code: str
    scope: str | None = None
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def severity(self) -> str:
        """info, warning or critical."""
        return FLAGS[self.code][0]

    @property
    def advice(self) -> str:
        """What the reader can do."""
        return FLAGS[self.code][1]


PROBABILITY_TOLERANCE = 1e-3
NOISE = 1e-5
"""Two float32 computations of a loss change agree within this share of |loss change| + loss (method section 10)."""


def find_model_flags(session: Session, parity: float) -> list[RaisedFlag]:
    """Return the doubts that show on the clean model's first batch."""
    inputs, _ = next(session.batches())
    with torch.no_grad():
        first, second = (session.objective.select_output(session.program.forward({}, inputs)) for _ in range(2))
    flags = []
    if session.program.saved_in_training:
        flags.append(RaisedFlag("training_mode"))
    if not torch.equal(first, second):
        flags.append(RaisedFlag("not_deterministic", evidence={"largest_difference": float((first - second).abs().max())}))
    if _looks_like_probabilities(session.objective, first):
        flags.append(RaisedFlag("softmax_at_the_end", evidence={"rows_that_sum_to_one": 1.0}))
    if parity > PARITY_NEAR_LIMIT:
        flags.append(RaisedFlag("parity_near_limit", evidence={"difference": parity}))
    return flags


def find_chance_flags(session: Session, clean: Clean) -> list[RaisedFlag]:
    """Return a flag when the clean accuracy is at most the share of the commonest class."""
    if not session.objective.has_classes or "accuracy" not in clean.metrics:
        return []
    counted = session.dataset.target[session.objective.find_counted(session.dataset.target)]
    share = float(torch.bincount(counted.flatten()).max()) / len(counted.flatten())
    accuracy = clean.metrics["accuracy"]
    return [RaisedFlag("chance_level", evidence={"accuracy": accuracy, "commonest_class": share})] if accuracy <= share else []


def find_cell_flags(result: CellResult, clean: Clean, finding: str) -> list[RaisedFlag]:
    """Return the doubts about one cell's figures."""
    flags = []
    scope = result.cell.scope.name
    worst = result.worst["loss"]
    if worst.outcome.non_finite:
        flags.append(RaisedFlag("non_finite", scope, {"finding": finding, "examples": worst.outcome.non_finite}))
    elif worst.method == "random" and result.predicted != 0.0:
        searched = max(clean.compute_damage("loss", result.first_order), 0.0)
        damage = clean.compute_damage("loss", worst.outcome)
        if damage - searched > NOISE * (abs(damage) + clean.loss):
            flags.append(RaisedFlag("random_beats_gradient", scope, {"finding": finding, "random_loss_change": damage}))
    return flags


def _looks_like_probabilities(objective: Objective, output: Tensor) -> bool:
    if not objective.has_classes or objective.output_kind != "logits" or output.shape[-1] < 2:
        return False
    sums = output.double().sum(-1)
    return bool((output >= 0).all()) and bool(((sums - 1).abs() <= PROBABILITY_TOLERANCE).all())
