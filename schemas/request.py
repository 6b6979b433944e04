"""AuditRequest: what a client posts. docs/contract.md describes every field."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from schemas.base import (
    SCHEMA_VERSION,
    Input,
    Name,
    Norm,
    PositiveFloat,
    check_unique,
)
from schemas.data import AuditData, DataReference
from schemas.limits import Along, Limit, MetricName
from schemas.policy import Demand, Policy, RequiredClean
from schemas.references import NamedFile, Reference
from schemas.webhooks import Webhook

Corruptible = Annotated[int, Field(ge=1)]
MAX_CELLS_PER_SCOPE = 1000
MOST_WEIGHTS = 1e12
"""More than any model has."""


class ModelReference(Reference):
    """The model under audit."""

    format: Literal["auto", "onnx", "torchscript", "pt2"] = "auto"


class Precision(Input):
    """When measuring may stop: at limits that are tight enough, or clear of every threshold; docs/method.md section 8.

    confidence: of each limit; null: the request's. thresholds: demands as in a policy's conditions; a figure that has one is
    measured until it is clear of it, any other to the relative error. clean: the same for the clean model.
    """

    relative_error: Annotated[float, Field(gt=0, lt=1)] | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] | None = None
    thresholds: Annotated[tuple[Demand, ...], Field(max_length=256)] = ()
    clean: RequiredClean | None = None

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if self.relative_error is None and not self.thresholds:
            message = "give relative_error, thresholds or both: else nothing says when measuring may stop"
            raise ValueError(message)
        return self


def read_precision(policy: Policy) -> Precision:
    """Return the precision that a policy needs: clear of its thresholds, and at its confidence."""
    requires = [condition.require for condition in policy.conditions if condition.require.breaking_point_at_least is None]
    demands = [Demand(**require.model_dump(include=set(Demand.model_fields))) for require in requires]
    return Precision(
        relative_error=None if demands else DEFAULT_ERROR,
        confidence=policy.confidence,
        thresholds=tuple(dict.fromkeys(demands)),
        clean=policy.requires.clean,
    )


DEFAULT_ERROR = 0.05
"""The relative error for a policy without a threshold on a figure."""
SEARCH_EXAMPLES = 2000
"""In how many examples precision mode searches, when the request does not say."""


class Objective(Input):
    """The loss L and the metrics; docs/method.md section 1."""

    loss: Literal["cross_entropy", "nll", "mse", "bce_with_logits", "label_free", "kl_to_clean", "model_output", "program"] = (
        "cross_entropy"
    )
    output_kind: Literal["logits", "probabilities", "log_probabilities"] = "logits"
    ignore_index: int = -100
    output: Annotated[int, Field(ge=0)] | Name = 0
    class_axis: Literal[-1, 1] = -1
    program: ModelReference | None = None
    metrics: tuple[MetricName, ...] | None = None

    @model_validator(mode="after")
    def _check_metrics(self) -> Self:
        allowed = METRICS_OF_LOSS[self.loss]
        wrong = [name for name in self.metrics or () if name not in allowed]
        if wrong:
            message = f"metrics {wrong} cannot be computed with loss {self.loss}; allowed are {list(allowed)}"
            raise ValueError(message)
        if self.metrics is not None and len(set(self.metrics)) != len(self.metrics):
            message = "metrics lists a name twice"
            raise ValueError(message)
        if (self.loss == "program") != (self.program is not None):
            message = "loss program goes with objective.program, the file that computes the loss; give both or neither"
            raise ValueError(message)
        if self.loss == "nll" and self.output_kind != "log_probabilities":
            message = "loss nll takes log-probabilities: set output_kind to log_probabilities, or use cross_entropy"
            raise ValueError(message)
        if self.loss in WITHOUT_CLASSES and self.class_axis != -1:
            message = f"class_axis has a meaning only where there are classes; leave it out with loss {self.loss}"
            raise ValueError(message)
        if self.loss in WITHOUT_CLASSES and self.output_kind != "logits":
            message = (
                f"output_kind {self.output_kind} has a meaning only where there are classes; leave it out with loss {self.loss}"
            )
            raise ValueError(message)
        return self

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics to report: those asked for, else the loss's own."""
        if self.metrics is not None:
            return self.metrics
        return () if self.loss in WITHOUT_METRIC else METRICS_OF_LOSS[self.loss][:1]


TOPS = tuple(f"top_{k}{rest}" for k in (3, 5, 10) for rest in ("", "_error_rate"))
METRICS_OF_LOSS: dict[str, tuple[str, ...]] = {
    "cross_entropy": ("accuracy", "error_rate", *TOPS, "f1", "perplexity"),
    "nll": ("accuracy", "error_rate", *TOPS, "f1", "perplexity"),
    "bce_with_logits": ("accuracy", "error_rate", "f1"),
    "mse": ("mse",),
    "label_free": ("accuracy", "error_rate", *TOPS, "f1"),
    "kl_to_clean": ("accuracy", "error_rate", *TOPS, "f1"),
    "model_output": (),
    "program": ("accuracy", "error_rate", *TOPS, "f1"),
}
WITHOUT_METRIC = frozenset({"model_output", "program"})
"""Losses beside which no metric is measured unless one is asked for."""
WITHOUT_CLASSES = frozenset({"mse", "bce_with_logits", "model_output", "program"})


