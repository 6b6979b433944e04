"""Upper bounds of the loss change over a whole corruption set, for feed-forward programs; method section 7."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.layers import ROUNDING, RULES, SAME, TURNS, Call, NotCoveredError, Reach, Source
from worker.engine.models.clean import Plan, take_inputs
from worker.engine.models.program import Environment, Step, find_last_uses, run_steps
from worker.engine.passes import Passes
from worker.engine.regions import Ball, Region, TensorBalls
from worker.engine.session import Session

SLACK = 1e-9
"""Added to what each margin can move, per unit of it and of the largest logit: far above float64's rounding."""

BOUND_PASSES = Passes(5, 0)
"""What one bound costs, counted in float32 forward passes: one walk in float64, with a bound beside every step."""


@dataclass(frozen=True)
class UpperBound:
    """value: no corruption in S raises the mean loss by more. Kind: upper_bound. None where no rule covers the program.

    metrics: how far each metric can fall or rise at most, for those that the bound on margins says something about.
    """

    value: float | None
    status: str
    reason: str | None
    metrics: dict[str, float]


class LossBounder:
    """Bounds the scopes and sets of one session. Matrix norms are computed once; everything runs in float64."""

    def __init__(self, session: Session) -> None:
        self.session = session.cast(torch.float64)
        self._norms: dict[str, float] = {}

    def bound(self, names: Sequence[str], region: Region) -> UpperBound:
        r"""Return a B with L(w + a) - L(w) <= B for every a of the region, in the weights called `names`.

        Logits: |d(z_j - z_y)| <= D_j for every j, D_j the smaller of two bounds, and then per label
        L' - L <= ln sum_j exp(z_j - z_y + D_j) - ln sum_j exp(z_j - z_y) <= max_j D_j.
        The first D takes the box |a_i| <= epsilon s_i through the steps, entry by entry. The second takes the ball
        \|a / s\|_2 <= epsilon n^max(0, 1/2 - 1/p), D = sqrt(2) times that times \|shares\|_max(2, q), 1/p + 1/q = 1;
        for a product of balls the shares' sum (layers.py).

        Kind: upper_bound, of the loss in exact arithmetic. Source: method section 7, entrywise and on sums of branches.
        """
        reason = _find_obstacle(self.session)
        if reason is None:
            try:
                limits = _find_limits(self.session, names, region)
                return self.session.run(lambda: self._measure(limits))
            except NotCoveredError as error:
                reason = str(error)
        return UpperBound(None, "not_available", reason, {})

    def _measure(self, limits: "_Limits") -> UpperBound:
        session, sums = self.session, torch.zeros(2, dtype=torch.float64)
        for inputs, target in session.batches():
            logits, reach = self._walk(inputs, limits)
            if reach is not None:
                sums += _sum_labels(session, logits, target, reach, limits).cpu()
        rise, lost = (sums / session.labels_counted).tolist()
        if not math.isfinite(rise):
            return UpperBound(None, "not_available", "the bound is beyond the largest float", {})
        drops = {name: min(1.0, lost) for name in session.objective.metrics if name in {"accuracy", "error_rate"}}
        return UpperBound(rise, "available", None, drops)

    def _walk(self, inputs: Mapping[str, Tensor], limits: "_Limits") -> tuple[Tensor, Reach | None]:
        """Run one batch on clean weights, and beside it how far each value can move; return both for the logits."""
        program = self.session.program
        plan = self.session.clean.find_plan(inputs)
        environment = {**plan.known, **take_inputs(program, inputs)}
        sources, reaches = dict(limits.sources), dict[str, Reach]()
        for step, dead in zip(plan.steps, find_last_uses(plan.steps, program.outputs), strict=True):
            if not plan.knows(step):
                with torch.no_grad():
                    run_steps([step], environment, [()])
            if any(name in sources or name in reaches for name in step.uses):
                with torch.no_grad():
                    self._follow(step, plan, environment, sources, reaches, limits)
            for name in dead:
                environment.pop(name, None)
                reaches.pop(name, None)
        chosen = self.session.objective.output
        output = chosen if isinstance(chosen, str) else program.outputs[chosen]
        return environment[output], reaches.get(output)

    def _follow(
        self,
        step: Step,
        plan: Plan,
        environment: Environment,
        sources: dict[str, Source],
        reaches: dict[str, Reach],
        limits: "_Limits",
    ) -> None:
        first = step.inputs[0] if step.inputs else ""
        if step.operator in SAME and first in reaches:
            reaches[step.outputs[0]] = reaches[first]
            return
        rule = RULES.get(step.operator)
        turned = step.operator in TURNS and first in sources
        if len(step.outputs) != 1 or (rule is None and not turned):
            message = f"no rule covers {step.operator} ({step.name})"
            raise NotCoveredError(message)
        values, made = [environment[name] for name in step.inputs], step.outputs[0]
        if turned:
            given = sources[first]
            entries = step.function(given.entries, *values[1:], **step.attributes)
            sources[made] = Source(given.index, entries, given.largest)
        elif rule is not None:
            floats = [v.dtype for v in (*values, environment[made]) if isinstance(v, Tensor) and v.is_floating_point()]
            if set(floats) != {torch.float64} or not isinstance(environment[made], Tensor):
                message = f"{step.operator} ({step.name}) computes in another precision whatever its input"
                raise NotCoveredError(message)
            moving = ([reaches.get(name) for name in step.inputs], [sources.get(name) for name in step.inputs])
            tensors = len(limits.sources)
            reaches[made] = rule(Call(step, values, environment[made], *moving, tensors, limits.ball, plan.known, self._norms))


