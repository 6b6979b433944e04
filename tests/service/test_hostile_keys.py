"""What an attacker does with keys: headers that two parsers read in two ways, secrets where they could be kept, a stopwatch."""

import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import redis

from schemas.base import compute_sha256
from storage.connection import connect
from tests.service import documents
from tests.service.keyed import Keyring, read_id, running_keyed
from tests.service.running import running_process

AUDITS = "GET /v1/audits HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"


@pytest.fixture(scope="module")
def own_url(redis_url: str) -> str:
    return f"{redis_url}?db=6"


@pytest.fixture(scope="module")
def address(own_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    with running_keyed(own_url, tmp_path_factory.mktemp("data")) as url:
        yield "127.0.0.1", int(url.rpartition(":")[2])


@pytest.fixture(scope="module")
def key(own_url: str) -> str:
    return Keyring(own_url).make("hostile", "read")


def ask(address: tuple[str, int], text: str) -> list[int]:
    """Send these bytes and return the statuses that come back; none when the connection is closed without an answer."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(text.encode("latin-1"))
        answer = b""
        try:
            while block := connection.recv(65536):
                answer += block
        except ConnectionResetError:
            pass
    return [int(line.split()[1]) for line in answer.decode("latin-1").splitlines() if line.startswith("HTTP/1.1 ")]


def test_the_plain_form_is_let_in(address: tuple[str, int], key: str) -> None:
    assert ask(address, f"{AUDITS}authorization: Bearer {key}\r\n\r\n") == [200]
    assert ask(address, f"{AUDITS}AUTHORIZATION:Bearer {key}\r\n\r\n") == [200]


@pytest.mark.parametrize(
    "headers",
    [
        "authorization: Bearer {key}\r\nAuthorization: Bearer {key}\r\n",
        "authorization: x\r\nauthorization: Bearer {key}\r\n",
        "authorization: Bearer\r\n {key}\r\n",
        "authorization: Bearer {key}\x00\r\n",
        "authorization: Bearer {key}, Bearer {key}\r\n",
        "authorization : Bearer {key}\r\n",
        "authorization\x00: Bearer {key}\r\n",
        "proxy-authorization: Bearer {key}\r\n",
        "x-forwarded-authorization: Bearer {key}\r\n",
        "cookie: authorization=Bearer {key}\r\n",
        "x-original-url: /healthz\r\nx-http-method-override: OPTIONS\r\n",
        "authorization: Bearer {key}" + "0" * 70_000 + "\r\n",
        "authorization: Bearer {key}\xa0\r\n",
    ],
)
def test_no_other_form_is_let_in(address: tuple[str, int], key: str, headers: str) -> None:
    assert set(ask(address, f"{AUDITS}{headers.format(key=key)}\r\n")) <= {400, 401, 431}


@pytest.mark.parametrize("path", ["/v1/audits/", "//v1/audits", "/V1/audits", "/v1/./audits", "/v1/x/../audits", "/v1%2Faudits"])
def test_no_other_spelling_of_a_path_goes_around_the_keys(address: tuple[str, int], path: str) -> None:
    answers = ask(address, AUDITS.replace("/v1/audits", path) + "\r\n")
    assert set(answers) <= {400, 401, 404}


def test_a_second_call_hidden_in_a_body_is_never_let_in(address: tuple[str, int], key: str) -> None:
    hidden = "GET /v1/audits HTTP/1.1\r\nhost: x\r\n\r\n"
    both = f"content-length: {len(hidden)}\r\ntransfer-encoding: chunked\r\n"
    for framing in (both, "content-length: 0\r\ncontent-length: 5\r\n"):
        text = f"POST /v1/verdicts HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n{framing}\r\n0\r\n\r\n{hidden}"
        assert 200 not in ask(address, text)


def count_commands(client: redis.Redis) -> Counter[str]:
    told = client.info("commandstats")
    return Counter({name: int(one["calls"]) for name, one in told.items() if name not in {"cmdstat_info", "cmdstat_ping"}})


def test_the_same_is_done_for_ids_that_exist_and_ids_that_do_not(address: tuple[str, int], key: str, own_url: str) -> None:
    presented = {
        "known id": f"{key[:-4]}{'0000' if key[-4:] != '0000' else '1111'}",
        "unknown id": f"fl_{'v' * 16}_{'0' * 64}",
        "no key at all": "letmein",
    }
    done = {}
    with connect(own_url) as client:
        for name, one in presented.items():
            before = count_commands(client)
            assert ask(address, f"{AUDITS}authorization: Bearer {one}\r\n\r\n") == [401]
            done[name] = count_commands(client) - before
    assert done["known id"] == done["unknown id"] == done["no key at all"]
    assert done["known id"]["cmdstat_evalsha"] == 1


def test_no_log_of_the_process_holds_a_secret(own_url: str, tmp_path: Path) -> None:
    keyring = Keyring(own_url)
    key = keyring.make("logged", "admin")
    secret = key.rpartition("_")[2]
    settings = {"FAULTLINE_AUTH": "required", "FAULTLINE_LOG_LEVEL": "DEBUG"}
    with running_process(own_url, tmp_path, **settings) as (process, url), httpx2.Client(base_url=url, timeout=30) as http:
        shown = {"authorization": f"Bearer {key}"}
        for content in (documents.MODEL, documents.DATA):
            http.put(f"/v1/artifacts/{compute_sha256(content)}", content=content, headers=shown)
        for method in ("GET", "POST", "PUT", "DELETE"):
            for path in (f"/v1/audits/{key}", f"/v1/audits?key={key}", f"/{key}", f"/v1/keys/{key}", f"/v1/keys/{key}/rotate"):
                http.request(method, path, headers=shown, json={"label": key, key: key})
                http.request(method, path, headers={**shown, "x-request-id": key, "traceparent": key, "idempotency-key": key})
        made = http.post("/v1/keys", json={"label": "made", "scopes": ["read"]}, headers=shown).json()["key"]
        trail = http.get("/v1/audit-log?limit=100", headers=shown)
        metrics = http.get("/metrics", headers=shown)
        process.terminate()
        _, log = process.communicate(timeout=30)
    assert trail.status_code == metrics.status_code == 200
    assert "faultline.trail" in log
    for text in (log, trail.text, metrics.text):
        assert secret not in text
        assert made.rpartition("_")[2] not in text
    assert len(json.loads(trail.text)["items"]) > 5


def test_a_client_address_that_a_proxy_made_up_is_noted_short_and_harmless(address: tuple[str, int], own_url: str) -> None:
    keyring = Keyring(own_url)
    admin = keyring.make("proxied", "admin")
    forged = "x-forwarded-for: " + "\\x1b[31m" * 30 + admin
    head = f"host: 127.0.0.1\r\nconnection: close\r\nauthorization: Bearer {admin}\r\n"
    assert ask(address, f"DELETE /v1/audits/forged HTTP/1.1\r\n{head}{forged}\r\n\r\n") == [404]
    with httpx2.Client(base_url=f"http://{address[0]}:{address[1]}", headers={"authorization": f"Bearer {admin}"}) as http:
        entries = http.get("/v1/audit-log?limit=100").json()["items"]
    mine = [entry for entry in entries if entry["key_id"] == read_id(admin)]
    assert len(mine) == 1
    assert len(mine[0]["client"]) <= 65
    assert admin.rpartition("_")[2] not in json.dumps(mine)
