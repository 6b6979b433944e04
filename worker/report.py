"""The report: what the child measured plus what the supervisor knows for itself."""

from collections.abc import Mapping

from schemas.base import SCHEMA_VERSION
from schemas.report import Counterexample, DataSubject, EngineSubject, Figures, Measurement, ModelSubject, Report, Subject
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
        subject=Subject(
            model=ModelSubject(
                sha256=request.model.uri.rpartition(":")[2],
                format=measurement.format,
                producer=measurement.producer,
                opset=measurement.opset,
                weights=measurement.coverage.weights_total,
                size_bytes=model_size_bytes,
            ),
            data=DataSubject(
                sha256=request.data.uri.rpartition(":")[2],
                examples=measurement.examples,
                labels_counted=measurement.labels_counted,
                sampled=False,
            ),
            evaluate_on=_describe_held_out(request, measurement),
            request_digest=request_digest,
            engine=EngineSubject(version=ENGINE_VERSION),
        ),
        request=echo_request(request),
        counterexamples=tuple(
            Counterexample(finding=finding, artifact=f"sha256:{digest}")
            for finding, digest in sorted(counterexample_digests.items())
        ),
        **{name: getattr(measurement, name) for name in Figures.model_fields},
    )


def _describe_held_out(request: AuditRequest, measurement: Measurement) -> DataSubject | None:
    if request.evaluate_on is None or measurement.held_out_examples is None:
        return None
    return DataSubject(
        sha256=request.evaluate_on.uri.rpartition(":")[2],
        examples=measurement.held_out_examples,
        labels_counted=measurement.held_out_labels or 0,
        sampled=False,
    )
