"""Webhooks: where to tell that an audit has ended, what is told, and what became of it."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from schemas.base import Input, Output, UtcTime, check_unique
from schemas.references import Uri

End = Literal["succeeded", "failed", "cancelled", "quarantined"]
ENDS: tuple[End, ...] = ("succeeded", "failed", "cancelled", "quarantined")


def _check_web(uri: str) -> str:
    if not uri.startswith(("https:", "http:")):
        message = "a webhook is called by https:"
        raise ValueError(message)
    return uri


class Webhook(Input):
    """The URL to which the end of the audit is posted, signed. events: the ends that are told."""

    url: Annotated[Uri, AfterValidator(_check_web)]
    events: Annotated[tuple[End, ...], Field(min_length=1, max_length=len(ENDS)), AfterValidator(check_unique)] = ENDS


class Delivery(Output):
    """One attempt to tell the receiver: its status code, or why there was none."""

    attempt: int
    at: UtcTime
    status: int | None
    error: str | None
    seconds: float


class Deliveries(Output):
    """What was done to tell the end of an audit.

    url: without its query, which may hold a secret. state: none (the audit came without a webhook, or its end is none of the
    events), waiting (it has not ended), pending (to be tried at `next_at`), delivered, or given_up.
    """

    schema_version: Literal[1]
    url: str | None
    events: tuple[End, ...]
    state: Literal["none", "waiting", "pending", "delivered", "given_up"]
    next_at: UtcTime | None
    attempts: tuple[Delivery, ...]


class WebhookSecret(Output):
    """What a receiver checks signatures with; while the operator changes it, both the new and the old one are listed."""

    schema_version: Literal[1]
    secrets: tuple[str, ...]
