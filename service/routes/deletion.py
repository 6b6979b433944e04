"""Deletes what is stored: artifacts that nobody needs, and jobs that have ended with all that is kept of them."""

import asyncio

from fastapi import Response

from schemas.errors import Conflict, InvalidRequest, NotFound
from service.deletion import delete_job
from service.identity import Owner
from service.openapi.declare import answers_nothing, refuses
from service.presentation import AUDITS, INSPECTIONS, PLANS
from service.resources import Held
from service.routes.artifacts import Sha256
from service.routes.audits import AuditId
from service.routes.plans import JobId
from service.routes.router import make_router
from service.uploads import ARTIFACTS

router = make_router("deletion")
GONE = answers_nothing(204, "It is gone from the disk.")


@router.delete(ARTIFACTS + "/{sha256}", status_code=204, responses=GONE | refuses(NotFound, Conflict, InvalidRequest))
async def delete_artifact(sha256: Sha256, owner: Owner, held: Held) -> Response:
    """Delete a stored file, unless an audit that has not ended or a kept report needs it."""
    await asyncio.to_thread(held.collector.remove_artifact, owner, sha256)
    return Response(status_code=204)


@router.delete(AUDITS + "/{audit_id}/report", status_code=204, responses=GONE | refuses(NotFound, Conflict))
async def delete_report(audit_id: AuditId, owner: Owner, held: Held) -> Response:
    """Delete what is kept of an audit that has ended: its record, its report and the report's counterexamples."""
    await delete_job(held, owner, audit_id, "audit")
    return Response(status_code=204)


@router.delete(PLANS + "/{job_id}", status_code=204, responses=GONE | refuses(NotFound, Conflict))
async def delete_plan(job_id: JobId, owner: Owner, held: Held) -> Response:
    """Delete a plan that is made."""
    await delete_job(held, owner, job_id, "plan")
    return Response(status_code=204)


@router.delete(INSPECTIONS + "/{job_id}", status_code=204, responses=GONE | refuses(NotFound, Conflict))
async def delete_inspection(job_id: JobId, owner: Owner, held: Held) -> Response:
    """Delete an inspection that is made."""
    await delete_job(held, owner, job_id, "inspection")
    return Response(status_code=204)
