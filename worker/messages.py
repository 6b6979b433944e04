"""What supervisor and child say to each other: JSON lines over pipes.

The child runs a model that somebody sent, so every line from it is untrusted: bounded in size,
parsed by these classes, and rejected whole when it does not fit.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from schemas.errors import AuditError, Fault, FaultlineError, LimitError, WorkerFault
from schemas.inspection import InspectionFigures
from schemas.job import JobKind
from schemas.plan import PlannedAudit, UnsupportedFigures
from schemas.report import Measurement
from worker.phases import Phase

MAX_FAULTS = 1000
ENDINGS = (AuditError, LimitError, WorkerFault)
"""What an audit process may end with; it cannot, say, declare itself cancelled."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class JobMessage(_Message):
    """The supervisor's one line: what to do, with which files, and within which limits.

    request: of the kind's own class. Each field `..._path` names a file to read. left_s: until the search has to stop.
    """

    kind: JobKind = "audit"
    request: dict[str, Any]
    model_path: str
    data_path: str | None
    held_out_path: str | None = None
    loss_path: str | None = None
    memory_bytes: int
    file_bytes: int
    left_s: float | None = None

    def list_inputs(self) -> tuple[Path, ...]:
        """Return every file that the job may read."""
        return tuple(Path(value) for name, value in self if name.endswith("_path") and value is not None)


class ReadyMessage(_Message):
    """Everything is imported; no model was read and no accelerator touched."""

    type: Literal["ready"] = "ready"


class StartedMessage(_Message):
    """The child has confined itself and reads the model next; `layers` says how, while nobody else can speak for it."""

    type: Literal["started"] = "started"
    layers: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")], bool], Field(max_length=16)]


class ProgressMessage(_Message):
    """`done` of `total` passes over the data in `phase`."""

    type: Literal["progress"] = "progress"
    phase: Annotated[str, Field(pattern=r"^[a-z0-9 _-]{1,64}$")]
    done: Annotated[int, Field(ge=0, lt=2**53)]
    total: Annotated[int, Field(ge=0, lt=2**53)]


class PhaseMessage(_Message):
    """When one phase began and how long it took, as the child says: for traces and metrics, never for a report."""

    name: Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")]
    began_s: Annotated[float, Field(ge=0, le=1e7)]
    seconds: Annotated[float, Field(ge=0, le=1e7)]


class TimingMessage(_Message):
    """How long the job took by phases; said once, before the result or failure."""

    type: Literal["timing"] = "timing"
    phases: Annotated[tuple[PhaseMessage, ...], Field(max_length=16)]

    def list_phases(self, elapsed_s: float) -> tuple[Phase, ...]:
        """Return the phases, none longer than the time that has passed here since the job was given."""
        bounded = ((one.name, min(one.began_s, elapsed_s), one.seconds) for one in self.phases)
        return tuple(Phase(name, began_s, min(seconds, elapsed_s - began_s)) for name, began_s, seconds in bounded)


class ResultMessage(_Message):
    """All that was measured."""

    type: Literal["result"] = "result"
    measurement: Measurement


class PlanMessage(_Message):
    """All that was counted and timed."""

    type: Literal["plan"] = "plan"
    plan: PlannedAudit | UnsupportedFigures


class InspectionMessage(_Message):
    """All that was found in the file."""

    type: Literal["inspection"] = "inspection"
    inspection: InspectionFigures


class FaultMessage(_Message):
    """One fault of a failure, as in schemas.errors.Fault."""

    what: str
    where: str = ""
    expected: str = ""
    got: str = ""
    advice: str = ""


class FailureMessage(_Message):
    """The audit cannot be done; `code` names a class of the error tree."""

    type: Literal["failure"] = "failure"
    code: str
    faults: Annotated[tuple[FaultMessage, ...], Field(max_length=MAX_FAULTS)]

    def to_error(self) -> FaultlineError:
        """Return the error that the code names, or raise WorkerFault when it names none that a child may end with."""
        faults = [Fault(**fault.model_dump()) for fault in self.faults]
        for kind in _walk_subclasses(FaultlineError):
            if kind.code == self.code and issubclass(kind, ENDINGS):
                return kind(*faults)
        return refuse_output(f"the unknown failure code {self.code!r}")


Finding = Measurement | PlannedAudit | UnsupportedFigures | InspectionFigures
"""What a child finds out, by its kind of job."""
AnyResult = ResultMessage | PlanMessage | InspectionMessage
ChildMessage = ReadyMessage | StartedMessage | ProgressMessage | TimingMessage | AnyResult | FailureMessage
_CHILD_MESSAGE: TypeAdapter[ChildMessage] = TypeAdapter(Annotated[ChildMessage, Field(discriminator="type")])


def encode_line(message: BaseModel) -> bytes:
    """Return the message as one line of JSON."""
    return message.model_dump_json().encode() + b"\n"


def parse_line(line: bytes) -> ChildMessage:
    """Return the child's message.

    Raises:
        WorkerFault: when the line is none.
    """
    try:
        return _CHILD_MESSAGE.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        refuse_output(f"{first['msg']} at {where or 'the start'}")


def build_result(found: Finding) -> AnyResult:
    """Return the message that carries what was found out of the child."""
    if isinstance(found, Measurement):
        return ResultMessage(measurement=found)
    return InspectionMessage(inspection=found) if isinstance(found, InspectionFigures) else PlanMessage(plan=found)


def build_timing(phases: Iterable[Phase]) -> TimingMessage:
    """Return the message that carries the phases out of the child."""
    return TimingMessage(phases=tuple(PhaseMessage(**phase._asdict()) for phase in phases))


def take_result(message: AnyResult, kind: JobKind) -> Finding:
    """Return what a child found, or raise WorkerFault when it is not what this kind of job asks for."""
    if kind == "audit" and isinstance(message, ResultMessage):
        return message.measurement
    if kind == "plan" and isinstance(message, PlanMessage):
        return message.plan
    if kind == "inspection" and isinstance(message, InspectionMessage):
        return message.inspection
    return refuse_output(f"a {message.type} where the job is of kind {kind}")


def build_failure(error: FaultlineError) -> FailureMessage:
    """Return the message that carries `error` out of the child."""
    faults = error.faults[:MAX_FAULTS]
    return FailureMessage(code=error.code, faults=tuple(_build_fault(fault) for fault in faults))


def _build_fault(fault: Fault) -> FaultMessage:
    return FaultMessage(what=fault.what, where=fault.where, expected=fault.expected, got=fault.got, advice=fault.advice)


def refuse_output(got: str) -> NoReturn:
    """Raise WorkerFault for a child that broke the protocol."""
    raise WorkerFault(
        Fault(
            what="the audit process did something that it must not do",
            expected="progress, then one result or one failure, within the limits",
            got=got,
            advice="the model made the audit process misbehave, or Faultline has a fault: tell its operator the audit's id",
        )
    )


def _walk_subclasses(kind: type[FaultlineError]) -> Iterator[type[FaultlineError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _walk_subclasses(child)