@dataclass(frozen=True)
class _Limits:
    r"""A set S as a box per weight and a ball: sum_t c_t \|a_t / s_t\|_2 <= ball \|c\|_dual."""

    sources: dict[str, Source]
    ball: float
    dual: float


def _find_limits(session: Session, names: Sequence[str], region: Region) -> _Limits:
    if not isinstance(region, Ball | TensorBalls):
        message = f"no box and ball are known around a {type(region).__name__}"
        raise NotCoveredError(message)
    weights, chosen = [session.program.weights[name] for name in names], region.corruption_set
    p, power = chosen.norm, max(0.0, 0.5 - 1 / chosen.norm)
    if isinstance(region, TensorBalls):
        boxes = [torch.full_like(weight, radius) for weight, radius in zip(weights, region.radii, strict=True)]
        counts = [min(chosen.max_corrupted or weight.numel(), weight.numel()) for weight in weights]
        largest = [radius * count**power for radius, count in zip(region.radii, counts, strict=True)]
        ball, dual = 1.0, 1.0
    else:
        scale = torch.cat([torch.ones_like(weight).flatten() for weight in weights]) if region.scale is None else region.scale
        scales = scale.to(weights[0].device).split([weight.numel() for weight in weights])
        boxes = [chosen.epsilon * piece.view_as(weight) for piece, weight in zip(scales, weights, strict=True)]
        largest = [float(piece.max()) for piece in scales]
        ball, dual = chosen.epsilon * region.corrupted**power, math.inf if p == 1 else p / (p - 1) if p < 2 else 2.0
    sources = {name: Source(i, boxes[i], largest[i]) for i, name in enumerate(names)}
    return _Limits(sources, ball, dual)


def _find_obstacle(session: Session) -> str | None:
    """Return why nothing can be bounded whatever the steps, or None."""
    program, objective = session.program, session.objective
    if objective.loss != "cross_entropy" or objective.output_kind != "logits":
        return "the bound is for cross-entropy on logits"
    if program.mutates or program.training:
        return "the program writes into its inputs or draws at random"
    if program.batch is not None and len(session.dataset) % program.batch:
        return f"the model runs on {program.batch} examples at once, and the last ones do not fill that"
    low = [name for name, weight in program.weights.items() if weight.dtype != torch.float64]
    return f"the weight {low[0]} is computed with in {program.weights[low[0]].dtype}" if low else None


def _sum_labels(session: Session, logits: Tensor, target: Tensor, reach: Reach, limits: _Limits) -> Tensor:
    """Return [2]: the sums over labels of what the loss can rise, and of labels now right that may become wrong."""
    counted = session.objective.find_counted(target).flatten()
    labels = torch.where(counted, target.flatten(), 0)
    rows = logits.flatten(0, -2)
    at = labels.unsqueeze(1)
    box = reach.spread(labels) if reach.spread else (entries := reach.entries.flatten(0, -2)) + entries.gather(1, at)
    norms = math.sqrt(2) * limits.ball * torch.linalg.vector_norm(reach.shares, limits.dual, dim=1) * ROUNDING
    moves = torch.minimum(box, norms.repeat_interleave(len(rows) // len(norms)).unsqueeze(1))
    moves = (moves * (1 + SLACK) + SLACK * rows.abs().amax(1, keepdim=True)).scatter(1, at, 0.0)
    margins = rows - rows.gather(1, at)
    rises = (margins + moves).logsumexp(1) - margins.logsumexp(1)
    right = rows.argmax(1) == labels
    safe = (margins + moves).scatter(1, at, -math.inf).amax(1) < 0
    return torch.stack([rises[counted].sum(), (right & ~safe)[counted].sum().double()])
