"""Flags: doubts about the figures that the engine raises itself. docs/flags.md explains each code."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from worker.engine.corruption import CorruptionSet
from worker.engine.models.load import PARITY_NEAR_LIMIT, find_tolerance
from worker.engine.objective import Objective
from worker.engine.record import Clean
from worker.engine.scopes import Layout
from worker.engine.search import CellResult
from worker.engine.session import Session
from worker.engine.tally import Outcome

FLAGS: dict[str, tuple[str, str]] = {
    "zero_gradient": ("warning", "the first-order figure says nothing here; read the random and re-applied figures"),
    "no_gradient": ("critical", "no weight has a differentiable path to the loss; audit the model that gives logits"),
    "random_beats_gradient": ("warning", "a random corruption did more damage than the search; raise search.budget_passes"),
    "softmax_at_the_end": ("critical", "the output is already probabilities; set objective.output_kind to probabilities"),
    "not_deterministic": (
        "critical",
        "two runs on equal inputs differ; export the model in evaluation mode without random operators",
    ),
    "deadline": ("critical", "the search stopped at the deadline; ask for a later one, or for less"),
    "batch_dependent": (
        "warning",
        "what the model says of an example depends on those beside it; figures hold for this micro-batch only",
    ),
    "non_finite": ("warning", "a feasible corruption gives non-finite outputs; it counts as damage beyond every limit"),
    "no_parameters": ("warning", "the loss does not read the scope's weights, so nothing was measured for it"),
    "training_mode": ("warning", "the file was saved in training mode and is audited in evaluation mode; export it after eval()"),
    "parity_near_limit": ("warning", "our outputs differ from the runtime's more than usual; distrust small loss changes"),
    "micro_batch_reduced": ("info", "memory ran short; figures agree with those of another micro-batch only within rounding"),
    "curvature_dominates": ("info", "the one-step figure may be far too low at this epsilon; read the searched one"),
    "smoothness_not_converged": ("info", "the curvature may be far larger than stated; do not rely on the error bound"),
    "gradient_masked": (
        "warning",
        "the loss does not follow its gradient even close to the weights; trust searched figures only",
    ),
    "search_not_converged": ("warning", "the search still found much more damage at its end; raise search.budget_passes"),
    "one_step_curve_falls": (
        "info",
        "a larger epsilon did less damage in one step: the loss is curved here; read searched figures",
    ),
    "below_resolution": ("warning", "the weights' number format cannot realise so small a corruption; use a larger epsilon"),
    "saturated_loss": ("warning", "the model is so sure that its gradient nearly vanishes; use harder data or gate on metrics"),
    "loss_scale": ("info", "the logits are large, so loss changes look large; compare models by metrics"),
    "asymptotic_interval": ("info", "limits of a loss hold only as the sample grows and never let a gate pass; gate on a metric"),
    "interval_too_wide": (
        "warning",
        "a confidence limit cannot be given; use more examples or gate on a bounded metric",
    ),
    "label_free": (
        "warning",
        "figures compare the model with itself, whatever its answers are worth; give labels where you have them",
    ),
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
SATURATED_LOSS = 1e-4
"""Nats: below this the right class has a probability above 0.9999 on average."""
LARGE_LOGITS = 30.0
"""Standard deviation over the classes, averaged over the first batch."""
SHORTEST_TRACE = 8
STILL_RISING = 0.05
"""A search whose last quarter added more than this share of its result has not converged."""
RESOLUTION = 0.01
SMALL_STEP = 1e-3
"""A corruption is small when its norm is at most this share of the weights' norm."""
MASKED_RATIO = 3.0
NOISE = 1e-5
"""Two float32 computations of a loss change agree within this share of |loss change| + loss (method section 10)."""


def find_model_flags(session: Session, parity: float) -> list[RaisedFlag]:
    """Return the doubts that show on the clean model's first batch."""
    first, second = run_first_batch(session), run_first_batch(session)
    flags = []
    if session.program.saved_in_training:
        flags.append(RaisedFlag("training_mode"))
    if not torch.equal(first, second):
        flags.append(RaisedFlag("not_deterministic", evidence={"largest_difference": float((first - second).abs().max())}))
    else:
        flags += _find_batch_flags(session, first)
    if _looks_like_probabilities(session.objective, first):
        flags.append(RaisedFlag("softmax_at_the_end", evidence={"rows_that_sum_to_one": 1.0}))
    if parity > find_tolerance(session.program).near:
        flags.append(RaisedFlag("parity_near_limit", evidence={"difference": parity}))
    return flags


def _find_batch_flags(session: Session, first: Tensor) -> list[RaisedFlag]:
    """Return a flag when the first example's output is another one where it runs alone (beside copies of itself)."""
    if first.ndim == 0:  # a mean over the batch, which is another one for every batch
        return []
    alone, _ = next(session.dataset.batches(1))
    with torch.no_grad():
        output = session.objective.select_output(session.program.forward({}, alone))
    difference = float(((output - first[:1]).abs() / (1 + first[:1].abs())).nan_to_num().max())
    return [RaisedFlag("batch_dependent", evidence={"difference": difference})] if difference > PARITY_NEAR_LIMIT else []


def run_first_batch(session: Session) -> Tensor:
    """Return what the loss reads of the clean model's first batch."""

    def compute() -> Tensor:
        inputs, _ = next(session.batches())
        with torch.no_grad():
            return session.objective.select_output(session.program.forward({}, inputs))

    return session.run(compute)


def find_chance_flags(session: Session, clean: Clean) -> list[RaisedFlag]:
    """Return a flag when the clean accuracy is at most the share of the commonest class."""
    if not session.objective.has_classes or "accuracy" not in clean.metrics:
        return []
    share = _find_commonest_share(session)
    accuracy = clean.metrics["accuracy"]
    return [RaisedFlag("chance_level", evidence={"accuracy": accuracy, "commonest_class": share})] if accuracy <= share else []


