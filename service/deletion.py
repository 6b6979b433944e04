"""Deletes jobs that have ended."""

import asyncio

from schemas.job import JobKind
from service.polling import find_job
from service.resources import Resources


async def delete_job(held: Resources, owner: str, job_id: str, kind: JobKind) -> None:
    """Delete what is kept of the owner's job of this kind.

    Raises:
        NotFound: if the owner has no such job.
        Conflict: if it has not ended.

    """
    await find_job(held.queue, job_id, owner, kind)
    await asyncio.to_thread(held.collector.remove_job, owner, job_id)
