"""Report: what an audit found. A pure function of its inputs: no times, ids or host names.

The worker's child sends a Measurement (numbers only); the supervisor adds what it computed
itself, the subject and the request echo, which makes the Report.
"""

from typing import Any, Literal

from schemas.base import Norm, Output, Scale
from schemas.bounds import ErrorBound, HeldOut, Interval, Smoothness, Theory, UpperBound
from schemas.comparison import Comparison
from schemas.limits import Along
from schemas.ranking import Ranking
from schemas.unmeasured import Unmeasured

ModelFormat = Literal["onnx", "torchscript", "pt2"]
Kind = Literal["estimate", "lower_bound", "upper_bound"]
Method = Literal["first_order", "reapplied", "ascent", "exchange", "second_order", "random", "none"]
StopReason = Literal["single_step", "converged", "budget", "zero_gradient", "non_finite", "deadline"]
SkipReason = Literal["no_gradient_path", "integer", "running_statistic", "not_a_weight"]
Severity = Literal["info", "warning", "critical"]


class ModelSubject(Output):
    """The audited file."""

    sha256: str
    format: ModelFormat
    producer: str
    opset: int | None
    weights: int
    size_bytes: int


class DataSubject(Output):
    """The data that the figures are about. search_examples: how many of them the search saw, where the data was sampled."""

    sha256: str
    examples: int
    labels_counted: int
    sampled: bool
    search_examples: int | None = None


class LossSubject(Output):
    """The file that computes the loss."""

    sha256: str


class EngineSubject(Output):
    """The engine that computed the figures."""

    version: str


class Subject(Output):
    """What was audited, by digest."""

    model: ModelSubject
    data: DataSubject
    evaluate_on: DataSubject | None = None
    objective: LossSubject | None = None
    request_digest: str
    engine: EngineSubject


class Skipped(Output):
    """A tensor that was not audited, and why."""

    name: str
    weights: int
    reason: SkipReason


class Coverage(Output):
    """How much of the model the figures speak of."""

    weights_total: int
    weights_audited: int
    tensors_total: int
    tensors_audited: int
    skipped: tuple[Skipped, ...]


class Clean(Output):
    """The uncorrupted model on the data; with limits where the data was sampled."""

    loss: float
    normalised_loss: float | None = None
    metrics: dict[str, float]
    loss_interval: Interval | None = None
    metric_intervals: dict[str, Interval] = {}


class ScopeInfo(Output):
    """The weights a finding is about.

    component: what they are, where they are of one type, their biases aside. depth: where they begin, from 0 at the input to
    1 at the output; null for the model.
    """

    kind: Literal["model", "per_module", "per_tensor", "per_component", "per_depth", "named"]
    name: str
    weights: int
    component: str | None = None
    depth: float | None = None


class SetInfo(Output):
    """The corruption set S(p, epsilon, n) of a finding, and its size per weight and relative to the weights."""

    norm: Norm
    epsilon: float
    max_corrupted: int | None
    also_asked: tuple[int | None, ...]
    weights_corrupted: int
    scale: Scale
    zero_scale: int = 0
    change_per_weight: float | None
    relative_epsilon: float | None


class Predicted(Output):
    """The first-order estimate of the loss change."""

    loss_change: float
    kind: Literal["estimate"]


class NonFinite(Output):
    """How many examples had a non-finite output or loss."""

    examples: int


class FirstOrderMetric(Output):
    """A metric under the one-step corruption; `drop` is its deterioration, positive when worse."""

    value: float | None
    drop: float | None


class FirstOrder(Output):
    """The one-step corruption, applied and measured; on a sample of the data an estimate."""

    loss_change: float | None
    kind: Literal["lower_bound", "estimate"]
    metrics: dict[str, FirstOrderMetric]
    non_finite: NonFinite | None


class MeasuredMetric(Output):
    """The worst value of a metric over every corruption measured in the cell, and the method that found it.

    interval: limits of the drop; value_interval: of the value. Null where nothing was sampled.
    """

    value: float | None
    drop: float | None
    interval: Interval | None
    method: Method
    value_interval: Interval | None = None


class Measured(Output):
    """The worst found in the cell: applied and measured on all of the data, or on a sample that the search did not choose.

    With an interval the figure is an estimate, and the lower limit is the bound that is proved.
    """

    loss_change: float | None
    interval: Interval | None
    kind: Literal["lower_bound"]
    method: Method
    metrics: dict[str, MeasuredMetric]
    examples: int
    non_finite: NonFinite | None


class RandomLossChange(Output):
    """Loss change over the random trials with a finite loss; null when there was none."""

    mean: float | None
    std: float | None
    max: float | None


class RandomMetric(Output):
    """A metric over the random trials."""

    worst: float | None
    mean: float | None


