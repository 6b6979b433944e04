import json
import logging
from io import StringIO

import pytest

from telemetry.context import find_notes, noting
from telemetry.logs import JsonFormatter, TextFormatter, set_up_logs
from telemetry.redaction import redact

SECRETS = [
    "fl_ab12cd_s3cret-Value_9",
    "redis://user:s3cret@host:6379/0",
    "redis://:s3cret@host/0",
    "https://u:s3cret@host/file",
    "https://bucket.example/model.onnx?X-Amz-Signature=s3cret&X-Amz-Date=1",
    "s3://bucket/model?versionId=s3cret",
    "'Authorization': 'Bearer s3cret.abc=='",
    "url('https://host/p?sig=s3cret')",
    "X-Amz-Security-Token=s3cret",
    "https://a:s3cret@h/x then redis://b:s3cret@h and fl_k_s3cret",
]


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_taken_out_and_the_rest_stays(text: str) -> None:
    found = redact(f"before {text} after")
    assert "s3cret" not in found
    assert "***" in found
    assert found.startswith("before ")
    assert found.endswith(" after")


@pytest.mark.parametrize("text", ["job 0644c8 attempt 1 succeeded", "https://host/v1/audits", "fl_only", "a?b=c", "sigma=3"])
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert redact(text) == text


def write(formatter: logging.Formatter, message: str, *, error: Exception | None = None, **extra: object) -> str:
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.getLogger("faultline.test")
    logger.setLevel(logging.DEBUG)  # whatever another test's program made of the level of all
    logger.addHandler(handler)
    logger.warning(message, exc_info=error, extra=extra)
    logger.removeHandler(handler)
    return stream.getvalue()


def test_a_json_line_says_what_it_is_about() -> None:
    with noting(request_id="r1", trace_id="4bf9", job_id="j1", attempt=2):
        line = write(JsonFormatter(), "two\nlines of redis://:s3cret@h", outcome="succeeded", seconds=1.5)
    entry = json.loads(line)
    assert line.count("\n") == 1
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "WARNING",
        "logger": "faultline.test",
        "message": "two\nlines of redis://***@h",
        "request_id": "r1",
        "trace_id": "4bf9",
        "job_id": "j1",
        "attempt": 2,
        "outcome": "succeeded",
        "seconds": 1.5,
    }


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_an_exception_is_logged_without_its_secrets(formatter: logging.Formatter) -> None:
    try:
        message = "cannot fetch https://u:s3cret@host/x?sig=s3cret"
        raise ValueError(message)
    except ValueError as error:
        line = write(formatter, "failed", error=error)
    assert "ValueError" in line
    assert "s3cret" not in line


def test_a_text_line_has_no_control_characters_and_ends_with_what_it_is_about() -> None:
    with noting(job_id="j1"):
        line = write(TextFormatter(), "one \x1b[31mred\r\0")
    assert line.endswith("WARNING faultline.test one \\x1b[31mred\\r\\0 [job_id=j1]\n")


def test_notes_end_with_their_block() -> None:
    with noting(job_id="a"):
        with noting(job_id="b", attempt=None):
            assert dict(find_notes()) == {"job_id": "b"}
        assert dict(find_notes()) == {"job_id": "a"}
    assert dict(find_notes()) == {}


def test_setting_up_replaces_what_was_there() -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        set_up_logs("WARNING", "json")
        (handler,) = root.handlers
        assert isinstance(handler.formatter, JsonFormatter)
        assert root.level == logging.WARNING
    finally:
        root.handlers[:] = before
        root.setLevel(level)
