"""How a key is shown, what else is tried, and who gets in where no key is asked for."""

import asyncio
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from starlette.datastructures import Headers

from schemas.errors import Forbidden
from service.app import create_app
from service.browsers import check_host, check_origin
from service.settings import Settings
from tests.service.keyed import Keyring, running_keyed
from tests.service.problems import read_problem
from tests.service.running import running_app

HIDDEN = "***"


@pytest.fixture(scope="module")
def keyed(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    with running_keyed(f"{redis_url}?db=2", tmp_path_factory.mktemp("data")) as url, httpx2.Client(base_url=url) as http:
        yield http


@pytest.fixture(scope="module")
def key(redis_url: str) -> str:
    return Keyring(f"{redis_url}?db=2").make("identity", "read")


def test_the_scheme_is_bearer_in_any_letters(keyed: httpx2.Client, key: str) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert keyed.get("/v1/audits", headers={"authorization": f"{scheme} {key}"}).status_code == 200


@pytest.mark.parametrize(
    "header",
    ["{}", "Basic {}", "Bearer  {}", "Bearer\t{}", "Bearer {},{}", "Token {}", "Bearer", "Bearer x{}"],
)
def test_nothing_else_is_a_key(keyed: httpx2.Client, key: str, header: str) -> None:
    response = keyed.get("/v1/audits", headers={"authorization": header.replace("{}", key)})
    read_problem(response, 401)


def test_two_headers_are_none(keyed: httpx2.Client, key: str) -> None:
    for others in (key, "x"):
        headers = [("authorization", f"Bearer {key}"), ("authorization", f"Bearer {others}")]
        assert read_problem(keyed.get("/v1/audits", headers=headers), 401).errors[0].got == "2 headers"


@pytest.mark.parametrize("size", [201, 5_000, 60_000])
def test_a_very_long_key_is_no_key(keyed: httpx2.Client, size: int) -> None:
    assert keyed.get("/v1/audits", headers={"authorization": f"Bearer fl_{'0' * size}"}).status_code in {400, 401, 431}


@pytest.mark.parametrize("value", [b"Bearer \xff\xfe", "Bearer fl_ключ".encode(), "Bearer fl_\u0130".encode()])
def test_bytes_beyond_ascii_are_no_key(keyed: httpx2.Client, value: bytes) -> None:
    response = keyed.get("/v1/audits", headers=[(b"authorization", value)])
    assert response.status_code in {400, 401}


def test_a_key_in_the_address_opens_nothing_and_is_not_told_again(keyed: httpx2.Client, key: str) -> None:
    secret = key.rpartition("_")[2]
    for path in (f"/v1/audits?key={key}", f"/v1/audits?access_token={key}", f"/v1/audits/{key}", f"/{key}", f"/v1/{key}"):
        response = keyed.get(path)
        assert response.status_code in {401, 404}
        assert secret not in response.text
    told = keyed.get(f"/v1/audits/{key}", headers={"authorization": f"Bearer {key}"})
    assert HIDDEN in read_problem(told, 404).errors[0].got
    assert secret not in told.text


def test_who_knows_the_secret_is_told_that_the_key_has_ended(keyed: httpx2.Client, redis_url: str) -> None:
    keyring = Keyring(f"{redis_url}?db=2")
    for key, word in ((keyring.make_expired(), "expired"), (keyring.make_revoked(), "revoked")):
        problem = read_problem(keyed.get("/v1/audits", headers={"authorization": f"Bearer {key}"}), 401)
        assert word in problem.detail
        forged = read_problem(keyed.get("/v1/audits", headers={"authorization": f"Bearer {key[:-2]}zz"}), 401)
        assert forged.detail == "the key is not known"


@pytest.mark.parametrize("host", ["127.0.0.1:80", "127.0.0.1", "localhost:8321", "LOCALHOST", "[::1]:8321", "127.1.2.3"])
def test_this_machine_has_these_names(host: str) -> None:
    check_host(Headers({"host": host}))


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8321", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", "10.0.0.1", "[::]"),
        *("", "127.0.0.1@evil.example", "evil.example#127.0.0.1", "[::1", "localhost.", "2130706433", "0x7f.1"),
    ],
)
def test_other_names_do_not_lead_here(http: httpx2.Client, host: str) -> None:
    with pytest.raises(Forbidden):
        check_host(Headers({"host": host}))
    if host and host != "[::1":
        assert read_problem(http.get("/v1/audits", headers={"host": host}), 403).errors[0].where == "header: Host"