class RandomTrials(Output):
    """Random corruptions of exactly the cell's norm and support size."""

    trials: int
    seed: int
    non_finite_trials: int
    loss_change: RandomLossChange
    metrics: dict[str, RandomMetric]


class Passes(Output):
    """Forward and backward passes over all of the data that the cell's search spent."""

    forward: int
    backward: int


class BitFlip(Output):
    """One flipped bit of a stored weight; bit 0 is the least significant. new: null where it is NaN or infinite."""

    tensor: str
    index: int
    bit: int
    kind: Literal["sign", "exponent", "mantissa", "value"]
    old: float
    new: float | None


class FlipMetric(Output):
    """A metric under the flips that are worst for it; `flips` is null where they are those of the loss."""

    value: float | None
    drop: float | None
    flips: tuple[BitFlip, ...] | None = None


class FlipDamage(Output):
    """The worst found with at most `count` flips: applied and measured on all of the data."""

    count: int
    loss_change: float | None
    non_finite: NonFinite | None
    metrics: dict[str, FlipMetric]
    flips: tuple[BitFlip, ...]


class RandomFlips(Output):
    """As many random flips of the same bits, for comparison."""

    count: int
    trials: int
    seed: int
    non_finite_trials: int
    largest_loss_change: float | None
    metrics: dict[str, RandomMetric]


class BitFlips(Output):
    """What flips of stored bits do to the weights that match.

    bits: how many single flips of the kinds asked for there are; non_finite_flips: those of them to NaN or Inf, left out.
    """

    match: str
    kind: Literal["lower_bound", "estimate"]
    weights: int
    bits: int
    non_finite_flips: int
    results: tuple[FlipDamage, ...]
    random: RandomFlips | None
    stop_reason: Literal["budget", "converged", "non_finite", "zero_gradient", "deadline"]
    passes: Passes


class Finding(Output):
    """One cell: one scope, one corruption set.

    normalised_loss_change: what the corruption that is worst for the loss does to the logit-normalised one.
    """

    id: str
    scope: ScopeInfo
    set: SetInfo
    predicted: Predicted
    first_order: FirstOrder
    measured: Measured
    random: RandomTrials | None
    stop_reason: StopReason
    passes: Passes
    held_out: HeldOut | None = None
    upper_bound: UpperBound | None = None
    smoothness: Smoothness | None = None
    error_bound: ErrorBound | None = None
    normalised_loss_change: float | None = None


class Bracket(Output):
    """`hi` was measured to cross the limit; `lo` was not found to. Only `hi` proves something."""

    lo: float | None
    hi: float | None


class BreakingPoint(Output):
    """The smallest epsilon, or along max_corrupted the smallest n, at which a limit was found to be crossed.

    interval, lo_interval: where the data was sampled, limits of what was observed, and of the damage at `lo`. stop_reason:
    deadline when the bracket is as far as the search came.
    """

    limit: dict[str, Any]
    along: Along = "epsilon"
    scope: str
    set: dict[str, Any]
    reached: bool
    bracket: Bracket
    observed: float | None
    evaluations: int
    passes: Passes
    interval: Interval | None = None
    lo_interval: Interval | None = None
    stop_reason: Literal["converged", "deadline"] = "converged"


class Flag(Output):
    """A doubt about the figures; docs/flags.md says what each code means and what to do."""

    code: str
    severity: Severity
    scope: str | None
    evidence: dict[str, Any]
    advice: str


class Counterexample(Output):
    """The corruption behind a finding, as an artifact that `faultline replay` measures again."""

    finding: str
    artifact: str


class Environment(Output):
    """What the figures were computed with."""

    device: str
    threads: int
    micro_batch: int
    torch: str
    onnxruntime: str
    parity: float | None
    sandbox: dict[str, bool]
    deterministic: bool


class Figures(Output):
    """What was measured; the same in the child's Measurement and in the published Report.

    complete: false when the search had to stop at its deadline; unmeasured: what is missing then.
    """

    coverage: Coverage
    clean: Clean
    findings: tuple[Finding, ...]
    ranking: tuple[Ranking, ...]
    breaking_points: tuple[BreakingPoint, ...]
    bit_flips: tuple[BitFlips, ...] = ()
    theory: Theory | None
    flags: tuple[Flag, ...]
    comparability: tuple[Comparison, ...] = ()
    environment: Environment
    complete: bool = True
    unmeasured: tuple[Unmeasured, ...] = ()


class Measurement(Figures):
    """All that the child measured; `counterexamples` maps finding ids to file names in its scratch folder."""

    format: ModelFormat
    producer: str
    opset: int | None
    examples: int
    labels_counted: int
    search_examples: int | None = None
    held_out_examples: int | None = None
    held_out_labels: int | None = None
    counterexamples: dict[str, str]


class Report(Figures):
    """The published report."""

    schema_version: Literal[1]
    subject: Subject
    request: dict[str, Any]
    counterexamples: tuple[Counterexample, ...]
