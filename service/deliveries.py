"""What became of webhooks, and the secrets their receivers need."""

from datetime import datetime
from typing import Literal

from schemas.base import SCHEMA_VERSION
from schemas.errors import Fault, NotFound
from schemas.job import TERMINAL_STATES
from schemas.references import show_place
from schemas.webhooks import Deliveries, Delivery, WebhookSecret
from storage.outbox import read_webhook
from storage.records import JobRecord
from storage.sources.hooks import WebhookRules


def build_deliveries(record: JobRecord, next_at: datetime | None) -> Deliveries:
    """Return the log of a job's webhook. `next_at`: when the outbox has it next."""
    webhook = read_webhook(record)
    return Deliveries(
        schema_version=SCHEMA_VERSION,
        url=None if webhook is None else show_place(webhook.url),
        events=() if webhook is None else webhook.events,
        state=_find_state(record, next_at, has_webhook=webhook is not None),
        next_at=next_at,
        attempts=tuple(Delivery.model_validate_json(line) for line in record.deliveries),
    )


def _find_state(
    record: JobRecord, next_at: datetime | None, *, has_webhook: bool
) -> Literal["none", "waiting", "pending", "delivered", "given_up"]:
    if record.told == "delivered":
        return "delivered"
    if record.told == "given_up":
        return "given_up"
    if next_at is not None:
        return "pending"
    return "waiting" if has_webhook and record.state not in TERMINAL_STATES else "none"


def find_secrets(rules: WebhookRules, owner: str) -> WebhookSecret:
    """Return what receivers of the owner's webhooks check signatures with.

    Raises:
        NotFound: when webhooks are not enabled.

    """
    secrets = rules.list_webhook_secrets(owner)
    if not secrets:
        advice = "Ask the operator to set FAULTLINE_WEBHOOK_SECRET."
        raise NotFound(Fault("webhooks are not enabled here", "", "a service with a webhook secret", "none", advice))
    return WebhookSecret(schema_version=SCHEMA_VERSION, secrets=secrets)