def test_two_host_headers_lead_nowhere() -> None:
    with pytest.raises(Forbidden):
        check_host(Headers(raw=[(b"host", b"localhost"), (b"host", b"evil.example")]))


@pytest.mark.parametrize(
    "value", ["http://evil.example", "null", "http://localhost:1", "file://", "https://127.0.0.1.evil.example"]
)
def test_a_page_of_another_site_changes_nothing(http: httpx2.Client, value: str) -> None:
    read_problem(http.post("/v1/audits", headers={"origin": value, "content-type": "text/plain"}, content=b"{}"), 403)
    with pytest.raises(Forbidden):
        check_origin(Headers({"host": "127.0.0.1:80", "origin": value}))


@pytest.mark.parametrize("value", ["cross-site", "same-site", "CROSS-SITE", ""])
def test_a_picture_of_another_site_asks_nothing(http: httpx2.Client, value: str) -> None:
    problem = read_problem(http.get("/v1/audits", headers={"sec-fetch-site": value}), 403)
    assert problem.errors[0].where == "header: Sec-Fetch-Site"


def test_the_services_own_page_may_call(http: httpx2.Client, url: str) -> None:
    headers = {"origin": url, "sec-fetch-site": "same-origin"}
    assert http.get("/v1/audits", headers=headers).status_code == 200
    assert http.get("/v1/audits", headers={"sec-fetch-site": "none"}).status_code == 200


@pytest.mark.parametrize(
    ("auth", "host", "is_keyless"),
    [
        ("auto", "127.0.0.1", True),
        ("auto", "::1", True),
        ("auto", "localhost", True),
        ("auto", "0.0.0.0", False),
        ("auto", "::", False),
        ("auto", "example.org", False),
        ("auto", "", False),
        ("required", "127.0.0.1", False),
        ("off", "0.0.0.0", True),
    ],
)
def test_who_is_asked_for_a_key(redis_url: str, tmp_path: Path, auth: str, host: str, is_keyless: bool) -> None:
    settings = Settings.model_validate({"redis_url": redis_url, "data_dir": tmp_path, "auth": auth, "host": host})
    assert settings.is_keyless == is_keyless


def test_off_asks_neither_for_a_key_nor_for_a_host_but_keeps_other_sites_out(redis_url: str, tmp_path: Path) -> None:
    with running_app(Settings(redis_url=redis_url, data_dir=tmp_path, auth="off")) as url:
        assert httpx2.get(f"{url}/v1/audits", headers={"host": "faultline.example"}).status_code == 200
        assert httpx2.get(f"{url}/v1/audits", headers={"sec-fetch-site": "cross-site"}).status_code == 403


def test_without_keys_a_connection_on_another_address_is_refused(redis_url: str, tmp_path: Path, store: redis.Redis) -> None:
    settings = Settings(redis_url=redis_url, data_dir=tmp_path)
    assert settings.is_keyless
    status = asyncio.run(_ask(settings, ("10.0.0.5", 8321)))
    assert status == 403
    assert asyncio.run(_ask(settings, ("127.0.0.1", 8321))) == 200


async def _ask(settings: Settings, local_address: tuple[str, int]) -> int:
    """Call the app as a server does whose connection came in on this address."""
    app = create_app(settings)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/audits",
        "raw_path": b"/v1/audits",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8321")],
        "server": local_address,
        "client": ("127.0.0.1", 1),
        "scheme": "http",
        "http_version": "1.1",
    }
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async with app.router.lifespan_context(app):
        await app(scope, receive, send)
    return int(sent[0]["status"])
