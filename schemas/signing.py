"""Signatures of webhooks, as Standard Webhooks has them: HMAC-SHA256 over id, timestamp and body. Standard library only."""

import base64
import binascii
import hashlib
import hmac

PREFIX = "whsec_"
SCHEME = "v1,"
LEAST_SECRET_BYTES = 16
ID_HEADER, TIME_HEADER, SIGNATURE_HEADER = "webhook-id", "webhook-timestamp", "webhook-signature"


def read_secret(text: str) -> bytes:
    """Return the key in a secret such as `whsec_MfKQ...`; ValueError when it is none or too short to be one."""
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(PREFIX) or len(key) < LEAST_SECRET_BYTES:
        message = f"a secret of webhooks is {PREFIX} and at least {LEAST_SECRET_BYTES} random bytes in base64"
        raise ValueError(message)
    return key


def derive_secret(operators: str, tenant: str) -> str:
    """Return a tenant's own secret: who knows it can sign as this service for this tenant only."""
    key = hmac.digest(read_secret(operators), b"faultline webhook\0" + tenant.encode(), hashlib.sha256)
    return PREFIX + base64.b64encode(key).decode()


def sign(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """Return the signature of one message.

    >>> sign("whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3", "an-id", 1700000000, b"{}")[:3]
    'v1,'
    """
    mac = hmac.digest(read_secret(secret), f"{id}.{timestamp}.".encode() + body, hashlib.sha256)
    return SCHEME + base64.b64encode(mac).decode()


def is_signed(secret: str, id: str, timestamp: int, body: bytes, signatures: str) -> bool:
    """Tell whether one of the signatures, which are separated by spaces, is that of the message; in constant time for each."""
    expected = sign(secret, id, timestamp, body).encode()
    return any(hmac.compare_digest(expected, given.encode()) for given in signatures.split(" "))