def _find_commonest_share(session: Session) -> float:
    """Return the share of the commonest class among the counted labels."""
    counts = torch.zeros(0, dtype=torch.int64)
    for labels in session.dataset.walk_labels():
        counted = session.objective.find_labels(labels)[session.objective.find_counted(labels)]
        more = torch.bincount(counted.flatten(), minlength=len(counts)).cpu()
        more[: len(counts)] += counts
        counts = more
    return float(counts.max()) / float(counts.sum())


def find_loss_flags(session: Session, clean: Clean) -> list[RaisedFlag]:
    """Return the doubts about cross-entropy itself: a loss near zero, logits of a large scale."""
    if not session.objective.reads_classes:
        return []
    flags = []
    if session.objective.labels_by_model:
        flags.append(RaisedFlag("label_free", evidence={"loss": session.objective.loss}))
    elif clean.loss < SATURATED_LOSS:
        flags.append(RaisedFlag("saturated_loss", evidence={"clean_loss": clean.loss}))
    output = run_first_batch(session).double()
    spread = float(output.std(-1).mean()) if session.objective.output_kind == "logits" and output.shape[-1] > 1 else 0.0
    if spread > LARGE_LOGITS:
        flags.append(RaisedFlag("loss_scale", evidence={"logit_standard_deviation": spread}))
    return flags


def find_memory_flags(session: Session) -> list[RaisedFlag]:
    """Return a flag when the micro-batch was halved; ask when everything is measured."""
    if not session.shrinking.halvings:
        return []
    evidence = {"planned": session.micro_batch, "micro_batch": session.batch_size, "halvings": session.shrinking.halvings}
    return [RaisedFlag("micro_batch_reduced", evidence=evidence)]


def find_cell_flags(result: CellResult, clean: Clean, finding: str, layout: Layout) -> list[RaisedFlag]:
    """Return the doubts about one cell's figures."""
    return [
        RaisedFlag(code, result.cell.scope.name, {"finding": finding, **evidence})
        for code, evidence in (
            *_judge_worst(result, clean),
            *_judge_search(result),
            *_judge_first_step(result, clean, layout),
        )
    ]


Doubts = Iterator[tuple[str, dict[str, Any]]]


def _judge_worst(result: CellResult, clean: Clean) -> Doubts:
    worst = result.worst["loss"]
    if worst.outcome.non_finite:
        yield "non_finite", {"examples": worst.outcome.non_finite}
    elif worst.method == "random" and result.predicted != 0.0:
        searched = max(clean.compute_damage("loss", result.first_order), 0.0)
        damage = clean.compute_damage("loss", worst.outcome)
        if damage - searched > NOISE * (abs(damage) + clean.loss):
            yield "random_beats_gradient", {"random_loss_change": damage}


def _judge_search(result: CellResult) -> Doubts:
    trace = result.trace
    if result.stop_reason != "budget" or len(trace) < SHORTEST_TRACE or not math.isfinite(trace[-1]):
        return
    before = trace[len(trace) * 3 // 4 - 1]
    if trace[-1] - before > STILL_RISING * abs(trace[-1]):
        yield "search_not_converged", {"loss_change_at_three_quarters": before, "loss_change": trace[-1]}


def _judge_first_step(result: CellResult, clean: Clean, layout: Layout) -> Doubts:
    chosen, damage = result.cell.corruption_set, clean.compute_damage("loss", result.first_order)
    if chosen.scale != "absolute" or not result.predicted or not math.isfinite(damage):
        return
    realised = layout.compute_realised_norm(result.one_step, chosen.norm)
    if abs(realised / chosen.epsilon - 1) > RESOLUTION:
        yield "below_resolution", {"realised_norm": realised, "epsilon": chosen.epsilon}
        return
    ratio = damage / result.predicted
    small = chosen.epsilon <= SMALL_STEP * layout.compute_norm(chosen.norm)
    above_noise = max(abs(damage), result.predicted) > 100 * NOISE * clean.loss
    if small and above_noise and not 1 / MASKED_RATIO <= ratio <= MASKED_RATIO:
        yield "gradient_masked", {"predicted": result.predicted, "first_order": damage, "ratio": ratio}


def find_curve_flags(scope: str, first_steps: Sequence[tuple[CorruptionSet, Outcome]], clean: Clean) -> list[RaisedFlag]:
    """Return a flag for each norm, n and scale where the one-step damage falls as epsilon grows."""
    curves: dict[tuple[float, int | None, str], list[tuple[float, float]]] = {}
    for chosen, outcome in first_steps:
        key = (chosen.norm, chosen.max_corrupted, chosen.scale)
        curves.setdefault(key, []).append((chosen.epsilon, clean.compute_damage("loss", outcome)))
    flags = []
    for (norm, _, _), points in curves.items():
        for (smaller, before), (larger, after) in pairwise(sorted(points)):
            if before - after > NOISE * (abs(before) + clean.loss) and before > 0:
                evidence = {"norm": "inf" if math.isinf(norm) else norm, "epsilon": [smaller, larger]}
                flags.append(RaisedFlag("one_step_curve_falls", scope, evidence | {"loss_change": [before, after]}))
                break
    return flags


def _looks_like_probabilities(objective: Objective, output: Tensor) -> bool:
    if not objective.reads_classes or objective.output_kind != "logits" or output.shape[-1] < 2:
        return False
    sums = output.double().sum(-1)
    return bool((output >= 0).all()) and bool(((sums - 1).abs() <= PROBABILITY_TOLERANCE).all())