BallScale = Literal["absolute", "elementwise", "tensor"]


class NormSet(Input):
    """Corruption sets S(p, epsilon, n): every combination of epsilon and n is one cell per scope."""

    norm: Norm
    epsilon: Annotated[tuple[PositiveFloat, ...], Field(min_length=1, max_length=64), AfterValidator(check_unique)]
    max_corrupted: Annotated[tuple[Corruptible | None, ...], Field(min_length=1, max_length=64), AfterValidator(check_unique)] = (
        None,
    )
    scale: BallScale = "absolute"

    def count_cells(self) -> int:
        """Return how many cells per scope this entry makes."""
        return len(self.epsilon) * len(self.max_corrupted)


def name_rounding(rounding: str, granularity: str) -> str:
    """Return the scale that stands for half a quantisation step."""
    return f"rounding_{rounding}_per_channel" if granularity == "per_channel" else f"rounding_{rounding}"


class RoundingSet(Input):
    """All corruptions within half a quantisation step of every weight: what rounding to a format could do at worst."""

    rounding: Literal["int8", "fp16", "bf16"]
    granularity: Literal["per_tensor", "per_channel"] = "per_tensor"

    @model_validator(mode="after")
    def _check_granularity(self) -> Self:
        if self.rounding != "int8" and self.granularity != "per_tensor":
            message = f"granularity has a meaning only with rounding int8; leave it out for {self.rounding}"
            raise ValueError(message)
        return self

    def count_cells(self) -> int:
        """Return how many cells per scope this entry makes."""
        return 1

    @property
    def scale(self) -> str:
        """The scale that findings of this entry carry; their norm is "inf" and their epsilon 1."""
        return name_rounding(self.rounding, self.granularity)


def _choose_kind(value: Any) -> str:
    given = value if isinstance(value, dict) else vars(value) if isinstance(value, NormSet | RoundingSet) else {}
    return "#rounding" if "rounding" in given else "#norm"


CorruptionSets = Annotated[
    Annotated[NormSet, Tag("#norm")] | Annotated[RoundingSet, Tag("#rounding")], Discriminator(_choose_kind)
]


