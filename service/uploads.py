"""Takes an artifact as it arrives: constant memory, digest checked, nothing left behind when it fails."""

import asyncio
from collections.abc import AsyncIterator

from schemas.artifact import Artifact
from storage.artifacts import ArtifactStore, Upload

BLOCK_BYTES = 1024 * 1024
ARTIFACTS = "/v1/artifacts"


async def receive_artifact(store: ArtifactStore, owner: str, sha256: str, chunks: AsyncIterator[bytes]) -> tuple[bool, int]:
    """Store what `chunks` yield as the owner's artifact `sha256`; return whether it is new, and its size."""
    existed = await asyncio.to_thread(store.path, owner, sha256) is not None
    upload = await asyncio.to_thread(store.begin, owner)
    try:
        size_bytes = await _write(upload, chunks)
        await asyncio.to_thread(upload.commit, sha256)
    except BaseException:  # a cancelled request must not leave its file either
        upload.abort()
        raise
    return not existed, size_bytes


async def _write(upload: Upload, chunks: AsyncIterator[bytes]) -> int:
    """Write in blocks: a hop to a thread for each 64 KiB that the socket gives would cost more than the write."""
    block, size_bytes = bytearray(), 0
    async for chunk in chunks:
        size_bytes += len(chunk)
        block += chunk
        if len(block) >= BLOCK_BYTES:
            await asyncio.to_thread(upload.write, bytes(block))
            block.clear()
    if block:
        await asyncio.to_thread(upload.write, bytes(block))
    return size_bytes


def describe_artifact(sha256: str, size_bytes: int) -> Artifact:
    """Return what a client needs to name the artifact."""
    return Artifact(sha256=sha256, size_bytes=size_bytes, uri=f"artifact:sha256:{sha256}", url=f"{ARTIFACTS}/{sha256}")
