"""The settings that every process of ours has alike."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings

from telemetry.logs import LogFormat, LogLevel


class TelemetrySettings(BaseSettings):
    """Base of a process's one settings class: what it tells of itself, and to whom."""

    log_level: LogLevel = Field(default="INFO", description="lines on stderr: `DEBUG`, `INFO`, `WARNING` or `ERROR`")
    log_format: LogFormat = Field(default="text", description="`text`, or `json`: one object a line")
    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = Field(
        default=None,
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="base address of an OpenTelemetry collector (OTLP over HTTP); without it no span leaves",
    )
