"""Sends spans to an OpenTelemetry collector. Importing this starts nothing; an open exporter has a thread of its own."""

from typing import Self

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from telemetry.spans import Span, add_sink, remove_sink

SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Exporter:
    """Sends spans to an OTLP/HTTP collector from a thread of its own, in batches; what it cannot send it drops."""

    def __init__(self, processor: SpanProcessor, resource: Resource) -> None:
        self._processor = processor
        self._resource = resource

    @classmethod
    def open(cls, service: str, version: str, endpoint: str) -> Self:
        """Return an exporter to `endpoint`, the collector's base address; OTEL_... variables set the rest."""
        resource = Resource.create({"service.name": service, "service.version": version})
        target = f"{endpoint.rstrip('/')}/v1/traces"
        exporter = cls(BatchSpanProcessor(OTLPSpanExporter(endpoint=target)), resource)
        add_sink(exporter)
        return exporter

    def take(self, span: Span) -> None:
        """Put the span into the next batch."""
        self._processor.on_end(_translate(span, self._resource))

    def close(self) -> None:
        """Send what is left and stop."""
        remove_sink(self)
        self._processor.shutdown()


def _translate(span: Span, resource: Resource) -> ReadableSpan:
    def place(span_id: str) -> SpanContext:
        return SpanContext(int(span.place.trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=SAMPLED)

    return ReadableSpan(
        name=span.name,
        context=place(span.place.span_id),
        parent=None if span.parent is None else place(span.parent),
        resource=resource,
        attributes=span.attributes,
        kind=SpanKind[span.kind.upper()],
        status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
        start_time=span.began_ns,
        end_time=span.ended_ns,
    )