class NamedScope(Input):
    """A scope of the user's own: every weight whose name matches the glob `match`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]
    match: Name

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if self.name in SCOPE_KINDS:
            message = f"name {self.name!r} is the name of a scope kind; choose another"
            raise ValueError(message)
        return self


SCOPE_KINDS = ("model", "per_module", "per_tensor", "per_component", "per_depth")
Scope = Literal["model", "per_module", "per_tensor", "per_component", "per_depth"] | NamedScope


class Search(Input):
    """How to look for the worst corruption of a cell, and how hard."""

    method: Literal["first_order", "reapplied", "ascent", "second_order", "auto"] = "auto"
    budget_passes: Annotated[int, Field(ge=1, le=100_000)] = 64
    random_trials: Annotated[int, Field(ge=0, le=10_000)] = 20
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Theory(Input):
    """What to compute beside the search; docs/method.md sections 5 and 7.

    upper_bounds: what no corruption of the set can exceed, where the program allows it; about 5 passes in float64 per cell.
    smoothness: the largest curvature and the error bound of the estimate; about 60 passes per scope.
    normalised_loss: the logit-normalised loss beside the raw one; 1 pass per cell.
    """

    upper_bounds: bool = False
    smoothness: bool = False
    normalised_loss: bool = True


class BitFlipRequest(Input):
    """Search the worst flips of stored bits in the weights that match: how much do at most n flips do, for each n of counts?"""

    counts: Annotated[
        tuple[Annotated[int, Field(ge=1, le=1000)], ...], Field(min_length=1, max_length=64), AfterValidator(check_unique)
    ]
    match: Name = "*"
    kinds: tuple[Literal["sign", "exponent", "mantissa", "value"], ...] | None = None
    random_trials: Annotated[int, Field(ge=0, le=10_000)] = 20


class BreakingPointRequest(Input):
    """Find the smallest epsilon, or along max_corrupted the smallest n, at which `limit` is crossed; docs/method.md section 6.

    epsilon: how far the weights may move, where n is looked for. range: 1 to all of the scope's weights there, if left out.
    """

    limit: Limit
    scope: Name = "model"
    along: Along = "epsilon"
    norm: Norm = 2.0
    scale: BallScale = "absolute"
    epsilon: PositiveFloat | None = None
    max_corrupted: Corruptible | None = None
    range: tuple[PositiveFloat, PositiveFloat] = (1e-4, 100.0)

    @model_validator(mode="after")
    def _choose_range(self) -> Self:
        # Not before the fields are read: what was JSON is then checked as Python, where a list is no tuple.
        if self.along == "max_corrupted" and "range" not in self.model_fields_set:
            self.__dict__["range"] = (1.0, MOST_WEIGHTS)
        return self

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        problems = []
        if self.range[0] >= self.range[1]:
            problems.append(f"range must rise, got [{self.range[0]}, {self.range[1]}]")
        if self.along == "epsilon" and self.epsilon is not None:
            problems.append("epsilon is what is looked for; leave it out, or look along max_corrupted")
        if self.along == "max_corrupted":
            if self.epsilon is None:
                problems.append("along max_corrupted needs the epsilon that each corruption may have")
            if self.max_corrupted is not None:
                problems.append("max_corrupted is what is looked for; leave it out")
            if not all(end.is_integer() for end in self.range):
                problems.append("along max_corrupted the range is of whole numbers, from 1")
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _tag_policy(value: Any) -> str:
    return "reference" if isinstance(value, Reference) or (isinstance(value, dict) and "uri" in value) else "policy"


AnyPolicy = Annotated[
    Annotated[Policy, Tag("policy")] | Annotated[Reference, Tag("reference")],
    Discriminator(_tag_policy),
]
"""A policy, or the file that holds one."""


class AuditRequest(Input):
    """One audit: model, data, objective, corruption sets, scopes, search and, if wanted, a policy.

    device: the class of device to audit on; null: the service's own. priority: 0 is served first. deadline_s: from acceptance;
    then the search stops, and what was measured until then is the report, marked as incomplete.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    model: ModelReference
    data: AuditData
    evaluate_on: DataReference | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    objective: Objective = Objective()
    sets: Annotated[tuple[CorruptionSets, ...], Field(min_length=1, max_length=64)] | None = None
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=64)] = ("model", "per_module")
    running_statistics: bool = False
    search: Search = Search()
    theory: Theory = Theory()
    breaking_points: Annotated[tuple[BreakingPointRequest, ...], Field(max_length=16)] | None = None
    precision: Precision | None = None
    bit_flips: Annotated[tuple[BitFlipRequest, ...], Field(max_length=16)] = ()
    policy: AnyPolicy | None = None
    device: Literal["cpu", "cuda"] | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    deadline_s: Annotated[float, Field(gt=0, le=30 * 86400)] | None = None
    webhook: Webhook | None = None
    fresh: bool = False
    labels: Annotated[
        dict[Annotated[str, Field(max_length=128)], Annotated[str, Field(max_length=1024)]], Field(max_length=64)
    ] = {}

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        problems = [*self._find_scope_problems(), *self._find_metric_problems()]
        cells = sum(entry.count_cells() for entry in self.sets or ())
        if cells > MAX_CELLS_PER_SCOPE:
            problems.append(f"sets make {cells} cells per scope; at most {MAX_CELLS_PER_SCOPE} are allowed")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def search_examples(self) -> int | None:
        """How many examples the search may see; None: all."""
        if self.data.max_examples is None and self.precision is not None:
            return SEARCH_EXAMPLES
        return self.data.max_examples

    def list_references(self) -> list[NamedFile]:
        """Return every file that the request names, with its field."""
        held_out = [self.evaluate_on.name_as("evaluate_on")] if self.evaluate_on is not None else []
        loss = [self.objective.program.name_as("objective/program")] if self.objective.program is not None else []
        policy = [self.policy.name_as("policy")] if isinstance(self.policy, Reference) else []
        return [self.model.name_as("model"), self.data.name_as("data"), *held_out, *loss, *policy]

    def list_limits(self) -> list[str]:
        """Return the fields that ask for limits, which need the loss of every example."""
        asked = {"/evaluate_on": self.evaluate_on, "/precision": self.precision, "/data/max_examples": self.data.max_examples}
        return [name for name, value in asked.items() if value is not None]

    def _find_scope_problems(self) -> list[str]:
        names = [scope if isinstance(scope, str) else scope.name for scope in self.scopes]
        twice = sorted({name for name in names if names.count(name) > 1})
        return [f"scopes lists {name!r} twice" for name in twice]

    def _find_metric_problems(self) -> list[str]:
        allowed, measured = METRICS_OF_LOSS[self.objective.loss], self.objective.metric_names
        problems = []
        for i, metric in enumerate(point.limit.metric for point in self.breaking_points or ()):
            if metric is not None and metric not in allowed:
                problems.append(
                    f"breaking_points[{i}].limit.metric {metric!r} cannot be computed with loss {self.objective.loss}"
                )
            elif metric is not None and metric not in measured:
                problems.append(f"breaking_points[{i}].limit.metric {metric!r} is not measured; name it in objective.metrics")
        for i, one in enumerate(self.precision.thresholds if self.precision is not None else ()):
            if one.metric is not None and one.metric not in measured:
                problems.append(f"precision.thresholds[{i}].metric {one.metric!r} is not measured; name it in objective.metrics")
        if "f1" in measured and (self.precision is not None or self.data.max_examples is not None):
            problems.append("the metric f1 is no mean over examples: leave it out, or precision and data.max_examples")
        return problems


NOT_IN_DIGEST = {"labels", "policy", "fresh", "priority", "deadline_s", "webhook"}


def echo_request(request: Input) -> dict[str, Any]:
    """Return what of the request decides the numbers, defaults filled in."""
    return request.model_dump(mode="json", exclude=NOT_IN_DIGEST)
