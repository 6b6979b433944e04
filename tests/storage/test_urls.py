"""One address, two spellings: redis-py and kombu end up at the same database, and certificates are checked by both."""

import ssl
from typing import Any

import pytest
import redis
from kombu.connection import Connection
from kombu.transport.redis import Channel

from schemas.errors import InvalidRequest
from storage.urls import check_redis_url, hide_password, make_broker_url

ADDRESSES = [
    "redis://example.org",
    "redis://example.org:6390/3",
    "redis://example.org:6390/3?socket_timeout=4",
    "redis://user:p%40ss%2F@example.org:6390/3",
    "redis://:p%40ss@example.org?db=5",
    "redis://[::1]:6390/1",
    "rediss://:secret@example.org:6390/1",
    "unix:///run/store.sock",
    "unix:///run/with%20space/store.sock?db=2",
    "unix://user:p%40ss@/run/store.sock?db=2",
]


def read_as_redis(url: str) -> dict[str, Any]:
    found: dict[str, Any] = redis.ConnectionPool.from_url(url).connection_kwargs
    return {"host": "localhost", "port": 6379, "db": 0} | found


def read_as_kombu(url: str) -> dict[str, Any]:
    """What the transport would connect with, without connecting."""
    channel = Channel.__new__(Channel)
    channel._registered = False
    channel.connection = type("Transport", (), {"client": Connection(url), "default_port": 6379})()
    found: dict[str, Any] = channel._connparams()
    return found


@pytest.mark.parametrize("url", ADDRESSES)
def test_both_libraries_reach_the_same_database_as_the_same_user(url: str) -> None:
    ours, theirs = read_as_redis(url), read_as_kombu(make_broker_url(url))
    where = ("path",) if url.startswith("unix") else ("host", "port")
    for name in (*where, "db", "username", "password"):
        assert theirs.get(name) == ours.get(name), name


def test_a_broker_address_stays_as_it_is() -> None:
    for url in ADDRESSES:
        assert make_broker_url(make_broker_url(url)) == make_broker_url(url)


@pytest.mark.parametrize(
    ("query", "expected"),
    [("", ssl.CERT_REQUIRED), ("?ssl_cert_reqs=required", ssl.CERT_REQUIRED), ("?ssl_cert_reqs=none", ssl.CERT_NONE)],
)
def test_certificates_are_checked_unless_the_operator_says_otherwise(query: str, expected: ssl.VerifyMode) -> None:
    found = read_as_kombu(make_broker_url(f"rediss://example.org/0{query}"))
    assert found["connection_class"] is redis.SSLConnection
    assert found["ssl_cert_reqs"] == expected


def test_certificate_files_are_passed_on() -> None:
    found = read_as_kombu(make_broker_url("rediss://example.org/0?ssl_ca_certs=%2Fetc%2Fca.pem&socket_timeout=3"))
    assert found["ssl_ca_certs"] == "/etc/ca.pem"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org:6379",
        "amqp://example.org",
        "unix://",
        "unix://relative/path/without/root"[:7],
        "redis://example.org/zero",
    ],
)
def test_an_address_that_cannot_be_one_is_refused_by_name(url: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_redis_url(url)
    assert {fault.where for fault in raised.value.faults} == {"REDIS_URL"}


@pytest.mark.parametrize("url", ADDRESSES)
def test_a_shown_address_has_no_password(url: str) -> None:
    assert not any(word in hide_password(url) for word in ("p%40ss", "p@ss", "secret"))
