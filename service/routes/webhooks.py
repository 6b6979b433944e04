"""Webhooks: what became of one, and what receivers check signatures with."""

from fastapi import Response

from schemas.errors import NotFound
from schemas.webhooks import Deliveries, WebhookSecret
from service.answers import answer_model
from service.deliveries import build_deliveries, find_secrets
from service.identity import Owner
from service.openapi import previews
from service.openapi.declare import answers, refuses
from service.polling import find_job
from service.presentation import AUDITS
from service.resources import Held
from service.routes.audits import AuditId
from service.routes.router import make_router

router = make_router("webhooks")


@router.get(
    AUDITS + "/{audit_id}/deliveries",
    responses=answers(200, "The attempts, oldest first.", Deliveries, previews.DELIVERIES) | refuses(NotFound),
)
async def get_deliveries(audit_id: AuditId, owner: Owner, held: Held) -> Response:
    """Tell what was done to tell the audit's webhook that it has ended."""
    record = await find_job(held.queue, audit_id, owner)
    return answer_model(build_deliveries(record, await held.queue.find_next_delivery(record.id)))


@router.get(
    "/v1/webhook-secret",
    responses=answers(200, "The secrets, the present one first.", WebhookSecret, previews.WEBHOOK_SECRET) | refuses(NotFound),
)
async def get_webhook_secret(owner: Owner, held: Held) -> Response:
    """Tell with which secret the webhooks of this tenant are signed."""
    return answer_model(find_secrets(held.settings, owner))
