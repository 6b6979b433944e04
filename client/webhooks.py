"""For receivers of webhooks: is this message of the service, and what does it say?

    from client.webhooks import read_webhook

    event = read_webhook(secret, request.headers, request.body)
    if event["type"] == "audit.succeeded":
        ...

The secret is that of `GET /v1/webhook-secret`. A message comes at least once: keep `webhook-id`, which is the same every time.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from schemas.signing import ID_HEADER, SIGNATURE_HEADER, TIME_HEADER, is_signed

TOLERANCE_S = 300.0


class NotOurs(Exception):
    """The message is not signed by the service, is too old, or comes from the future. Answer 400 and do nothing else."""


def read_webhook(
    secrets: str | Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    tolerance_s: float = TOLERANCE_S,
    read_clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Return the event that the message tells, once its signature and its age are checked.

    Args:
        secrets: the secret, or several while it is being changed.
        headers: those of the request, in any spelling.
        body: the bytes as they came; parse nothing before.
        tolerance_s: how old a message may be, and how far this machine's clock may be wrong.
        read_clock: the clock, in seconds since 1970.

    Returns:
        The event: `type`, `timestamp` and `data`.

    Raises:
        NotOurs: when the message must not be believed.

    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        id, timestamp, signatures = given[ID_HEADER], int(given[TIME_HEADER]), given[SIGNATURE_HEADER]
    except (KeyError, ValueError):
        message = f"the headers {ID_HEADER}, {TIME_HEADER} and {SIGNATURE_HEADER} are not all there"
        raise NotOurs(message) from None
    if abs(read_clock() - timestamp) > tolerance_s:
        message = f"the message was signed more than {tolerance_s:g} s from now"
        raise NotOurs(message)
    known = [secrets] if isinstance(secrets, str) else secrets
    if not any(is_signed(secret, id, timestamp, body, signatures) for secret in known):
        message = "the signature is not that of the message"
        raise NotOurs(message)
    event: dict[str, Any] = json.loads(body)
    return event
