"""Takes an artifact as it arrives: constant memory, digest checked, nothing left behind when it fails."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request

from schemas.artifact import Artifact
from schemas.errors import QuotaExceeded
from service.bodies import leave_rest, read_bounded
from service.resources import Resources

BLOCK_BYTES = 1024 * 1024
BLOCK_CHUNKS = 1024
ARTIFACTS = "/v1/artifacts"


async def receive_artifact(held: Resources, owner: str, sha256: str, request: Request) -> tuple[Artifact, bool]:
    """Store the body as the owner's artifact `sha256`; return it and whether it is new."""
    existed = await asyncio.to_thread(held.artifacts.path, owner, sha256) is not None
    if not existed:
        await _check_announced(held, owner, request)
    with await asyncio.to_thread(held.artifacts.begin, owner) as upload:
        await write_blocks(upload.write, read_bounded(request, held.settings.max_upload_bytes))
        # Its bytes are reserved while they get their name, so that two files that fit singly are not both let in.
        is_counted = held.quota.is_limited and not existed
        reserved = await asyncio.to_thread(held.quota.begin, owner, upload.size_bytes, sha256) if is_counted else None
        try:
            await run_to_its_end(upload.commit, sha256)
        finally:
            if reserved is not None:
                await run_to_its_end(held.uploads.abandon, owner, reserved.id)
        artifact = show_artifact(sha256, upload.size_bytes)
    return artifact, not existed


async def _check_announced(held: Resources, owner: str, request: Request) -> None:
    """Refuse what does not fit before it is sent, where its size is told."""
    announced = request.headers.get("content-length")
    try:
        if announced is not None:
            await asyncio.to_thread(held.quota.check, owner, int(announced))
    except QuotaExceeded:
        await leave_rest(request)
        raise


def show_artifact(sha256: str, size_bytes: int) -> Artifact:
    """Return what the API says of an artifact."""
    return Artifact(sha256=sha256, size_bytes=size_bytes, uri=f"artifact:sha256:{sha256}", url=f"{ARTIFACTS}/{sha256}")


async def write_blocks(write: Callable[[bytes], object], chunks: AsyncIterator[bytes]) -> None:
    """Write in blocks: a hop to a thread for each 64 KiB that the socket gives would cost more than the write."""
    block: list[bytes] = []
    size = 0
    try:
        async for chunk in chunks:
            block.append(chunk)
            size += len(chunk)
            if size >= BLOCK_BYTES or len(block) >= BLOCK_CHUNKS:
                await run_to_its_end(write, b"".join(block))
                block.clear()
                size = 0
    except ClientDisconnect:  # what came is written all the same: an upload may be resumed
        await run_to_its_end(write, b"".join(block))
        raise
    if block:
        await run_to_its_end(write, b"".join(block))


async def run_to_its_end(function: Callable[..., Any], *arguments: object) -> None:
    """Run `function` in a thread and, when this request is cancelled, wait for the thread all the same."""
    # An abort while the thread still writes would close the file under it, and its descriptor may be another's by then.
    task = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
