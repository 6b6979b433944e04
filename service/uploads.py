"""Takes an artifact as it arrives: constant memory, digest checked, nothing left behind when it fails."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import ClientDisconnect

from schemas.artifact import Artifact
from storage.artifacts import ArtifactStore

BLOCK_BYTES = 1024 * 1024
BLOCK_CHUNKS = 1024
ARTIFACTS = "/v1/artifacts"


async def receive_artifact(store: ArtifactStore, owner: str, sha256: str, chunks: AsyncIterator[bytes]) -> tuple[Artifact, bool]:
    """Store what `chunks` yield as the owner's artifact `sha256`; return it and whether it is new."""
    existed = await asyncio.to_thread(store.path, owner, sha256) is not None
    with await asyncio.to_thread(store.begin, owner) as upload:
        await write_blocks(upload.write, chunks)
        await run_to_its_end(upload.commit, sha256)
        artifact = show_artifact(sha256, upload.size_bytes)
    return artifact, not existed


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
