"""Log lines on standard error, as text or as one JSON object each; secrets are taken out of both."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final, Literal

from telemetry.context import find_notes
from telemetry.redaction import redact

LogFormat = Literal["text", "json"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

_BREAKS: Final = str.maketrans({"\r": "\\r", "\x1b": "\\x1b", "\0": "\\0", "\u2028": "\\u2028", "\u2029": "\\u2029"})
FIELDS: Final = ("outcome", "seconds", "engine_s", "code", "route", "method", "status", "incident")
"""What a line may carry beside its message; `extra` of other names is not shown."""


class TextFormatter(logging.Formatter):
    """A line for a person, with what it is about at the end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        notes = " ".join(f"{name}={value}" for name, value in find_notes().items())
        text = redact(super().format(record)).translate(_BREAKS)
        return f"{text} [{notes}]" if notes else text


class JsonFormatter(logging.Formatter):
    """One JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
            **find_notes(),
        }
        entry |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            entry["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=True, default=str)


def set_up_logs(level: LogLevel, form: LogFormat) -> None:
    """Send what this process logs to standard error; what was set up before is replaced."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Theirs are about every request or every reconnection.
    for chatty in ("urllib3", "httpcore2", "httpx2", "kombu", "amqp", "opentelemetry"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
