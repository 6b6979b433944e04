"""Inspection: what is inside a model file. The worker's child sends InspectionFigures, the supervisor adds the subject."""

from typing import Literal

from schemas.base import SCHEMA_VERSION, Input, Output
from schemas.data import DataReference
from schemas.problem import ProblemItem
from schemas.references import NamedFile
from schemas.report import ModelFormat
from schemas.request import ModelReference

Example = Literal["made_up", "data"]
Role = Literal["weight", "integer", "running_statistic", "not_a_weight"]


class InspectionRequest(Input):
    """What `POST /v1/models:inspect` takes. data: examples for the comparison with the runtime; without it some are made up."""

    schema_version: Literal[1] = SCHEMA_VERSION
    model: ModelReference
    data: DataReference | None = None
    fresh: bool = False

    @property
    def labels(self) -> dict[str, str]:
        """No labels: an inspection is not listed."""
        return {}

    def list_references(self) -> list[NamedFile]:
        """Return every file that the request names, with its field."""
        return [self.model.name_as("model"), *([self.data.name_as("data")] if self.data is not None else [])]


class InspectedFile(Output):
    """The file that was inspected."""

    sha256: str
    size_bytes: int


class InspectedValue(Output):
    """An input or output; null: the file does not say, an axis of any size. Outputs are as an example gave them."""

    name: str
    dtype: str | None
    shape: tuple[int | None, ...] | None
    optional: bool


class InspectedTensor(Output):
    """A stored tensor. role: weight, or why it is none. stored: the type of its numbers in the file. depth: from 0 to 1."""

    name: str
    role: Role
    module: str | None
    component: str | None
    depth: float | None
    stored: str | None
    shape: tuple[int, ...] | None
    elements: int


class InspectedModule(Output):
    """Weights of one module. component: what they are, biases aside, where they are of one type."""

    name: str
    tensors: int
    weights: int
    component: str | None
    depth: float | None


class InspectedComponent(Output):
    """Weights of one type, over the whole model."""

    component: str
    tensors: int
    weights: int


class InspectedOperator(Output):
    """How often an operator stands in the model, in all graphs and with local functions written out."""

    operator: str
    count: int


class MissingOperator(Output):
    """An operator that is not supported: in how many nodes it stands, and the names of the first of them."""

    operator: str
    domain: str
    count: int
    nodes: tuple[str, ...]


class InspectedCoverage(Output):
    """supported: weights that lead to an output through operators that are all supported."""

    weights_total: int
    weights_supported: int
    tensors_total: int
    tensors_supported: int


class InspectedParity(Output):
    """Our outputs beside those of the runtime that the model is deployed in: the largest |difference| / (1 + |value|).

    example: whether the inputs were made up or came from data. reason: why nothing was compared.
    """

    difference: float | None
    examples: int
    example: Example | None
    reason: str | None


class ScanEntry(Output):
    """Something that the scan of the file counted, before anything of it was loaded."""

    what: str
    found: str


class InspectionFigures(Output):
    """What the child found. unsupported, refusals: why the model cannot be audited as it is; both empty when it can.

    missing: the operators of `unsupported`, as names and counts.
    """

    format: ModelFormat
    producer: str
    opsets: dict[str, int]
    inputs: tuple[InspectedValue, ...]
    outputs: tuple[InspectedValue, ...]
    coverage: InspectedCoverage
    components: tuple[InspectedComponent, ...]
    modules: tuple[InspectedModule, ...]
    tensors: tuple[InspectedTensor, ...]
    operators: tuple[InspectedOperator, ...]
    parity: InspectedParity
    scan: tuple[ScanEntry, ...]
    missing: tuple[MissingOperator, ...]
    unsupported: tuple[ProblemItem, ...]
    refusals: tuple[ProblemItem, ...]


class Inspection(InspectionFigures):
    """The published inspection."""

    schema_version: Literal[1]
    file: InspectedFile
