import pytest

from client.webhooks import NotOurs, read_webhook
from tests.schemas.test_signing import BODY, ID, SECRET, SIGNATURE, TIMESTAMP

HEADERS = {"Webhook-Id": ID, "WEBHOOK-TIMESTAMP": str(TIMESTAMP), "webhook-signature": SIGNATURE}


def read(
    headers: dict[str, str] = HEADERS, body: bytes = BODY, secrets: str | list[str] = SECRET, at: float = TIMESTAMP
) -> object:
    return read_webhook(secrets, headers, body, read_clock=lambda: at)


def test_a_signed_message_is_read() -> None:
    assert read() == {"event_type": "ping", "data": {"success": True}}
    assert read(secrets=["whsec_" + "A" * 32, SECRET]) == read(at=TIMESTAMP + 299)


@pytest.mark.parametrize("missing", HEADERS)
def test_a_message_without_its_headers_is_not_ours(missing: str) -> None:
    with pytest.raises(NotOurs):
        read({name: value for name, value in HEADERS.items() if name != missing})


@pytest.mark.parametrize("at", [TIMESTAMP + 301, TIMESTAMP - 301])
def test_an_old_or_early_message_is_not_ours(at: float) -> None:
    with pytest.raises(NotOurs, match="300 s"):
        read(at=at)


def test_a_changed_message_is_not_ours() -> None:
    with pytest.raises(NotOurs, match="signature"):
        read(body=BODY.replace(b"true", b"false"))
    with pytest.raises(NotOurs, match="signature"):
        read(secrets="whsec_" + "A" * 32)
    with pytest.raises(NotOurs, match="not all there"):
        read({**HEADERS, "WEBHOOK-TIMESTAMP": "soon"})
    with pytest.raises(NotOurs):
        read({**HEADERS, "WEBHOOK-TIMESTAMP": str(TIMESTAMP + 1)})
