"""The worker's settings, as the environment gives them and as the operator's page tells them."""

import re

import pytest
from pydantic.fields import FieldInfo

from schemas.errors import InvalidRequest
from tests.project.tree import ROOT
from worker.settings import WorkerSettings, load_settings

PAGES = ("docs/operations.md", "docs/fetching.md", "docs/webhooks.md")
WRONG = {
    "REDIS_URL": "amqp://example.org",
    "FAULTLINE_DEVICE": "tpu",
    "FAULTLINE_THREADS": "many",
    "FAULTLINE_LEASE_S": "nan",
    "FAULTLINE_JOB_TIMEOUT_S": "0",
    "FAULTLINE_JOB_OUTPUT_BYTES": "1",
    "FAULTLINE_DRAIN_S": "-1",
}


def test_every_wrong_variable_is_named_with_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WRONG.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidRequest) as raised:
        load_settings()
    assert {fault.where: fault.got for fault in raised.value.faults} == WRONG


def test_a_misspelt_variable_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1")
    monkeypatch.setenv("FAULTLINE_SANDBX", "required")
    with pytest.raises(InvalidRequest) as raised:
        load_settings()
    assert [(fault.got, fault.expected) for fault in raised.value.faults] == [("FAULTLINE_SANDBX", "FAULTLINE_SANDBOX")]


def test_a_missing_store_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(InvalidRequest) as raised:
        load_settings()
    assert [(fault.where, fault.got) for fault in raised.value.faults] == [("REDIS_URL", "nothing")]


def test_the_operators_page_lists_every_variable_with_its_default() -> None:
    text = "".join((ROOT / page).read_text() for page in PAGES)
    told = dict(re.findall(r"^\| `([A-Z0-9_]+)` \| `?([^`|]*?)`? ?\|", text, re.MULTILINE))
    assert told.pop("REDIS_URL") == "required"
    expected = {show_name(name, field): show_default(field.default) for name, field in WorkerSettings.model_fields.items()}
    assert {name: value.removesuffix(".0") for name, value in told.items()} == {
        name: value.removesuffix(".0") for name, value in expected.items() if name != "REDIS_URL"
    }


def show_name(name: str, field: FieldInfo) -> str:
    return str(field.validation_alias or f"FAULTLINE_{name.upper()}")


def show_default(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def test_the_queue_is_named_after_the_device_and_beats_fit_into_the_lease() -> None:
    settings = WorkerSettings(redis_url="redis://example.org", device="cuda", lease_s=0.9)
    assert settings.queue == "faultline.cuda"
    assert settings.beat_s * 3 <= 0.9
