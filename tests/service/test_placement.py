from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from schemas.errors import InvalidRequest
from schemas.inspection import InspectionRequest
from schemas.request import AuditRequest
from service.placement import place
from service.settings import Settings, TenantLimits
from storage.placement import Placement
from tests.service import documents
from tests.service.conftest import Worker
from tests.service.problems import read_problem

Submit = Callable[..., dict[str, Any]]


def make_settings(tmp_path: Path, **fields: Any) -> Settings:
    return Settings(redis_url="redis://127.0.0.1", data_dir=tmp_path, **fields)


def make_request(**fields: Any) -> AuditRequest:
    return AuditRequest.model_validate(documents.build_request(**fields))


def test_a_request_that_names_nothing_is_placed_by_the_settings(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, device="cuda", max_running=4)
    assert place(make_request(), "a", settings) == Placement("cuda", 5, 4, None)
    inspection = InspectionRequest.model_validate({"model": {"uri": documents.MODEL_URI}})
    assert place(inspection, "a", settings) == Placement("cuda", 5, 4, None)


def test_a_tenants_own_limits_replace_those_for_all(tmp_path: Path) -> None:
    own = {"acme": TenantLimits(highest_priority=3, max_running=1)}
    settings = make_settings(tmp_path, devices=("cuda",), max_running=4, tenants=own)
    asked = make_request(device="cuda", priority=3, deadline_s=60)
    assert place(asked, "acme", settings) == Placement("cuda", 3, 1, 60.0)
    assert place(make_request(priority=0), "other", settings) == Placement("cpu", 0, 4, None)


def test_everything_that_may_not_be_asked_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        place(make_request(device="cuda", priority=1), "a", make_settings(tmp_path, highest_priority=2))
    assert [(fault.where, fault.expected, fault.got) for fault in caught.value.faults] == [
        ("/device", "cpu", "cuda"),
        ("/priority", "2 to 9", "1"),
    ]


def test_limits_come_from_the_environment_and_wrong_ones_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1")
    monkeypatch.setenv("FAULTLINE_TENANTS", '{"acme": {"max_running": 2}}')
    monkeypatch.setenv("FAULTLINE_DEVICES", '["cuda"]')
    settings = Settings()
    assert settings.find_limits("acme").max_running == 2
    assert settings.devices == ("cuda",)
    monkeypatch.setenv("FAULTLINE_TENANTS", '{"acme": {"max_runing": 2}}')
    with pytest.raises(ValueError, match="max_runing"):
        Settings()


def test_the_job_shows_where_it_waits_and_workers_get_it_in_order(submit: Submit, worker: Worker) -> None:
    last, first = submit(priority=9, deadline_s=3600), submit(priority=0, search={"seed": 1})
    assert (last["device"], last["priority"], first["priority"], first["deadline_at"]) == ("cpu", 9, 0, None)
    assert last["deadline_at"] > last["created_at"]
    claims = [worker.leases.claim("", "test", "cpu") for _ in range(2)]
    assert [claim.id for claim in claims if claim] == [first["id"], last["id"]]


def test_a_class_of_device_that_nobody_has_is_refused(http: httpx2.Client, submit: Submit, store: redis.Redis) -> None:
    submit()
    response = http.post("/v1/audits", json=documents.build_request(device="cuda"))
    assert [item.where for item in read_problem(response, 422).errors] == ["/device"]
    assert store.zcard("faultline:pending") == 1


def test_priority_and_deadline_do_not_make_another_audit_and_the_device_does(submit: Submit, worker: Worker) -> None:
    one = submit(priority=1, deadline_s=10)
    worker.succeed(one["id"])
    assert submit(priority=9)["state"] == "succeeded"
    assert submit(device="cpu")["state"] == "queued"
