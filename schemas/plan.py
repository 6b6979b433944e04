"""Plan: what an audit would cost, before it is paid for. Nothing is searched for it; passes are counted, one batch is timed.

The worker's child sends a PlanFigures; the supervisor adds what it knows for itself, which makes the Plan.
"""

from typing import Any, Literal

from pydantic import RootModel

from schemas.base import Output
from schemas.inspection import InspectedCoverage, InspectedFile, MissingOperator
from schemas.problem import ProblemItem
from schemas.report import Coverage, Flag, ModelFormat, Passes, Subject

PlannedWork = Literal[
    "gradient",
    "labels",
    "breaking_points",
    "search",
    "random_trials",
    "upper_bounds",
    "smoothness",
    "bit_flips",
    "random_flips",
    "held_out",
    "sampled",
]


class PlannedScopes(Output):
    """The scopes of one kind: how many there are, over how many weights, and the cells that the sets make in them."""

    kind: Literal["model", "per_module", "per_tensor", "per_component", "per_depth", "named"]
    scopes: int
    weights: int
    cells: int


class PlannedPart(Output):
    """One part of the work. scope: where, by kind or name. passes: at most, over `examples` examples. seconds: expected."""

    work: PlannedWork
    scope: str
    count: int
    passes: Passes
    examples: int
    seconds: float


class PlannedMemory(Output):
    """Bytes beyond the libraries' own.

    activations: of one example, forward, in the interpreter. kept: clean activations that scopes share. search: corruptions
    that are held at once, and those that cells leave to larger ones.
    """

    weights_bytes: int
    gradient_bytes: int
    activations_bytes: int
    micro_batch: int
    kept_bytes: int
    search_bytes: int
    total_bytes: int


class PlannedSeconds(Output):
    """forward, step: of one micro-batch through the whole model, as timed; a step has a forward and a backward pass.

    total: what is expected on this kind of machine. at_most: if no search converges and no limit is crossed early.
    """

    forward: float
    step: float
    total: float
    at_most: float


class PlanFigures(Output):
    """What was counted and timed; the same in the child's result and in the published Plan."""

    supported: Literal[True]
    coverage: Coverage
    scopes: tuple[PlannedScopes, ...]
    cells: int
    passes: Passes
    parts: tuple[PlannedPart, ...]
    memory: PlannedMemory
    seconds: PlannedSeconds
    parity: float
    flags: tuple[Flag, ...]


class PlannedAudit(PlanFigures):
    """All that the child found out."""

    format: ModelFormat
    producer: str
    opset: int | None
    examples: int
    labels_counted: int
    search_examples: int | None
    held_out_examples: int | None
    held_out_labels: int | None


class Plan(PlanFigures):
    """The published plan of an audit that can be done."""

    schema_version: Literal[1]
    subject: Subject
    request: dict[str, Any]


class UnsupportedFigures(Output):
    """What was found of a model with operators outside the tables; the same in the child's result and in the published answer.

    coverage: null where nothing of the model could be read without them. faults: everything that is in the way of the audit.
    """

    supported: Literal[False]
    operators: tuple[MissingOperator, ...]
    coverage: InspectedCoverage | None
    faults: tuple[ProblemItem, ...]


class UnsupportedPlan(UnsupportedFigures):
    """What a plan says of a model that cannot be audited as it is: what is missing, and how much of it could be audited."""

    schema_version: Literal[1]
    file: InspectedFile
    request: dict[str, Any]


class PlanAnswer(RootModel[Plan | UnsupportedPlan]):
    """What the call for a plan answers; `supported` tells which."""
