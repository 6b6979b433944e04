"""Reports, plans and inspections: what the child found plus what the supervisor knows for itself."""

from collections.abc import Mapping

from schemas.base import SCHEMA_VERSION
from schemas.inspection import InspectedFile, Inspection, InspectionFigures
from schemas.plan import Plan, PlanFigures, PlannedAudit, UnsupportedFigures, UnsupportedPlan
from schemas.report import (
    Counterexample,
    DataSubject,
    EngineSubject,
    Figures,
    LossSubject,
    Measurement,
    ModelSubject,
    Report,
    Subject,
)
from schemas.request import AuditRequest, echo_request
from schemas.version import ENGINE_VERSION


def assemble_report(
    request: AuditRequest,
    request_digest: str,
    measurement: Measurement,
    model_size_bytes: int,
    counterexample_digests: Mapping[str, str],
) -> Report:
    """Return the report; `counterexample_digests` maps finding ids to sha-256 digests that the supervisor computed."""
    return Report(
        schema_version=SCHEMA_VERSION,
        subject=_build_subject(request, request_digest, measurement, measurement.coverage.weights_total, model_size_bytes),
        request=echo_request(request),
        counterexamples=tuple(
            Counterexample(finding=finding, artifact=f"sha256:{digest}")
            for finding, digest in sorted(counterexample_digests.items())
        ),
        **{name: getattr(measurement, name) for name in Figures.model_fields},
    )


def assemble_plan(request: AuditRequest, request_digest: str, planned: PlannedAudit, model_size_bytes: int) -> Plan:
    """Return the plan of an audit."""
    return Plan(
        schema_version=SCHEMA_VERSION,
        subject=_build_subject(request, request_digest, planned, planned.coverage.weights_total, model_size_bytes),
        request=echo_request(request),
        **{name: getattr(planned, name) for name in PlanFigures.model_fields},
    )


def assemble_unsupported(request: AuditRequest, found: UnsupportedFigures, model_size_bytes: int) -> UnsupportedPlan:
    """Return what a plan says of a model that cannot be audited as it is."""
    return UnsupportedPlan(
        schema_version=SCHEMA_VERSION,
        file=InspectedFile(sha256=read_digest(request.model.uri), size_bytes=model_size_bytes),
        request=echo_request(request),
        **{name: getattr(found, name) for name in UnsupportedFigures.model_fields},
    )


def assemble_inspection(model_uri: str, found: InspectionFigures, model_size_bytes: int) -> Inspection:
    """Return the inspection of a model."""
    return Inspection(
        schema_version=SCHEMA_VERSION,
        file=InspectedFile(sha256=read_digest(model_uri), size_bytes=model_size_bytes),
        **{name: getattr(found, name) for name in InspectionFigures.model_fields},
    )


def read_digest(uri: str) -> str:
    """Return the sha-256 that an artifact is named by."""
    return uri.rpartition(":")[2]


def _build_subject(
    request: AuditRequest, request_digest: str, found: Measurement | PlannedAudit, weights: int, size_bytes: int
) -> Subject:
    held_out, loss = None, request.objective.program
    if request.evaluate_on is not None and found.held_out_examples is not None:
        held_out = DataSubject(
            sha256=read_digest(request.evaluate_on.uri),
            examples=found.held_out_examples,
            labels_counted=found.held_out_labels or 0,
            sampled=False,
        )
    return Subject(
        model=ModelSubject(
            sha256=read_digest(request.model.uri),
            format=found.format,
            producer=found.producer,
            opset=found.opset,
            weights=weights,
            size_bytes=size_bytes,
        ),
        data=DataSubject(
            sha256=read_digest(request.data.uri),
            examples=found.examples,
            labels_counted=found.labels_counted,
            sampled=found.search_examples is not None,
            search_examples=found.search_examples,
        ),
        evaluate_on=held_out,
        objective=None if loss is None else LossSubject(sha256=read_digest(loss.uri)),
        request_digest=request_digest,
        engine=EngineSubject(version=ENGINE_VERSION),
    )
